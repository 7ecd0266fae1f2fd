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
