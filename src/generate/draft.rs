//! An event while it is made up: its properties in order, with their values as JSON text.

use crate::time::{SECOND, civil_from_days};

/// A flat JSON object under construction. Texts are ASCII without quotes and backslashes, so nothing is escaped.
#[derive(Default)]
pub(super) struct Draft {
    names: Vec<&'static str>,
    ends: Vec<usize>,
    values: Vec<u8>,
    /// The second that was written last, and its text: most events share it with the one before.
    second: Option<(i64, [u8; 19])>,
}

impl Draft {
    pub fn clear(&mut self) {
        self.names.clear();
        self.ends.clear();
        self.values.clear();
    }

    fn close(&mut self, name: &'static str) {
        self.names.push(name);
        self.ends.push(self.values.len());
    }

    pub fn text(&mut self, name: &'static str, value: &str) {
        self.text_of(name, &[value]);
    }

    /// A text made of pieces.
    pub fn text_of(&mut self, name: &'static str, pieces: &[&str]) {
        self.values.push(b'"');
        for piece in pieces {
            self.values.extend_from_slice(piece.as_bytes());
        }
        self.values.push(b'"');
        self.close(name);
    }

    /// A value as JSON text.
    pub fn json(&mut self, name: &'static str, value: &str) {
        self.values.extend_from_slice(value.as_bytes());
        self.close(name);
    }

    pub fn number(&mut self, name: &'static str, value: u64) {
        digits(&mut self.values, value, 1);
        self.close(name);
    }

    /// A text of pieces and a number with at least `width` digits.
    pub fn numbered(&mut self, name: &'static str, pieces: &[&str], number: u64, width: usize) {
        self.values.push(b'"');
        for piece in pieces {
            self.values.extend_from_slice(piece.as_bytes());
        }
        digits(&mut self.values, number, width);
        self.values.push(b'"');
        self.close(name);
    }

    /// An amount of money, given in hundredths.
    pub fn money(&mut self, name: &'static str, cents: u64) {
        digits(&mut self.values, cents / 100, 1);
        self.values.push(b'.');
        digits(&mut self.values, cents % 100, 2);
        self.close(name);
    }

    pub fn ipv4(&mut self, name: &'static str, address: [u8; 4]) {
        self.values.push(b'"');
        for (i, byte) in address.into_iter().enumerate() {
            if i > 0 {
                self.values.push(b'.');
            }
            digits(&mut self.values, u64::from(byte), 1);
        }
        self.values.push(b'"');
        self.close(name);
    }

    /// A random UUID (RFC 9562, version 4).
    pub fn uuid(&mut self, name: &'static str, random: u128) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let fixed = 0xf000_u128 << 64 | 0xc000_u128 << 48;
        let bits = (random & !fixed) | 0x4000_u128 << 64 | 0x8000_u128 << 48;
        self.values.push(b'"');
        for (i, byte) in bits.to_be_bytes().into_iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                self.values.push(b'-');
            }
            self.values.push(HEX[usize::from(byte >> 4)]);
            self.values.push(HEX[usize::from(byte & 15)]);
        }
        self.values.push(b'"');
        self.close(name);
    }

    /// Sets a moment in RFC 3339 with microseconds; takes the place of a property of this name.
    pub fn time(&mut self, name: &'static str, micros: i64) {
        let second = micros.div_euclid(SECOND);
        let text = match self.second {
            Some((known, text)) if known == second => text,
            _ => {
                let text = second_text(second);
                self.second = Some((second, text));
                text
            }
        };
        let mut value = [b'0'; 29];
        value[0] = b'"';
        value[1..20].copy_from_slice(&text);
        value[20] = b'.';
        let mut rest = micros.rem_euclid(SECOND);
        for digit in value[21..27].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        value[27] = b'Z';
        value[28] = b'"';
        if self.names.contains(&name) {
            self.replace(name, &value);
        } else {
            self.values.extend_from_slice(&value);
            self.close(name);
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// The JSON text of a property.
    pub fn value(&self, name: &str) -> Option<&[u8]> {
        let i = self.names.iter().position(|n| *n == name)?;
        Some(&self.values[self.begin(i)..self.ends[i]])
    }

    fn begin(&self, i: usize) -> usize {
        if i == 0 { 0 } else { self.ends[i - 1] }
    }

    /// Gives a property that is there another value.
    pub fn replace(&mut self, name: &str, value: &[u8]) {
        let Some(i) = self.names.iter().position(|n| *n == name) else { return };
        let range = self.begin(i)..self.ends[i];
        let (old, new) = (range.len(), value.len());
        self.values.splice(range, value.iter().copied());
        for end in &mut self.ends[i..] {
            *end = *end - old + new;
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.replace(name, &[]);
        if let Some(i) = self.names.iter().position(|n| *n == name) {
            self.names.remove(i);
            self.ends.remove(i);
        }
    }

    /// Writes the event as one line of JSON.
    pub fn render(&self, out: &mut Vec<u8>) {
        out.clear();
        let mut begin = 0;
        for (i, (name, &end)) in self.names.iter().zip(&self.ends).enumerate() {
            out.extend_from_slice(if i == 0 { b"{\"" } else { b",\"" });
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(&self.values[begin..end]);
            begin = end;
        }
        out.push(b'}');
    }
}

/// Appends a number with at least `width` digits.
fn digits(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut text = [b'0'; 20];
    let mut begin = text.len();
    while number > 0 {
        begin -= 1;
        text[begin] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&text[begin.min(text.len() - width)..]);
}

fn second_text(second: i64) -> [u8; 19] {
    let (year, month, day) = civil_from_days(second.div_euclid(86_400));
    let of_day = second.rem_euclid(86_400);
    let mut out = *b"0000-00-00T00:00:00";
    let mut put = |at: usize, width: usize, mut n: u64| {
        for place in out[at..at + width].iter_mut().rev() {
            *place = b'0' + (n % 10) as u8;
            n /= 10;
        }
    };
    put(0, 4, year as u64);
    put(5, 2, u64::from(month));
    put(8, 2, u64::from(day));
    put(11, 2, (of_day / 3_600) as u64);
    put(14, 2, (of_day / 60 % 60) as u64);
    put(17, 2, (of_day % 60) as u64);
    out
}

/// A moment in RFC 3339 with microseconds.
pub(super) fn rfc3339(micros: i64) -> String {
    let mut draft = Draft::default();
    draft.time("t", micros);
    String::from_utf8_lossy(draft.value("t").unwrap_or_default()).trim_matches('"').to_owned()
}
