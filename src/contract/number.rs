//! Numbers as decimals, exact from their JSON text: nothing is rounded unless a column asks for a binary float.

use std::cmp::Ordering;

/// A number read from JSON text: `0.d1 d2 d3 … × 10^point`, d1 and the last digit not zero; zero has no digits.
#[derive(Debug, Clone, Copy)]
pub struct Decimal<'a> {
    negative: bool,
    int: &'a [u8],
    frac: &'a [u8],
    /// How many leading digits of `int` and `frac` together are zeros.
    lead: usize,
    len: usize,
    point: i64,
}

impl<'a> Decimal<'a> {
    /// Reads the text of a JSON number (which the scanner has found correct).
    pub fn parse(text: &'a [u8]) -> Self {
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&text[..at], parse_exponent(&text[at + 1..])),
            None => (text, 0),
        };
        let (int, frac) = match mantissa.iter().position(|b| *b == b'.') {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &mantissa[..0]),
        };
        let total = int.len() + frac.len();
        let mut lead = int.iter().take_while(|b| **b == b'0').count();
        if lead == int.len() {
            lead += frac.iter().take_while(|b| **b == b'0').count();
        }
        let mut trail = frac.iter().rev().take_while(|b| **b == b'0').count();
        if trail == frac.len() {
            trail += int.iter().rev().take_while(|b| **b == b'0').count();
        }
        if lead >= total {
            return Self { negative: false, int, frac, lead: 0, len: 0, point: 0 };
        }
        Self { negative, int, frac, lead, len: total - lead - trail, point: int.len() as i64 - lead as i64 + exponent }
    }

    #[inline]
    fn digit(&self, i: usize) -> u8 {
        let at = self.lead + i;
        let byte = if at < self.int.len() { self.int[at] } else { self.frac[at - self.int.len()] };
        byte - b'0'
    }

    /// Whether the value is a whole number, however it is written (1.0, 1e3).
    pub fn is_integer(&self) -> bool {
        self.len as i64 <= self.point || self.len == 0
    }

    /// value × 10^shift, when that is a whole number of at most 38 digits.
    fn scaled(&self, shift: i64) -> Option<i128> {
        if self.len == 0 {
            return Some(0);
        }
        let digits = self.point.checked_add(shift)?;
        if digits > 38 || (self.len as i64) > digits {
            return None;
        }
        let mut value = 0i128;
        for i in 0..digits as usize {
            value = value * 10 + i128::from(if i < self.len { self.digit(i) } else { 0 });
        }
        Some(if self.negative { -value } else { value })
    }

    /// The value as a 64-bit integer.
    pub fn to_i64(&self) -> Option<i64> {
        self.scaled(0)?.try_into().ok()
    }

    /// The value as a decimal column holds it.
    pub fn to_decimal(&self, precision: u8, scale: u8) -> Option<i128> {
        let value = self.scaled(i64::from(scale))?;
        (value.unsigned_abs() < 10u128.pow(u32::from(precision))).then_some(value)
    }

    /// value × 10^shift rounded down, when it fits 64 bits.
    pub fn floor_scaled(&self, shift: i64) -> Option<i64> {
        if self.len == 0 {
            return Some(0);
        }
        let digits = self.point.saturating_add(shift);
        if digits > 38 {
            return None;
        }
        let digits = digits.max(0) as usize;
        let mut value = 0i128;
        for i in 0..digits {
            value = value * 10 + i128::from(if i < self.len { self.digit(i) } else { 0 });
        }
        let exact = self.len <= digits;
        let value = match (self.negative, exact) {
            (false, _) => value,
            (true, true) => -value,
            (true, false) => -value - 1,
        };
        value.try_into().ok()
    }

    /// One text for each value: the same for 1, 1.0 and 1e0.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        if self.negative {
            out.push('-');
        }
        let digits = |out: &mut String, from: usize, to: usize| {
            for i in from..to {
                out.push(char::from(b'0' + if i < self.len { self.digit(i) } else { 0 }));
            }
        };
        if self.len == 0 {
            out.push('0');
        } else if self.is_integer() && self.point <= 40 {
            digits(&mut out, 0, self.point as usize);
        } else if self.point > 0 && self.point <= 40 {
            digits(&mut out, 0, self.point as usize);
            out.push('.');
            digits(&mut out, self.point as usize, self.len);
        } else if self.point <= 0 && self.point > -20 {
            out.push_str("0.");
            (0..-self.point).for_each(|_| out.push('0'));
            digits(&mut out, 0, self.len);
        } else {
            digits(&mut out, 0, 1);
            if self.len > 1 {
                out.push('.');
                digits(&mut out, 1, self.len);
            }
            out.push('e');
            out.push_str(&(self.point - 1).to_string());
        }
        out
    }

    /// Whether this is a whole multiple of `of`, which is above zero; exact. None when `of` has more digits than 64
    /// bits hold.
    pub fn is_multiple_of(&self, of: &Decimal<'_>) -> Option<bool> {
        let divisor = of.mantissa()?;
        if divisor == 0 {
            return Some(false);
        }
        if self.len == 0 {
            return Some(true);
        }
        // self = a × 10^x and of = b × 10^y, neither a nor b ending in a zero.
        let x = self.point - self.len as i64;
        let y = of.point - of.len as i64;
        if x < y {
            // a would have to be divisible by ten.
            return Some(false);
        }
        let b = u128::from(divisor);
        let mut rest = 0u128;
        for i in 0..self.len {
            rest = (rest * 10 + u128::from(self.digit(i))) % b;
        }
        Some((rest * power_of_ten_mod(x.abs_diff(y), b)).is_multiple_of(b))
    }

    /// Whether [`Decimal::is_multiple_of`] can take this as a divisor.
    pub fn mantissa(&self) -> Option<u64> {
        (0..self.len).try_fold(0u64, |value, i| value.checked_mul(10)?.checked_add(u64::from(self.digit(i))))
    }
}

fn power_of_ten_mod(mut exponent: u64, modulus: u128) -> u128 {
    let mut base = 10 % modulus;
    let mut result = 1 % modulus;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % modulus;
        }
        base = base * base % modulus;
        exponent >>= 1;
    }
    result
}

/// Reads an exponent; far beyond anything real it stays where it is, so that sums with lengths cannot overflow.
fn parse_exponent(text: &[u8]) -> i64 {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let value = digits.iter().fold(0i64, |value, b| (value * 10 + i64::from(b - b'0')).min(100_000_000_000_000_000));
    if negative { -value } else { value }
}

impl PartialEq for Decimal<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal<'_> {}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |d: &Self| {
            if d.len == 0 {
                0
            } else if d.negative {
                -1
            } else {
                1
            }
        };
        match sign(self).cmp(&sign(other)) {
            Ordering::Equal => {}
            unequal => return unequal,
        }
        let size = if self.len == 0 {
            Ordering::Equal
        } else {
            self.point.cmp(&other.point).then_with(|| {
                let common = self.len.min(other.len);
                (0..common)
                    .map(|i| self.digit(i).cmp(&other.digit(i)))
                    .find(|o| o.is_ne())
                    .unwrap_or(self.len.cmp(&other.len))
            })
        };
        if self.negative { size.reverse() } else { size }
    }
}

/// The number as a binary float, rounded to the nearest; none beyond its range.
pub fn to_f64(text: &[u8]) -> Option<f64> {
    fast_float2::parse::<f64, _>(text).ok().filter(|v| v.is_finite())
}

/// A plain integer of at most 18 digits; none for anything longer or written otherwise.
#[inline]
pub fn small_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut value = 0i64;
    for &b in digits {
        let digit = b.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + i64::from(digit);
    }
    Some(if negative { -value } else { value })
}

/// A number of at most 18 digits without an exponent, as its digits and how many of them stand after the point.
#[inline]
pub fn small_decimal(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    if rest.len() > 18 {
        return None;
    }
    let (mut value, mut scale, mut after) = (0i64, 0, 0);
    for &b in rest {
        match b.wrapping_sub(b'0') {
            digit @ 0..=9 => {
                value = value * 10 + i64::from(digit);
                scale += after;
            }
            _ if b == b'.' => after = 1,
            _ => return None,
        }
    }
    Some((if negative { -value } else { value }, scale))
}

/// 10^n, for n up to 38.
#[inline]
pub fn power_of_ten(n: u32) -> i128 {
    const POWERS: [i128; 39] = {
        let mut powers = [1i128; 39];
        let mut n = 1;
        while n < 39 {
            powers[n] = powers[n - 1] * 10;
            n += 1;
        }
        powers
    };
    POWERS[n as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn d(text: &str) -> Decimal<'_> {
        Decimal::parse(text.as_bytes())
    }

    #[test]
    fn equal_values_are_equal_however_written() {
        for group in
            [&["1", "1.0", "1e0", "10e-1", "0.1e1"][..], &["0", "-0", "0.0", "0e99"], &["-1500", "-1.5e3", "-1500.000"]]
        {
            for a in group {
                for b in group {
                    assert_eq!(d(a), d(b), "{a} {b}");
                    assert_eq!(d(a).canonical(), d(b).canonical());
                }
            }
        }
        assert!(d("1e400") > d("1e399") && d("-1e400") < d("1e-400") && d("0.1") < d("0.10000000000000000000001"));
        assert!(d("1e99999999999999999999") > d("1"));
    }

    #[test]
    fn whole_numbers_are_integers() {
        for yes in ["1", "1.0", "1e3", "12.50e2", "0.0", "1e400"] {
            assert!(d(yes).is_integer(), "{yes}");
        }
        for no in ["1.5", "1e-1", "12.505e2"] {
            assert!(!d(no).is_integer(), "{no}");
        }
        assert_eq!(d("9223372036854775807").to_i64(), Some(i64::MAX));
        assert_eq!(d("-9223372036854775808.0").to_i64(), Some(i64::MIN));
        assert_eq!(d("9223372036854775808").to_i64(), None);
        assert_eq!(d("1e18").to_i64(), Some(1_000_000_000_000_000_000));
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(d("12.50").to_decimal(12, 2), Some(1250));
        assert_eq!(d("12.500").to_decimal(12, 1), Some(125));
        assert_eq!(d("12.505").to_decimal(12, 2), None);
        assert_eq!(d("99.99").to_decimal(4, 2), Some(9999));
        assert_eq!(d("100").to_decimal(4, 2), None);
        assert_eq!(d("-0.01").to_decimal(4, 2), Some(-1));
        assert_eq!(d(&"9".repeat(38)).to_decimal(38, 0), Some(10i128.pow(38) - 1));
    }

    #[test]
    fn multiples_are_exact() {
        for (a, b, yes) in [
            ("4.35", "0.01", true),
            ("4.355", "0.01", false),
            ("1e308", "0.123456789", false),
            ("1e300", "3", false),
            ("9e300", "3", true),
            ("12391239123", "0.00000001", true),
            ("0.0075", "0.0001", true),
            ("0.00751", "0.0001", false),
            ("135107988821114880000000000001", "3", false),
            ("0", "7", true),
            ("5", "10", false),
            ("50", "10", true),
        ] {
            assert_eq!(d(a).is_multiple_of(&d(b)), Some(yes), "{a} of {b}");
        }
    }

    #[test]
    fn floors() {
        assert_eq!(d("1700000000.1234567").floor_scaled(6), Some(1_700_000_000_123_456));
        assert_eq!(d("-0.0000001").floor_scaled(6), Some(-1));
        assert_eq!(d("-1.5").floor_scaled(0), Some(-2));
        assert_eq!(d("1e30").floor_scaled(0), None);
        assert_eq!(d("1e-30").floor_scaled(6), Some(0));
    }

    proptest! {
        #[test]
        fn ordering_is_that_of_integers(a in any::<i64>(), b in any::<i64>(), shift in 0usize..5) {
            let zeros = "0".repeat(shift);
            let left = format!("{a}{zeros}e-{shift}");
            let right = format!("{b}.{zeros}");
            let right = if shift == 0 { b.to_string() } else { right };
            prop_assert_eq!(d(&left).cmp(&d(&right)), a.cmp(&b));
            prop_assert_eq!(d(&left).to_i64(), Some(a));
            if b > 0 {
                prop_assert_eq!(d(&left).is_multiple_of(&d(&right)), Some(a % b == 0));
            }
        }
    }
}
