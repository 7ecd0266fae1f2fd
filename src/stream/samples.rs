//! Dead letters as examples of what is wrong.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use serde::Serialize;

use super::entries::settled::Index;
use super::log::{FileEntry, Snapshot};
use super::store::Store;
use crate::error::Result;
use crate::sources::lake::{StoredFile, column, numbers, text};

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The first problem's code.
    pub code: String,
    /// Where in the document that was found, as a JSON Pointer.
    pub pointer: String,
    /// What it is.
    pub message: String,
    /// The beginning of what stood there.
    pub value: Option<String>,
    /// Where the event came from.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
}

/// Some dead letters of each code, out of as few files as that takes, the newest first.
///
/// # Errors
/// [`crate::Error::Checkpoint`] when a file is missing or damaged.
pub fn find(store: &dyn Store, live: &Snapshot, each: usize) -> Result<Vec<Sample>> {
    let counts = &live.last.ledger.counts;
    let mut wanted: BTreeMap<String, usize> = counts
        .rejected_by_code
        .iter()
        .map(|(code, count)| (code.as_str().to_owned(), *count))
        .chain([("late".to_owned(), counts.late)])
        .filter(|(_, count)| *count > 0)
        .map(|(code, count)| (code, each.min(usize::try_from(count).unwrap_or(usize::MAX))))
        .filter(|(_, want)| *want > 0)
        .collect();
    let mut files: Vec<&FileEntry> = live.files.values().filter(|f| f.layer == "dead_letters").collect();
    // Names hold the epoch.
    files.sort_by(|a, b| b.path.rsplit('/').next().cmp(&a.path.rsplit('/').next()));
    let columns = ["code", "problems", "topic", "partition", "offset", "epoch"];
    let settled = if wanted.is_empty() { Index::default() } else { Index::read(store, live)? };
    let mut found = vec![];
    for file in files {
        if wanted.is_empty() {
            break;
        }
        StoredFile::open(store, file)?.read(store, Some(&columns), None, &mut |rows| {
            let codes = text(&rows, "code")?;
            let settled = settled.which(&rows)?;
            for row in (0..rows.num_rows()).rev().filter(|row| !settled[*row]) {
                let Some(left) = wanted.get_mut(codes.value(row)) else { continue };
                *left -= 1;
                if *left == 0 {
                    wanted.remove(codes.value(row));
                }
                found.push(letter(&rows, row, codes.value(row))?);
            }
            Ok(())
        })?;
    }
    found.sort_by(|a, b| (&a.code, &b.topic, b.partition, b.offset).cmp(&(&b.code, &a.topic, a.partition, a.offset)));
    Ok(found)
}

fn letter(rows: &RecordBatch, row: usize, code: &str) -> Result<Sample> {
    let problems = column(rows, "problems")?.as_list::<i32>().value(row);
    let problems = problems.as_struct();
    let of = |name: &str| {
        let column = cast(problems.column_by_name(name)?, &DataType::Utf8).ok()?;
        let column = column.as_string::<i32>();
        (!column.is_empty() && column.is_valid(0)).then(|| column.value(0).to_owned())
    };
    Ok(Sample {
        code: code.to_owned(),
        pointer: of("pointer").unwrap_or_default(),
        message: of("message").unwrap_or_default(),
        value: of("value"),
        topic: text(rows, "topic")?.value(row).to_owned(),
        partition: numbers(rows, "partition")?.value(row) as i32,
        offset: numbers(rows, "offset")?.value(row),
    })
}
