//! `_extra`: the properties that no schema declares, of every depth, as one JSON object that mirrors the event. What
//! stands inside an array keeps its index; the items before it are null.

/// Collects the unknown properties of one event at a time.
#[derive(Debug, Default)]
pub struct Extra {
    out: Vec<u8>,
    frames: Vec<Frame>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    object: bool,
    /// The key in its parent (quotes and all) as a place in the text, or the index.
    place: (u32, u32),
    /// How many entries have been written; none while it is not opened.
    written: Option<u32>,
}

impl Extra {
    /// Begins a new event.
    pub fn begin(&mut self) {
        self.out.clear();
        self.frames.clear();
        self.frames.push(Frame { object: true, place: (0, 0), written: None });
    }

    /// Goes into the object or array that is the property with this key (a place in the text, quotes and all).
    pub fn enter_property(&mut self, object: bool, key: (u32, u32)) {
        self.frames.push(Frame { object, place: key, written: None });
    }

    /// Goes into the object or array that is this item of the array around it.
    pub fn enter_item(&mut self, object: bool, index: u32) {
        self.frames.push(Frame { object, place: (index, 0), written: None });
    }

    /// Leaves what was entered last.
    pub fn leave(&mut self) {
        if let Some(frame) = self.frames.pop()
            && frame.written.is_some()
        {
            self.out.push(if frame.object { b'}' } else { b']' });
        }
    }

    /// Writes an unknown property of the object that was entered last: its key with quotes, then what `value` appends.
    pub fn property(&mut self, text: &[u8], key: (u32, u32), value: impl FnOnce(&mut Vec<u8>)) {
        let first = self.frames.iter().position(|f| f.written.is_none()).unwrap_or(self.frames.len());
        for at in first..self.frames.len() {
            self.open(text, at);
        }
        let top = self.frames.len() - 1;
        self.separate(top);
        self.out.extend_from_slice(&text[key.0 as usize..key.1 as usize]);
        self.out.push(b':');
        value(&mut self.out);
    }

    fn open(&mut self, text: &[u8], at: usize) {
        let frame = self.frames[at];
        if let Some(parent) = at.checked_sub(1) {
            if self.frames[parent].object {
                self.separate(parent);
                self.out.extend_from_slice(&text[frame.place.0 as usize..frame.place.1 as usize]);
                self.out.push(b':');
            } else {
                while self.frames[parent].written.unwrap_or(0) < frame.place.0 {
                    self.separate(parent);
                    self.out.extend_from_slice(b"null");
                }
                self.separate(parent);
            }
        }
        self.out.push(if frame.object { b'{' } else { b'[' });
        self.frames[at].written = Some(0);
    }

    fn separate(&mut self, at: usize) {
        let written = self.frames[at].written.unwrap_or(0);
        if written > 0 {
            self.out.push(b',');
        }
        self.frames[at].written = Some(written + 1);
    }

    /// Ends the event; its unknown properties, when it has any.
    pub fn end(&mut self) -> Option<&[u8]> {
        while !self.frames.is_empty() {
            self.leave();
        }
        (!self.out.is_empty()).then_some(&self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_properties_keep_their_place() {
        let text = br#""a""b""c""d""#;
        let (a, b, c, d) = ((0, 3), (3, 6), (6, 9), (9, 12));
        let mut extra = Extra::default();
        for _ in 0..2 {
            extra.begin();
            extra.enter_property(true, a);
            extra.leave();
            extra.enter_property(false, b);
            extra.enter_item(true, 0);
            extra.leave();
            extra.enter_item(true, 2);
            extra.property(text, c, |out| out.push(b'1'));
            extra.property(text, d, |out| out.push(b'2'));
            extra.leave();
            extra.leave();
            extra.property(text, d, |out| out.extend_from_slice(b"[]"));
            let out = extra.end().map(<[u8]>::to_vec).unwrap();
            assert_eq!(String::from_utf8(out).unwrap(), r#"{"b":[null,null,{"c":1,"d":2}],"d":[]}"#);
        }
        extra.begin();
        extra.enter_property(true, a);
        assert_eq!(extra.end(), None);
    }
}
