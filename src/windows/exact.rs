//! Sums that do not depend on the order of what is summed: integers wider than their inputs, and floating point kept
//! exact and rounded once, at the end.

use arrow::datatypes::i256;

use crate::error::{Error, Result};

/// A sum of 128-bit integers that cannot overflow: `low + high * 2^128`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WideSum {
    low: i128,
    high: i64,
}

impl WideSum {
    /// Adds a number.
    pub fn add(&mut self, value: i128) {
        let (sum, overflow) = self.low.overflowing_add(value);
        self.low = sum;
        if overflow {
            self.high += if value < 0 { -1 } else { 1 };
        }
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.high += other.high;
        self.add(other.low);
    }

    /// The sum, when 128 bits hold it.
    pub fn narrow(&self) -> Option<i128> {
        (self.high == 0).then_some(self.low)
    }

    /// The sum in 256 bits.
    pub fn wide(&self) -> i256 {
        i256::from_parts(self.low as u128, i128::from(self.high) - i128::from(self.low < 0))
    }

    /// A sum that was saved.
    pub fn from_wide(value: i256) -> Option<Self> {
        let (low, high) = value.to_parts();
        let low = low as i128;
        let high = i64::try_from(high + i128::from(low < 0)).ok()?;
        Some(Self { low, high })
    }
}

/// Limbs of 64 bits that hold any sum of up to 2^64 numbers in units of 2^-1074: 1074 + 1024 + 64 bits and a sign.
const LIMBS: usize = 34;
/// The exponent of the smallest positive number.
const LOWEST: i32 = -1074;

const NAN: u8 = 1;
const POSITIVE_INFINITY: u8 = 2;
const NEGATIVE_INFINITY: u8 = 4;

/// The exact sum of floating-point numbers.
///
/// Most sums fit into 128 bits at the exponent of their finest summand; those that do not go into a fixed-point number as
/// wide as all of binary64 (Kulisch's accumulator). Either way nothing is rounded before [`FloatSum::value`].
#[derive(Debug, Clone, Default)]
pub struct FloatSum {
    /// The sum is `units * 2^exponent`, unless it is in `wide`.
    units: i128,
    exponent: i16,
    specials: u8,
    wide: Option<Box<[u64; LIMBS]>>,
}

impl FloatSum {
    /// Adds a number.
    pub fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let fraction = bits & ((1 << 52) - 1);
        let (mut mantissa, mut exponent) = match ((bits >> 52) & 0x7FF) as i32 {
            0x7FF if fraction != 0 => return self.specials |= NAN,
            0x7FF if value > 0.0 => return self.specials |= POSITIVE_INFINITY,
            0x7FF => return self.specials |= NEGATIVE_INFINITY,
            0 => (fraction, LOWEST),
            e => (fraction | 1 << 52, e - 1075),
        };
        if mantissa == 0 {
            return;
        }
        let zeros = mantissa.trailing_zeros();
        mantissa >>= zeros;
        exponent += zeros as i32;
        let units = if value < 0.0 { -i128::from(mantissa) } else { i128::from(mantissa) };
        self.add_units(units, exponent as i16);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &Self) {
        self.specials |= other.specials;
        match &other.wide {
            None => self.add_units(other.units, other.exponent),
            Some(other) => {
                let wide = self.widen();
                let mut carry = false;
                for (limb, other) in wide.iter_mut().zip(other.iter()) {
                    let (sum, a) = limb.overflowing_add(*other);
                    let (sum, b) = sum.overflowing_add(u64::from(carry));
                    *limb = sum;
                    carry = a | b;
                }
            }
        }
    }

    /// The sum, rounded once (to nearest, ties to even). As in IEEE 754, NaN and opposite infinities give NaN; a sum that
    /// is exactly zero is positive zero.
    pub fn value(&self) -> f64 {
        match self.specials {
            0 => {}
            POSITIVE_INFINITY => return f64::INFINITY,
            NEGATIVE_INFINITY => return f64::NEG_INFINITY,
            _ => return f64::NAN,
        }
        if self.wide.is_none() {
            // Below 2^-1022 the sum has fewer than 53 bits and nothing is rounded, so scaling never rounds again.
            return scale(self.units as f64, i32::from(self.exponent));
        }
        let (negative, limbs) = self.magnitude();
        let Some(top) = limbs.iter().rposition(|limb| *limb != 0) else { return 0.0 };
        let shift = limbs[top].leading_zeros();
        let below = if top > 0 { limbs[top - 1] } else { 0 };
        let mut window = limbs[top] << shift;
        if shift > 0 {
            window |= below >> (64 - shift);
        }
        // Of what lies below the 64 highest bits it matters only whether it is zero.
        let rest = below << shift != 0 || limbs[..top.saturating_sub(1)].iter().any(|limb| *limb != 0);
        let rounded = (window | u64::from(rest)) as f64;
        let value = scale(rounded, LOWEST + 64 * top as i32 - shift as i32);
        if negative { -value } else { value }
    }

    /// The canonical bytes of the sum: equal sums have equal bytes, however they came about.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (negative, limbs) = self.magnitude();
        let mut bytes = vec![self.specials, u8::from(negative)];
        let magnitude: Vec<u8> = limbs.iter().flat_map(|limb| limb.to_le_bytes()).collect();
        let Some(first) = magnitude.iter().position(|byte| *byte != 0) else { return bytes };
        let last = magnitude.iter().rposition(|byte| *byte != 0).unwrap_or(first);
        bytes.extend_from_slice(&(first as u16).to_le_bytes());
        bytes.extend_from_slice(&magnitude[first..=last]);
        bytes
    }

    /// The sum that [`FloatSum::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`Error::Data`] when it did not.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::Data("a saved sum is damaged".to_string());
        let (&[specials, negative], rest) = bytes.split_first_chunk().ok_or_else(damaged)?;
        if specials > NAN | POSITIVE_INFINITY | NEGATIVE_INFINITY {
            return Err(damaged());
        }
        let mut sum = Self { specials, ..Self::default() };
        if rest.is_empty() {
            return Ok(sum);
        }
        let (first, magnitude) = rest.split_first_chunk().ok_or_else(damaged)?;
        let first = usize::from(u16::from_le_bytes(*first));
        if first + magnitude.len() > LIMBS * 8 {
            return Err(damaged());
        }
        if magnitude.len() < 16 {
            let mut units = [0; 16];
            units[..magnitude.len()].copy_from_slice(magnitude);
            let units = i128::from_le_bytes(units);
            sum.add_units(if negative == 1 { -units } else { units }, (LOWEST + 8 * first as i32) as i16);
            return Ok(sum);
        }
        let mut all = [0; LIMBS * 8];
        all[first..first + magnitude.len()].copy_from_slice(magnitude);
        let wide = sum.widen();
        for (limb, bytes) in wide.iter_mut().zip(all.chunks_exact(8)) {
            *limb = bytes.iter().rev().fold(0, |limb, byte| limb << 8 | u64::from(*byte));
        }
        if negative == 1 {
            negate(wide);
        }
        Ok(sum)
    }

    fn add_units(&mut self, units: i128, exponent: i16) {
        if units == 0 {
            return;
        }
        if self.wide.is_none() {
            if self.units == 0 {
                (self.units, self.exponent) = (units, exponent);
                return;
            }
            let finest = self.exponent.min(exponent);
            let a = shifted(self.units, self.exponent - finest);
            let b = shifted(units, exponent - finest);
            if let (Some(a), Some(b)) = (a, b)
                && let Some(sum) = a.checked_add(b)
            {
                (self.units, self.exponent) = (sum, finest);
                return;
            }
        }
        add_wide(self.widen(), units, exponent);
    }

    fn widen(&mut self) -> &mut [u64; LIMBS] {
        let (units, exponent) = (std::mem::take(&mut self.units), std::mem::take(&mut self.exponent));
        let wide = self.wide.get_or_insert_with(|| Box::new([0; LIMBS]));
        add_wide(wide, units, exponent);
        wide
    }

    fn magnitude(&self) -> (bool, [u64; LIMBS]) {
        let mut limbs = [0; LIMBS];
        match &self.wide {
            Some(wide) => limbs = **wide,
            None => add_wide(&mut limbs, self.units, self.exponent),
        }
        let negative = limbs[LIMBS - 1] >> 63 == 1;
        if negative {
            negate(&mut limbs);
        }
        (negative, limbs)
    }
}

/// `units * 2^by`, when 127 bits hold it.
fn shifted(units: i128, by: i16) -> Option<i128> {
    let room = units.unsigned_abs().leading_zeros() as i16 - 1;
    (by <= room).then(|| units << by)
}

/// Adds `units * 2^exponent` to a number in two's complement, in units of 2^-1074.
fn add_wide(limbs: &mut [u64; LIMBS], units: i128, exponent: i16) {
    if units == 0 {
        return;
    }
    let at = (i32::from(exponent) - LOWEST) as usize;
    let (limb, shift) = (at / 64, (at % 64) as u32);
    let magnitude = units.unsigned_abs();
    let low = magnitude << shift;
    let high = if shift == 0 { 0 } else { magnitude >> (128 - shift) };
    let parts = [low as u64, (low >> 64) as u64, high as u64];
    let mut carry = false;
    for (i, limb) in limbs.iter_mut().skip(limb).enumerate() {
        let part = parts.get(i).copied().unwrap_or(0);
        if i >= parts.len() && !carry {
            break;
        }
        let (once, a) = if units < 0 { limb.overflowing_sub(part) } else { limb.overflowing_add(part) };
        let carried = u64::from(carry);
        let (twice, b) = if units < 0 { once.overflowing_sub(carried) } else { once.overflowing_add(carried) };
        *limb = twice;
        carry = a | b;
    }
}

fn negate(limbs: &mut [u64; LIMBS]) {
    let mut carry = true;
    for limb in limbs {
        let (negated, overflow) = (!*limb).overflowing_add(u64::from(carry));
        *limb = negated;
        carry = overflow;
    }
}

/// `value * 2^exponent`, rounded at most once: towards the ends of the range in two steps that are exact. What is not zero
/// is at least 1 here, so that half of the way down it still has all its bits.
fn scale(value: f64, exponent: i32) -> f64 {
    let power = |e: i32| f64::from_bits(((e + 1023) as u64) << 52);
    match exponent {
        1024.. => value * power(1023) * power(exponent - 1023),
        ..-1022 => value * power(-600) * power(exponent + 600),
        _ => value * power(exponent),
    }
}

#[cfg(test)]
pub(super) mod tests;
