use std::fs::{self, OpenOptions};
use std::io::Write;

use proptest::prelude::*;
use sha2::Digest;

use super::*;

const NO_TIMES: fn(&str, i32) -> Option<i64> = |_, _| None;
const ALL: Want = Want { bytes: usize::MAX >> 1, events: usize::MAX, arrival: 7 };
const TINY: Grid = Grid { first: 16, cell: 64, whole: 100, kept: 10 };

fn source(base: &std::path::Path, bounded: bool) -> Files {
    let paths = vec!["in/*".to_owned()];
    let mut files = Files::new(FilesSettings { base: base.to_path_buf(), paths, bounded }).unwrap();
    files.refresh().unwrap();
    files
}

fn write(base: &std::path::Path, name: &str, bytes: &[u8]) {
    let path = base.join("in").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn append(base: &std::path::Path, name: &str, bytes: &[u8]) {
    OpenOptions::new().append(true).open(base.join("in").join(name)).unwrap().write_all(bytes).unwrap();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn packed(format: usize, bytes: &[u8]) -> Vec<u8> {
    // Two members or frames: both formats may be concatenated.
    let (a, b) = bytes.split_at(bytes.len() / 2);
    match format {
        0 => bytes.to_vec(),
        1 => [gzip(a), gzip(b)].concat(),
        _ => [zstd::encode_all(a, 1).unwrap(), zstd::encode_all(b, 1).unwrap()].concat(),
    }
}

/// Offset and value of every event.
fn rows(events: &RawEvents) -> Vec<(i64, Vec<u8>)> {
    assert_eq!(events.offsets.len(), events.len());
    (0..events.len()).map(|i| (events.offsets.value(i), events.values.value(i).to_vec())).collect()
}

fn chunks(files: &mut Files, want: &Want) -> Vec<Chunk> {
    std::iter::from_fn(|| files.next(&NO_TIMES, want).unwrap()).collect()
}

fn all_rows(chunks: &[Chunk]) -> Vec<(i64, Vec<u8>)> {
    chunks.iter().flat_map(|c| &c.pieces).flat_map(rows).collect()
}

/// What lines there are, found the slow way.
fn model(text: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive(|b| *b == b'\n') {
        let mut value = line.strip_suffix(b"\n").unwrap_or(line);
        value = value.strip_suffix(b"\r").unwrap_or(value);
        value = if at == 0 { value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value) } else { value };
        if !value.iter().all(u8::is_ascii_whitespace) {
            rows.push((at, value.to_vec()));
        }
        at += line.len() as i64;
    }
    rows
}

#[test]
fn lines_of_every_kind() {
    let text = b"\xef\xbb\xbf{\"a\":1}\r\n\n  \t\r\n{\"a\":22222222222222222}\n\xff\xfe not text\n\r\n[1]";
    for format in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "x", &packed(format, text));
        let mut files = source(folder.path(), true);
        assert_eq!(files.partitions()[0].progress, Progress::Waiting);
        let chunks = chunks(&mut files, &ALL);
        assert_eq!(all_rows(&chunks), model(text));
        let last = chunks.last().unwrap();
        assert!(last.finished && last.range.to == text.len() as i64);
        assert_eq!(chunks[0].range.topic, "in/x");
        assert_eq!(chunks[0].pieces[0].arrival, 7);
        assert_eq!(files.partitions()[0].progress, Progress::Finished);
        assert_eq!(files.unread(), []);
        assert!(files.next(&NO_TIMES, &ALL).unwrap().is_none());
    }
}

/// Reads the ranges of these chunks again, in a source that knows nothing.
fn reread(base: &std::path::Path, grid: Grid, chunks: &[Chunk]) {
    let mut fresh = source(base, true);
    fresh.grid = grid;
    for chunk in chunks {
        let mut pieces = Vec::new();
        let mut each = |piece: RawEvents| {
            pieces.push(rows(&piece));
            assert_eq!(piece.arrival, 9);
            Ok(())
        };
        fresh.read_range(&chunk.range, 9, &mut each).unwrap();
        assert_eq!(pieces, chunk.pieces.iter().map(rows).collect::<Vec<_>>(), "{:?}", chunk.range);
    }
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => "[a-z\"{}: ]{1,30}".prop_map(String::into_bytes),
        2 => "\r|\r\r| |".prop_map(String::into_bytes),
        1 => "[a-z\r]{90,300}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// However much is asked for at a time, the events are those of the file, and every range reads again piece by piece
    /// as it was.
    #[test]
    fn any_cut_gives_the_same_pieces(
        lines in prop::collection::vec(line(), 0..40),
        ends in prop::collection::vec(any::<bool>(), 40),
        tail in "|\\{\\}|\\{\"a\"",
        format in 0..3usize,
        wants in prop::collection::vec((1usize..200, 1usize..20), 1..8),
    ) {
        let mut text = Vec::new();
        for (line, crlf) in lines.iter().zip(&ends) {
            text.extend_from_slice(line);
            text.extend_from_slice(if *crlf { b"\r\n" } else { b"\n" });
        }
        let complete = text.len();
        text.extend_from_slice(tail.as_bytes());
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "x", &packed(format, &text));

        let mut files = source(folder.path(), true);
        files.grid = TINY;
        let mut chunks = Vec::new();
        let mut wants = wants.into_iter().cycle();
        loop {
            let (bytes, events) = wants.next().unwrap();
            let Some(chunk) = files.next(&NO_TIMES, &Want { bytes, events, arrival: 9 }).unwrap() else { break };
            prop_assert!(chunk.pieces.iter().map(RawEvents::len).sum::<usize>() <= events);
            chunks.push(chunk);
        }
        // The chunks cover the text without a gap.
        let taken = if tail == "{}" { text.len() } else { complete };
        let mut at = 0;
        for chunk in &chunks {
            prop_assert_eq!(chunk.range.from, at);
            at = chunk.range.to;
        }
        prop_assert_eq!(at, taken as i64);
        let unread = Unread { topic: "in/x".into(), from: taken as i64, bytes: (text.len() - taken) as i64 };
        prop_assert_eq!(files.unread(), if taken < text.len() { vec![unread] } else { vec![] });
        // The events are those of the model; of large ones the beginning, the length and the hash.
        let model = model(&text[..taken]);
        let mut expected = model.iter();
        for piece in chunks.iter().flat_map(|c| &c.pieces) {
            for (row, (offset, value)) in rows(piece).into_iter().enumerate() {
                let (at, whole) = expected.next().unwrap();
                prop_assert_eq!(offset, *at);
                match piece.truncated.iter().find(|t| t.row as usize == row) {
                    None => prop_assert!(value == *whole && whole.len() <= TINY.whole),
                    Some(t) => {
                        prop_assert_eq!(&value[..], &whole[..TINY.kept]);
                        prop_assert!(t.length == whole.len() as u64 && whole.len() > TINY.whole);
                        prop_assert!(sha2::Sha256::digest(whole).as_slice() == t.sha256);
                    }
                }
            }
        }
        prop_assert!(expected.next().is_none());
        reread(folder.path(), TINY, &chunks);
    }

    /// Stopping anywhere and going on from what a commit keeps gives what would have been read without stopping.
    #[test]
    fn a_new_run_goes_on(
        files in prop::collection::vec((0..3usize, 1..60usize), 1..5),
        wants in prop::collection::vec((1usize..300, 1usize..20), 1..6),
        stops in prop::collection::vec(any::<bool>(), 1..10),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (i, (format, lines)) in files.iter().enumerate() {
            let text: String = (0..*lines).map(|l| format!("{{\"file\":{i},\"line\":{l}}}\n")).collect();
            write(folder.path(), &format!("f{i}"), &packed(*format, text.as_bytes()));
        }
        // Times as an engine would know them: how far each file was read.
        let run = |stops: &[bool]| {
            let mut files = source(folder.path(), true);
            files.grid = TINY;
            let mut times: BTreeMap<String, i64> = BTreeMap::new();
            let mut ranges = Vec::new();
            let mut kept: BTreeMap<String, PartitionState> = BTreeMap::new();
            for ((bytes, events), stop) in wants.iter().cycle().zip(stops.iter().cycle()) {
                let time = |topic: &str, _| times.get(topic).copied();
                let Some(chunk) = files.next(&time, &Want { bytes: *bytes, events: *events, arrival: 0 }).unwrap() else { break };
                times.insert(chunk.range.topic.clone(), chunk.range.to);
                ranges.push(chunk.range);
                for state in files.changes() {
                    kept.insert(state.topic.clone(), state);
                }
                if *stop {
                    let text = serde_json::to_string(&kept.values().collect::<Vec<_>>()).unwrap();
                    let states: Vec<PartitionState> = serde_json::from_str(&text).unwrap();
                    files = source(folder.path(), true);
                    files.grid = TINY;
                    files.restore(&states).unwrap();
                    files.refresh().unwrap();
                    assert_eq!(files.snapshot(), states);
                }
            }
            (ranges, files.snapshot())
        };
        prop_assert_eq!(run(&[false]), run(&stops));
    }
}
