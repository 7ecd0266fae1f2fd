//! The hashes that the engine lives by: keyed for deduplication, plain and stable for identities that users see.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// The secret of a pipeline's deduplication: nobody who does not know it can craft two keys with one hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(***)")
    }
}

impl HashKey {
    /// SipHash-1-3 with 128 bits of output (Aumasson, Bernstein, *SipHash: a fast short-input PRF*).
    pub fn hash(&self, bytes: &[u8]) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write(bytes);
        hasher.finish128().as_u128()
    }
}

/// A stable hash of an entity and a moment, the same in every pipeline and version (XXH3, 128 bits).
pub fn entity_at(entity: &[u8], micros: i64) -> u128 {
    let seed = xxhash_rust::xxh3::xxh3_64(&micros.to_le_bytes());
    xxhash_rust::xxh3::xxh3_128_with_seed(entity, seed)
}

const A: u64 = 0x9e37_79b9_7f4a_7c15;
const B: u64 = 0xd1b5_4a32_d192_ed03;

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// A hash for tables in memory, under a secret of the process: multiply and fold, sixteen bytes at a time (the
/// construction of wyhash). Never stored.
#[inline]
pub fn quick(value: &[u8], seed: u64) -> u64 {
    let word8 = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
    let word4 = |bytes: &[u8]| bytes.first_chunk().map_or(0, |b| u64::from(u32::from_le_bytes(*b)));
    let mut state = seed ^ value.len() as u64;
    let (a, b) = match value {
        [] => (0, 0),
        [first, ..] if value.len() < 4 => {
            let middle = value[value.len() / 2];
            (u64::from(*first) << 8 | u64::from(middle), u64::from(value[value.len() - 1]))
        }
        _ if value.len() < 8 => (word4(value), word4(&value[value.len() - 4..])),
        _ if value.len() <= 16 => (word8(value), word8(&value[value.len() - 8..])),
        _ => {
            let mut rest = value;
            while rest.len() > 16 {
                state = fold(word8(rest) ^ A ^ state, word8(&rest[8..]) ^ B);
                rest = &rest[16..];
            }
            let end = &value[value.len() - 16..];
            (word8(end), word8(&end[8..]))
        }
    };
    fold(fold(a ^ A ^ state, b ^ B), A ^ state)
}

/// The same for a value of up to 16 bytes that is at hand as one number, zeros after it.
#[inline(always)]
pub fn quick_short(head: u128, length: u32, seed: u64) -> u64 {
    let state = seed ^ u64::from(length);
    fold(fold(head as u64 ^ A ^ state, (head >> 64) as u64 ^ B), A ^ state)
}
