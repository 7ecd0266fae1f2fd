//! Files that no commit names: what a killed entry left behind, and what it removed and did not get to the trash.

use std::collections::HashSet;

use super::Work;
use crate::error::Result;
use crate::lake::layout::{self, Writer};
use crate::stream::log::Snapshot;
use crate::time::{DAY, MINUTE};

/// Nothing younger than this is swept: a request that is still on its way could put it back.
const YOUNG: i64 = 10 * MINUTE;
/// A file of an entry that is not committed yet; no entry works longer than this.
const UNFINISHED: i64 = DAY;

/// The layers that hold data files.
pub const LAYERS: [&str; 5] = ["bronze/", "silver/", "dead_letters/", "gold/", "settled/"];

/// Moves files that no commit names to the trash; how many. Files of epochs that may still be committed stay, whatever
/// their age.
///
/// # Errors
/// [`crate::Error::Lake`] when the lake cannot be listed or changed.
pub fn sweep(work: &Work<'_>, live: &Snapshot) -> Result<u64> {
    let now = work.clock.now();
    let mut swept = 0;
    // What the newest entries removed is known by name; all else by its age.
    let removed: HashSet<&str> = live.last.removed.iter().map(|f| f.path.as_str()).collect();
    for layer in LAYERS {
        for object in work.store().list(layer, None)? {
            let Some(writer) = layout::writer(work.journal.pipeline(), work.journal.shard(), &object.path) else {
                continue;
            };
            if live.files.contains_key(&object.path) {
                continue;
            }
            let age = now - object.modified_us;
            let done = match writer {
                Writer::Epoch(number) => number <= live.last.number && age >= YOUNG,
                Writer::Entry => age >= UNFINISHED,
            };
            if done || removed.contains(object.path.as_str()) {
                work.store().trash(&object.path)?;
                swept += 1;
            }
        }
    }
    Ok(swept)
}
