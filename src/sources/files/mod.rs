//! Files of JSON lines as a source: plain, gzip or zstd, chosen by patterns, growing or whole.
//!
//! A file is a partition, its path the topic; a position is a byte of the decompressed text. Paths are kept as the
//! pipeline file gives them, so that a project can be moved as a whole. A file may only grow: one that shrank, or whose
//! beginning changed, is an error, and so is one that vanished before it was read to its end. The state of a finished
//! file is kept, so that its name is never read twice.

mod cut;
mod paths;
mod pool;
mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::{Chunk, PartitionState, PartitionStatus, PartitionTimes, Progress, Range, Source, Unread, Want};
use crate::error::{Error, Result};
use crate::events::RawEvents;
use cut::{Grid, Order, SLACK, Tail, offset};
use paths::Pattern;
use pool::Pool;
pub use text::Format;
use text::Text;

/// So much of a file's beginning says whether it is the same file.
const HEAD: u64 = 4096;
/// Decoders kept open between turns; another one costs decompressing its file again up to where it stood.
const OPEN_DECODERS: usize = 16;

/// How a file is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// How it holds its text.
    pub format: Format,
    /// Its bytes on disk when it was last looked at.
    pub length: u64,
    /// When it was last written, in microseconds since the Unix epoch, as of then.
    pub modified: i64,
    /// How many bytes of its beginning the fingerprint covers.
    pub head_length: u64,
    /// The fingerprint (XXH3, 128 bits, hex).
    pub head: String,
    /// Whether its text was read up to that length.
    pub ended: bool,
    /// Bytes at the end of its text that are no event yet.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub unread: u64,
    /// A compressed file is read up to here before others have their turn: beginning again costs decompressing all that
    /// was read before.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub turn: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// Which files are read, and how their end is taken.
#[derive(Debug, Clone)]
pub struct FilesSettings {
    /// The folder that relative paths start from: that of the pipeline file.
    pub base: PathBuf,
    /// Paths and patterns.
    pub paths: Vec<String>,
    /// Whether files end where they end now: a last line without an end is taken if it is whole, and a file read to its
    /// end is finished.
    pub bounded: bool,
}

/// The source over files.
pub struct Files {
    settings: FilesSettings,
    patterns: Vec<Pattern>,
    grid: Grid,
    pool: Pool,
    files: BTreeMap<Arc<str>, Entry>,
    /// Not yet begun: they come first.
    waiting: BTreeSet<Arc<str>>,
    /// Begun, with more to read.
    open: BTreeSet<Arc<str>>,
    /// Those that moved since `changes` was asked.
    changed: BTreeSet<Arc<str>>,
    /// Decoders kept open, the one used last at the end.
    decoders: Vec<(Arc<str>, Text)>,
    /// When the files were last looked at.
    looked_at: Option<i64>,
}

/// A file as the source knows it.
#[derive(Debug, Clone, Default)]
struct Entry {
    position: u64,
    length: u64,
    modified: i64,
    format: Option<Format>,
    head: Option<Head>,
    unread: u64,
    turn: u64,
    ended: bool,
    finished: bool,
}

/// The beginning of a file: how many bytes, and their fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    length: u64,
    hash: u128,
}

impl Head {
    fn of(bytes: &[u8]) -> Self {
        Self { length: bytes.len() as u64, hash: xxhash_rust::xxh3::xxh3_128(bytes) }
    }
}

impl Files {
    /// A source over the files that these settings name.
    ///
    /// # Errors
    /// [`Error::Settings`] for a pattern that is none.
    pub fn new(settings: FilesSettings) -> Result<Self> {
        let patterns = settings.paths.iter().map(|p| Pattern::parse(&settings.base, p)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            settings,
            patterns,
            grid: Grid::STANDARD,
            pool: Pool::new(Grid::STANDARD.cell as usize + SLACK),
            files: BTreeMap::new(),
            waiting: BTreeSet::new(),
            open: BTreeSet::new(),
            changed: BTreeSet::new(),
            decoders: Vec::new(),
            looked_at: None,
        })
    }

    /// The file to read next. It follows from what a commit keeps and from the times, so that a run that was killed goes
    /// on as it would have.
    fn choose(&self, times: &dyn PartitionTimes) -> Option<Arc<str>> {
        if let Some(first) = self.waiting.first() {
            return Some(Arc::clone(first));
        }
        let in_turn = |name: &&Arc<str>| self.files.get(*name).is_some_and(|e| e.position < e.turn);
        let next = self.open.iter().find(in_turn);
        next.or_else(|| self.open.iter().min_by_key(|name| times.time(name, 0))).cloned()
    }

    /// Reads on in one file; none if there was nothing (yet) to be had.
    fn read_on(&mut self, name: &Arc<str>, want: &Want) -> Result<Option<Chunk>> {
        let kept = self.decoders.iter().position(|(n, _)| n == name).map(|i| self.decoders.remove(i).1);
        let mut text = match kept {
            Some(text) => text,
            None => self.open_text(name)?,
        };
        let entry = self.files.entry(Arc::clone(name)).or_default();
        let from = entry.position;
        if text.compressed() && from >= self.grid.first && from >= entry.turn {
            entry.turn = from + self.grid.cell.max(from / 8);
        }
        let (bytes, events) = (want.bytes.max(1) as u64, want.events.max(1));
        let tail = if self.settings.bounded { Tail::IfWhole } else { Tail::Leave };
        let (mut pieces, mut count, mut position, mut ended) = (Vec::new(), 0, from, None);
        while ended.is_none() && count < events && position - from < bytes {
            let stop = self.grid.after(position).min(from + bytes);
            let order = Order { stop, events: events - count, tail, arrival: want.arrival };
            let piece = cut::piece(&mut text, name, &self.grid, &order)?;
            count += piece.events.len();
            position = piece.end;
            ended = piece.ended.or_else(|| text.at_end().then_some(0));
            if !piece.events.is_empty() {
                pieces.push(piece.events);
            }
            let glance = from == 0 && position >= self.grid.first;
            if glance || (text.compressed() && position >= entry.turn) {
                break;
            }
        }
        entry.position = position;
        self.waiting.remove(name);
        self.open.remove(name);
        if let Some(left) = ended {
            (entry.ended, entry.finished, entry.unread) = (true, self.settings.bounded, left);
        } else {
            self.open.insert(Arc::clone(name));
            if text.compressed() && !text.stale() {
                if self.decoders.len() == OPEN_DECODERS {
                    self.decoders.remove(0);
                }
                self.decoders.push((Arc::clone(name), text));
            }
        }
        self.changed.insert(Arc::clone(name));
        let range =
            Range { topic: name.to_string(), partition: 0, from: offset(from, name)?, to: offset(position, name)? };
        let finished = entry.finished;
        let bytes = range.to.abs_diff(range.from);
        Ok((position > from || finished).then_some(Chunk { range, bytes, pieces, finished }))
    }

    /// Opens a file where reading goes on, and makes sure that it is the one that was read before.
    fn open_text(&mut self, name: &Arc<str>) -> Result<Text> {
        let path = self.settings.base.join(&**name);
        let entry = self.files.entry(Arc::clone(name)).or_default();
        let mut file = text::open(&path, name)?;
        let now = file.metadata().map_err(|e| text::refused(name, 0, &e))?.len();
        if now < entry.length {
            return Err(text::shrank(name, entry.length, now));
        }
        let head = text::head(&mut file, name, HEAD.min(entry.length))?;
        let format = Format::of(&head, name)?;
        entry.check_head(name, &head)?;
        entry.head = Some(Head::of(&head));
        entry.format = Some(format);
        Text::open(file, name, format, entry.position, entry.length, None, self.pool.clone())
    }

    fn put_in_order(&mut self, name: &Arc<str>) {
        let Some(entry) = self.files.get(name) else { return };
        self.waiting.remove(name);
        self.open.remove(name);
        if !entry.ended {
            let order = if entry.position == 0 { &mut self.waiting } else { &mut self.open };
            order.insert(Arc::clone(name));
        }
    }

    /// Looks at one file that is there.
    fn look(&mut self, name: &str, path: &std::path::Path, literal: bool) -> Result<()> {
        let meta = match fs::metadata(path) {
            Ok(meta) => meta,
            // Gone since it was found; a name that was given has to be there, or to have been.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && (!literal || self.files.contains_key(name)) => {
                return Ok(());
            }
            Err(e) => return Err(text::refused(name, 0, &e)),
        };
        if !meta.is_file() {
            return Err(text::no_file(name, meta.is_dir()));
        }
        let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let modified = modified.and_then(|d| i64::try_from(d.as_micros()).ok()).unwrap_or(0);
        let length = meta.len();
        let name: Arc<str> = Arc::from(name);
        match self.files.get_mut(&name) {
            None => {
                self.files.insert(Arc::clone(&name), Entry { length, modified, ..Entry::default() });
            }
            Some(entry) => {
                if length < entry.length {
                    return Err(text::shrank(&name, entry.length, length));
                }
                if (length, modified) != (entry.length, entry.modified) {
                    if entry.head.is_some() {
                        let mut file = text::open(path, &name)?;
                        let head = text::head(&mut file, &name, HEAD.min(length))?;
                        entry.check_head(&name, &head)?;
                        self.changed.insert(Arc::clone(&name));
                    }
                    if length > entry.length {
                        (entry.ended, entry.finished, entry.unread) = (false, false, 0);
                        // A decoder sees no further than the length that it was opened with.
                        self.decoders.retain(|(n, _)| *n != name);
                    }
                    (entry.length, entry.modified) = (length, modified);
                }
                if self.settings.bounded && !entry.finished {
                    entry.ended = false;
                }
            }
        }
        self.put_in_order(&name);
        Ok(())
    }

    fn state(&self, name: &Arc<str>) -> Option<PartitionState> {
        let entry = self.files.get(name)?;
        let (head, format) = (entry.head?, entry.format?);
        Some(PartitionState {
            topic: name.to_string(),
            partition: 0,
            position: i64::try_from(entry.position).ok()?,
            finished: entry.finished,
            file: Some(FileState {
                format,
                length: entry.length,
                modified: entry.modified,
                head_length: head.length,
                head: format!("{:032x}", head.hash),
                ended: entry.ended,
                unread: entry.unread,
                turn: entry.turn,
            }),
            kafka: None,
        })
    }
}

impl Entry {
    fn check_head(&self, name: &str, head: &[u8]) -> Result<()> {
        let Some(known) = self.head else { return Ok(()) };
        if head.get(..known.length as usize).is_some_and(|h| Head::of(h) == known) {
            return Ok(());
        }
        let reason = format!(
            "its first {} bytes are not those that were read before. A file may only grow: put it back, or give the new content a new name",
            known.length
        );
        Err(Error::source(cut::place(name, 0), reason))
    }

    fn restored(state: &PartitionState) -> Result<Self> {
        let damaged = || Error::checkpoint(&state.topic, "its state is no state of a file");
        let Some(file) = &state.file else {
            return Err(if state.kafka.is_some() {
                super::filled_otherwise("Kafka", "a source of files")
            } else {
                damaged()
            });
        };
        let hash = u128::from_str_radix(&file.head, 16).map_err(|_| damaged())?;
        Ok(Self {
            position: u64::try_from(state.position).map_err(|_| damaged())?,
            length: file.length,
            modified: file.modified,
            format: Some(file.format),
            head: Some(Head { length: file.head_length, hash }),
            unread: file.unread,
            turn: file.turn,
            ended: file.ended,
            finished: state.finished,
        })
    }
}

impl Source for Files {
    fn restore(&mut self, states: &[PartitionState]) -> Result<()> {
        self.changed.clear();
        self.decoders.clear();
        // What was read of others since then is not committed: they begin anew.
        for entry in self.files.values_mut() {
            *entry = Entry { length: entry.length, modified: entry.modified, ..Entry::default() };
        }
        for state in states {
            self.files.insert(Arc::from(state.topic.as_str()), Entry::restored(state)?);
        }
        let names: Vec<_> = self.files.keys().cloned().collect();
        names.iter().for_each(|name| self.put_in_order(name));
        Ok(())
    }

    fn refresh(&mut self, now: i64) -> Result<()> {
        self.looked_at = Some(now);
        let mut found = BTreeMap::new();
        for pattern in &self.patterns {
            let mut files = Vec::new();
            pattern.find(&self.settings.base, &mut files)?;
            for (name, path) in files {
                let literal = pattern.literal().is_some();
                found.entry(name).and_modify(|(_, l)| *l |= literal).or_insert((path, literal));
            }
        }
        for (name, (path, literal)) in &found {
            self.look(name, path, *literal)?;
        }
        // Those that are not there any more.
        let gone: Vec<_> = self.waiting.iter().chain(&self.open).cloned().collect();
        for name in gone {
            if found.get(&*name).is_some_and(|(path, _)| path.exists()) {
                continue;
            }
            let position = self.files.get(&name).map_or(0, |e| e.position);
            if position > 0 {
                let reason = "the file is gone, or no longer named by source.files.paths, and was not read to its end; put it back";
                return Err(Error::source(cut::place(&name, position), reason));
            }
            self.waiting.remove(&name);
            self.files.remove(&name);
        }
        Ok(())
    }

    fn next(&mut self, times: &dyn PartitionTimes, want: &Want) -> Result<Option<Chunk>> {
        while let Some(name) = self.choose(times) {
            if let Some(chunk) = self.read_on(&name, want)? {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    fn read_range(&mut self, range: &Range, arrival: i64, each: &mut dyn FnMut(RawEvents) -> Result<()>) -> Result<()> {
        let name: Arc<str> = Arc::from(range.topic.as_str());
        let damaged = |_| Error::source(&*name, format!("{}..{} is no range of a file", range.from, range.to));
        let (from, to) = (u64::try_from(range.from).map_err(damaged)?, u64::try_from(range.to).map_err(damaged)?);
        if from >= to {
            return Ok(());
        }
        let mut file = text::open(&self.settings.base.join(&*name), &name)?;
        let length = file.metadata().map_err(|e| text::refused(&name, 0, &e))?.len();
        let head = text::head(&mut file, &name, HEAD)?;
        if let Some(entry) = self.files.get(&name) {
            entry.check_head(&name, &head)?;
        }
        let mut text = Text::open(file, &name, Format::of(&head, &name)?, from, length, Some(to), self.pool.clone())?;
        while text.position() < to {
            let stop = self.grid.after(text.position()).min(to);
            let piece = cut::piece(
                &mut text,
                &name,
                &self.grid,
                &Order { stop, events: usize::MAX, tail: Tail::Take, arrival },
            )?;
            if !piece.events.is_empty() {
                each(piece.events)?;
            }
            if piece.ended.is_some() && piece.end < to {
                return Err(text::shrank(&name, to, piece.end));
            }
        }
        Ok(())
    }

    fn partitions(&self) -> Vec<PartitionStatus> {
        let status = |(name, entry): (&Arc<str>, &Entry)| PartitionStatus {
            topic: name.to_string(),
            partition: 0,
            progress: match entry {
                Entry { finished: true, .. } => Progress::Finished,
                Entry { ended: true, .. } => Progress::CaughtUp,
                Entry { position: 0, .. } => Progress::Waiting,
                _ => Progress::Open,
            },
            newest: (entry.length > 0).then_some(entry.modified),
            position: i64::try_from(entry.position).unwrap_or(i64::MAX),
            end: None,
            as_of: self.looked_at.filter(|_| entry.ended || entry.finished),
        };
        self.files.iter().map(status).collect()
    }

    fn changes(&mut self) -> Vec<PartitionState> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().filter_map(|name| self.state(name)).collect()
    }

    fn snapshot(&self) -> Vec<PartitionState> {
        self.files.keys().filter_map(|name| self.state(name)).collect()
    }

    fn unread(&self) -> Vec<Unread> {
        let left = self.files.iter().filter(|(_, e)| e.finished && e.unread > 0);
        let unread = left.map(|(name, entry)| Unread {
            topic: name.to_string(),
            from: entry.position as i64,
            bytes: entry.unread as i64,
        });
        unread.collect()
    }
}

#[cfg(test)]
mod tests;
