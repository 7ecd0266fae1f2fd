//! Names as dense numbers, in order of first appearance.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Entities or event types by number; null is a name of its own.
///
/// A name of up to 16 bytes is compared where it is found, within one cache line; longer ones by their first 16 bytes
/// there, and then by the whole. What is found does not depend on the hash, which has a new secret in each process:
/// nobody can prepare names that collide.
#[derive(Default)]
pub(super) struct Names {
    hasher: DefaultHashBuilder,
    table: HashTable<Entry>,
    null: Option<u32>,
    text: String,
    /// For each name its hash and where it ends in `text`; none: it is null.
    names: Vec<(u64, Option<usize>)>,
}

struct Entry {
    head: u128,
    hash: u64,
    length: u32,
    number: u32,
}

/// The hash of null, which is looked up apart from all names.
const NULL: u64 = 0;

impl Names {
    /// Names hashed like those of others, so that hashes can be handed on.
    pub fn hashed_like(hasher: &DefaultHashBuilder) -> Self {
        Self { hasher: hasher.clone(), ..Self::default() }
    }

    /// The number of a name.
    pub fn number(&mut self, name: Option<&str>) -> u32 {
        let next = self.names.len() as u32;
        let Some(name) = name else {
            if self.null.is_none() {
                self.names.push((NULL, None));
            }
            return *self.null.get_or_insert(next);
        };
        let bytes = name.as_bytes();
        let (head, hash) = (head_of(bytes), hash_of(&self.hasher, Some(name)));
        let (text, names) = (&self.text, &self.names);
        let same = |e: &Entry| {
            e.head == head
                && e.length == bytes.len() as u32
                && (bytes.len() <= 16 || text_of(text, names, e.number) == Some(name))
        };
        if let Some(known) = self.table.find(hash, same) {
            return known.number;
        }
        self.table.insert_unique(hash, Entry { head, hash, length: bytes.len() as u32, number: next }, |e| e.hash);
        self.text.push_str(name);
        self.names.push((hash, Some(self.text.len())));
        next
    }

    /// The name of a number.
    pub fn name(&self, number: u32) -> Option<&str> {
        text_of(&self.text, &self.names, number)
    }

    /// The hash of the name of a number.
    pub fn hash(&self, number: u32) -> u64 {
        self.names[number as usize].0
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }
}

/// The hash of a name.
pub(super) fn hash_of(hasher: &DefaultHashBuilder, name: Option<&str>) -> u64 {
    name.map_or(NULL, |name| hasher.hash_one(name.as_bytes()))
}

fn text_of<'a>(text: &'a str, names: &[(u64, Option<usize>)], number: u32) -> Option<&'a str> {
    let number = number as usize;
    let end = names[number].1?;
    // The null among the names has no end of its own: the one before it counts.
    let start = names[..number].iter().rev().take(2).find_map(|(_, end)| *end).unwrap_or(0);
    text.get(start..end)
}

/// The first 16 bytes; of shorter names two loads that overlap, which with the length say as much as the bytes.
fn head_of(bytes: &[u8]) -> u128 {
    fn load<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&bytes[at..at + N]);
        out
    }
    let n = bytes.len();
    match n {
        16.. => u128::from_le_bytes(load(bytes, 0)),
        8..16 => {
            u128::from(u64::from_le_bytes(load(bytes, 0))) | u128::from(u64::from_le_bytes(load(bytes, n - 8))) << 64
        }
        4..8 => {
            u128::from(u32::from_le_bytes(load(bytes, 0))) | u128::from(u32::from_le_bytes(load(bytes, n - 4))) << 32
        }
        1..4 => u128::from(bytes[0]) | u128::from(bytes[n / 2]) << 8 | u128::from(bytes[n - 1]) << 16,
        0 => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn are_numbered_as_they_come(names in prop::collection::vec(prop::option::of("[ab]{0,3}|[ab]{7,9}|a{14,18}b?|a{16}[ab]{0,3}"), 0..80)) {
            let mut numbered = Names::default();
            let mut model: HashMap<Option<String>, u32> = HashMap::new();
            for name in names {
                let next = model.len() as u32;
                let number = *model.entry(name.clone()).or_insert(next);
                prop_assert_eq!(numbered.number(name.as_deref()), number);
            }
            prop_assert_eq!(numbered.len(), model.len());
            for (name, number) in model {
                prop_assert_eq!(numbered.name(number), name.as_deref());
                prop_assert_eq!(numbered.hash(number), hash_of(&numbered.hasher, name.as_deref()));
            }
        }
    }
}
