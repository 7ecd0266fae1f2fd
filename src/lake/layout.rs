//! Names in the lake: layers, partitions, data files and control files.
//!
//! ```text
//! {layer}/date=2024-12-17/event_type=page_view/{pipeline}-{shard:04}-{epoch:010}-{part:04}.parquet
//! _penstock/{log}/terms/{n:010}
//! _penstock/{log}/epochs/{n:010}.plan, {n:010}.commit
//! _penstock/{log}/snapshots/{n:010}
//! _penstock/{log}/state/{n:010}-{term}-{name}.arrow
//! _penstock/{pipeline}/contracts/{digest}.json, _penstock/{pipeline}/pipeline.json
//! _penstock/trash/…  what was removed, for an hour
//! _penstock/tmp/…    what is being written, seen by nobody
//! ```
//!
//! The log of a pipeline has the pipeline's name; in shards each has its own, `{pipeline}/{shard:04}`. Shards are counted
//! from 1; 0 stands for a pipeline that has none.
//!
//! Numbers are zero-padded, so that the order of names is that of the numbers. Names of data files follow from the
//! pipeline and the epoch alone; of an event only partition values come into a path, and those are encoded here.

use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::time::{DAY, civil_from_days};

/// The folder of everything that is no table. Readers of folders (pyarrow, Spark) skip names that begin with `_`.
pub const CONTROL: &str = "_penstock";
/// Where removed files go.
pub const TRASH: &str = "_penstock/trash";
/// Where files are written before they get their names.
pub const STAGING: &str = "_penstock/tmp";
/// How Hive, and every reader of its layout, writes a null (and an empty string) as a partition value.
pub const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";
/// The partition of event types that the contract does not name.
pub const OTHER: &str = "_other";

/// Bytes of an encoded partition value at most: file systems allow 255 for `name=value`.
const MAX_VALUE: usize = 160;
/// Bytes of an encoded partition column's name at most.
const MAX_NAME: usize = 90;

/// The partition of a row: the columns that stand in the path, with their values; null and the empty string are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Partition(Vec<(String, String)>);

impl Partition {
    /// The partition of a table that has none.
    pub fn none() -> Self {
        Self::default()
    }

    /// `date=…` of a moment.
    pub fn date(micros: i64) -> Self {
        Self::day(micros.div_euclid(DAY))
    }

    /// `date=…` of a count of days since 1970-01-01.
    pub fn day(days: i64) -> Self {
        let (year, month, day) = civil_from_days(days);
        Self::none().and("date", format!("{year:04}-{month:02}-{day:02}"))
    }

    /// With one more column.
    #[must_use]
    pub fn and(mut self, column: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push((column.into(), value.into()));
        self
    }

    /// The columns and their values, as they were before encoding.
    pub fn values(&self) -> &[(String, String)] {
        &self.0
    }

    /// The value of a column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.iter().find(|(c, _)| c == column).map(|(_, v)| v.as_str())
    }

    /// `date=2024-12-17/event_type=page_view`; empty for a table without partitions.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for (column, value) in &self.0 {
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(&bounded(column, MAX_NAME));
            path.push('=');
            path.push_str(&encode_value(value));
        }
        path
    }
}

/// A partition value as it stands in a path. DuckDB, Polars, pyarrow and Spark read back what [`decode_value`] gives:
/// ASCII beyond letters, digits, `_`, `-` and `.` is percent-encoded; other letters stay as they are, because Spark
/// decodes byte by byte; an empty value is Hive's name for null; a value too long for a file name keeps its beginning
/// and gets a hash.
pub fn encode_value(value: &str) -> String {
    if value.is_empty() { NULL_PARTITION.to_owned() } else { bounded(value, MAX_VALUE) }
}

/// The value that a reader sees for an encoded one; none for null.
pub fn decode_value(encoded: &str) -> Option<String> {
    (encoded != NULL_PARTITION).then(|| percent_encoding::percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

fn bounded(value: &str, max: usize) -> String {
    let mut out = String::with_capacity(value.len());
    // A value of dots alone is a path to somewhere else; one that reads like our null would come back as null.
    let tricky = value.bytes().all(|b| b == b'.') || value == NULL_PARTITION;
    let room = max - 17;
    let mut fits = 0;
    for (i, c) in value.char_indices() {
        if plain(c) && !(tricky && i == 0) {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        if out.len() <= room {
            fits = out.len();
        }
        if out.len() > max {
            out.truncate(fits);
            let _ = write!(out, "~{:016x}", xxhash_rust::xxh3::xxh3_64(value.as_bytes()));
            return out;
        }
    }
    out
}

fn plain(c: char) -> bool {
    match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '-' | '.' => true,
        c if c.is_ascii() => false,
        // Marks that no eye can see would make two names that look the same.
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => false,
        '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..='\u{ffff}' | '\u{e0000}'..='\u{10ffff}' => false,
        c => !c.is_control() && !c.is_whitespace(),
    }
}

/// The path of a data file.
pub fn data_file(layer: &str, partition: &Partition, pipeline: &str, shard: u32, epoch: u64, part: u32) -> String {
    let folder = partition.path();
    let slash = if folder.is_empty() { "" } else { "/" };
    format!("{layer}/{folder}{slash}{pipeline}-{shard:04}-{epoch:010}-{part:04}.parquet")
}

/// The path of a data file that a log entry other than an epoch wrote: with the entry's random id (16 hexadecimal digits)
/// in the place of the epoch's number.
pub fn entry_file(layer: &str, partition: &Partition, pipeline: &str, shard: u32, id: &str, part: u32) -> String {
    let folder = partition.path();
    let slash = if folder.is_empty() { "" } else { "/" };
    format!("{layer}/{folder}{slash}{pipeline}-{shard:04}-{id}-{part:04}.parquet")
}

/// Who wrote a data file, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// This epoch of the stream.
    Epoch(u64),
    /// Another entry of the log.
    Entry,
}

/// Who of a shard of `pipeline` wrote a data file; none when another shard or pipeline did, or nobody.
pub fn writer(pipeline: &str, shard: u32, path: &str) -> Option<Writer> {
    let name = path.rsplit('/').next()?.strip_suffix(".parquet")?;
    let rest = name.strip_prefix(pipeline)?.strip_prefix('-')?;
    let mut parts = rest.split('-');
    let (number, tag, part) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| text.len() >= 4 && text.bytes().all(|b| b.is_ascii_digit());
    if parts.next().is_some() || number != format!("{shard:04}") || !digits(part) {
        return None;
    }
    match tag.len() {
        10 => tag.parse().ok().map(Writer::Epoch),
        16 => tag.bytes().all(|b| b.is_ascii_hexdigit()).then_some(Writer::Entry),
        _ => None,
    }
}

/// The partition that a data file lies in, from its path.
pub fn partition_of(path: &str) -> Partition {
    let mut partition = Partition::none();
    for part in path.split('/') {
        if let Some((column, value)) = part.split_once('=') {
            partition = partition.and(column, decode_value(value).unwrap_or_default());
        }
    }
    partition
}

/// The name of a pipeline's log, or of that of one of its shards.
pub fn log(pipeline: &str, shard: u32) -> String {
    if shard == 0 { pipeline.to_owned() } else { format!("{pipeline}/{shard:04}") }
}

/// The folder of a log, with the slash.
pub fn control(log: &str) -> String {
    format!("{CONTROL}/{log}/")
}

/// The claim of a term.
pub fn term(log: &str, n: u64) -> String {
    format!("{}terms/{n:010}", control(log))
}

/// The plan of an epoch.
pub fn plan(log: &str, epoch: u64) -> String {
    format!("{}epochs/{epoch:010}.plan", control(log))
}

/// The commit of an epoch.
pub fn commit(log: &str, epoch: u64) -> String {
    format!("{}epochs/{epoch:010}.commit", control(log))
}

/// The snapshot of the log at an epoch.
pub fn snapshot(log: &str, epoch: u64) -> String {
    format!("{}snapshots/{epoch:010}", control(log))
}

/// A part of the state after an epoch, as the holder of a term wrote it.
pub fn state(log: &str, epoch: u64, term_id: &str, name: &str) -> String {
    format!("{}state/{epoch:010}-{term_id}-{}.arrow", control(log), name.replace('/', "."))
}

/// The text of a contract by its digest.
pub fn contract(pipeline: &str, digest: &str) -> String {
    format!("{}contracts/{digest}.json", control(pipeline))
}

/// What was fixed when the pipeline was made.
pub fn pipeline(pipeline: &str) -> String {
    format!("{}pipeline.json", control(pipeline))
}

/// Where a file goes when it is removed.
pub fn trash(path: &str) -> String {
    format!("{TRASH}/{path}")
}

/// The number in the name of a control file (`…/0000000012.commit` → 12).
pub fn number(path: &str) -> Option<u64> {
    let name = path.rsplit('/').next()?;
    let digits = name.get(..10)?;
    let rest = &name[10..];
    (digits.bytes().all(|b| b.is_ascii_digit()) && (rest.is_empty() || rest.starts_with(['.', '-'])))
        .then(|| digits.parse().ok())
        .flatten()
}

/// Refuses a name of a pipeline or window that cannot stand in a path, or that readers of folders would skip.
///
/// # Errors
/// [`Error::Settings`] under `setting`.
pub fn check_name(setting: &str, name: &str) -> Result<()> {
    let fine = name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fine {
        return Ok(());
    }
    Err(Error::settings(
        setting,
        format!(
            "'{name}' cannot be a name in the lake; use up to 64 letters, digits, '_' and '-', the first a letter or digit"
        ),
    ))
}

/// Refuses a path that would leave the lake or that no object store takes.
///
/// # Errors
/// [`Error::Lake`] naming the path.
pub fn check_path(path: &str) -> Result<()> {
    let fine = !path.is_empty()
        && path.split('/').all(|part| {
            !part.is_empty() && part != "." && part != ".." && part.len() <= 255 && !part.contains(char::is_control)
        });
    if fine { Ok(()) } else { Err(Error::lake(path, "is no path inside a lake")) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_as_documented() {
        let partition = Partition::date(1_734_393_600_000_000).and("event_type", "page_view");
        assert_eq!(
            data_file("bronze/events", &partition, "ecommerce", 0, 7, 1),
            "bronze/events/date=2024-12-17/event_type=page_view/ecommerce-0000-0000000007-0001.parquet"
        );
        assert_eq!(data_file("x", &Partition::none(), "p", 1, 0, 0), "x/p-0001-0000000000-0000.parquet");
        assert_eq!(commit("p", 12), "_penstock/p/epochs/0000000012.commit");
        assert_eq!(number(&commit("p", 12)), Some(12));
        assert_eq!((log("p", 0), log("p", 12)), ("p".into(), "p/0012".into()));
        assert_eq!(commit(&log("p", 2), 7), "_penstock/p/0002/epochs/0000000007.commit");
        assert_eq!(number(&state("p", 3, "ab", "dedup/keys")), Some(3));
        assert_eq!(number("_penstock/p/epochs/notes"), None);
        assert_eq!(number("a/0000000012x"), None);
        let of_entry = entry_file("silver/events", &partition, "a-b", 0, "0123456789abcdef", 3);
        assert_eq!(writer("a-b", 0, &of_entry), Some(Writer::Entry));
        assert_eq!(writer("a", 0, &of_entry), None, "another pipeline");
        assert_eq!(writer("p", 0, &data_file("x", &partition, "p", 0, 7, 0)), Some(Writer::Epoch(7)));
        assert_eq!(partition_of(&of_entry), partition);
    }

    #[test]
    fn values_that_would_be_paths_are_none() {
        for (value, encoded) in [
            ("../../etc", "..%2F..%2Fetc"),
            ("..", "%2E."),
            (".", "%2E"),
            ("...", "%2E.."),
            ("", NULL_PARTITION),
            (NULL_PARTITION, "%5F_HIVE_DEFAULT_PARTITION__"),
            ("a b=c/d%e", "a%20b%3Dc%2Fd%25e"),
            ("Käufe", "Käufe"),
            ("a\u{0}b\u{7f}\u{85}", "a%00b%7F%C2%85"),
        ] {
            assert_eq!(encode_value(value), encoded);
        }
        let long = "x".repeat(10_000);
        assert_eq!(encode_value(&long).len(), MAX_VALUE);
        assert_ne!(encode_value(&long), encode_value(&format!("{long}y")));
    }

    #[test]
    fn names_that_readers_skip_are_refused() {
        for bad in ["", "_x", ".x", "-x", "a/b", "a b", "..", &"x".repeat(65)] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
        assert!(check_name("name", "e-commerce_2").is_ok());
        for bad in ["", "/a", "a//b", "a/../b", "a/./b", "a/", "a\n"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_chooses_a_path(value in any::<String>()) {
            let encoded = encode_value(&value);
            prop_assert!(!encoded.is_empty() && encoded.len() <= MAX_VALUE);
            prop_assert!(!encoded.contains(['/', '\\', '=', ' ', '#', '"']));
            prop_assert!(!encoded.contains(char::is_control) && encoded != "." && encoded != "..");
            let path = data_file("bronze/events", &Partition::day(0).and("event_type", value.clone()), "p", 0, 0, 0);
            prop_assert!(check_path(&path).is_ok());
            prop_assert_eq!(path.split('/').count(), 5);
        }

        #[test]
        fn values_come_back(value in "\\PC{0,40}|[ -~]{0,50}|[\\.]{1,5}|(/|%|\\.|#|~){1,20}") {
            let encoded = encode_value(&value);
            if value.is_empty() {
                prop_assert_eq!(decode_value(&encoded), None);
            } else if !encoded.contains('~') {
                prop_assert_eq!(decode_value(&encoded), Some(value));
            } else {
                prop_assert!(encoded.len() > MAX_VALUE - 20);
            }
        }

        #[test]
        fn distinct_values_have_distinct_names(a in any::<String>(), b in any::<String>()) {
            prop_assert_eq!(a == b, encode_value(&a) == encode_value(&b));
        }
    }
}
