//! Distinct counts: Apache DataSketches' HyperLogLog, made independent of order.
//!
//! The estimate is the sketch's composite one (its usual one, HIP, depends on the order of updates), and what is saved is
//! put into canonical form: coupons sorted, the HIP accumulator left out.

use std::hash::Hash;

use datasketches::hll::{HllSketch, HllType, HllUnion};

use crate::error::{Error, Result};

/// 2^12 registers.
const LG_K: u8 = 12;

const MODE: usize = 7;
const FLAGS: usize = 5;
const OUT_OF_ORDER: u8 = 16;
const HIP: std::ops::Range<usize> = 8..16;

/// A sketch of different values.
#[derive(Debug, Clone)]
pub(super) struct Distinct(HllSketch);

impl Distinct {
    pub fn new() -> Result<Self> {
        Ok(Self(HllSketch::new(LG_K, HllType::Hll8).map_err(fault)?))
    }

    pub fn add(&mut self, value: impl Hash) {
        self.0.update(value);
    }

    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if other.0.is_empty() {
            return Ok(());
        }
        if self.0.is_empty() {
            self.0 = other.0.clone();
            return Ok(());
        }
        let mut union = HllUnion::new(LG_K).map_err(fault)?;
        union.update(&self.0);
        union.update(&other.0);
        self.0 = union.to_sketch(HllType::Hll8);
        Ok(())
    }

    /// Bytes that it takes.
    pub fn memory(&self) -> usize {
        size_of::<Self>() + self.0.estimated_size()
    }

    pub fn estimate(&self) -> i64 {
        self.0.composite_estimate().round() as i64
    }

    /// The sketch in DataSketches' own format, in canonical form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.serialize();
        let coupons_from = match bytes.get(MODE).map_or(2, |mode| mode & 3) {
            0 => 8,
            1 => 12,
            _ => {
                bytes[FLAGS] |= OUT_OF_ORDER;
                bytes[HIP].fill(0);
                return bytes;
            }
        };
        let mut coupons: Vec<[u8; 4]> =
            bytes[coupons_from..].chunks_exact(4).map(|c| [c[0], c[1], c[2], c[3]]).collect();
        coupons.sort_unstable_by_key(|c| u32::from_le_bytes(*c));
        bytes[coupons_from..].copy_from_slice(coupons.as_flattened());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let sketch =
            HllSketch::deserialize(bytes).map_err(|e| Error::Data(format!("a saved sketch is damaged: {e}")))?;
        Ok(Self(sketch))
    }
}

fn fault(e: datasketches::error::Error) -> Error {
    Error::Internal(format!("distinct count: {e}"))
}
