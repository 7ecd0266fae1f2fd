use std::fs::{self, File, OpenOptions};
use std::io::Write;

use arrow::array::Array;
use proptest::prelude::*;
use sha2::Digest;

use super::*;

mod laws;

const NO_TIMES: fn(&str, i32) -> Option<i64> = |_, _| None;
const ALL: Want = Want { bytes: usize::MAX >> 1, events: usize::MAX, arrival: 7 };
const TINY: Grid = Grid { first: 16, cell: 64, whole: 100, kept: 10 };

fn source(base: &std::path::Path, bounded: bool) -> Files {
    let paths = vec!["in/*".to_owned()];
    let mut files = Files::new(FilesSettings { base: base.to_path_buf(), paths, bounded }).unwrap();
    files.refresh(0).unwrap();
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

fn fails(files: &mut Files) -> String {
    let read = |files: &mut Files| {
        files.refresh(0)?;
        while files.next(&NO_TIMES, &ALL)?.is_some() {}
        Ok::<_, Error>(())
    };
    let error = read(files).unwrap_err();
    assert!(matches!(error, Error::Source { .. }), "{error:?}");
    error.to_string()
}

/// A source that goes on from what another has kept.
fn next_run(base: &std::path::Path, files: &Files, bounded: bool) -> Files {
    let paths = vec!["in/*".to_owned()];
    let mut next = Files::new(FilesSettings { base: base.to_path_buf(), paths, bounded }).unwrap();
    next.restore(&files.snapshot()).unwrap();
    next
}

#[test]
fn a_file_that_grows_is_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    write(base, "x", b"1\n2\n{\"half");
    let mut files = source(base, true);
    assert_eq!(all_rows(&chunks(&mut files, &ALL)), model(b"1\n2\n"));
    assert_eq!(files.unread(), [Unread { topic: "in/x".into(), from: 4, bytes: 6 }]);
    assert!(files.partitions()[0].progress == Progress::Finished);

    // Nothing new: nothing to read, and what is left is told again.
    let mut files = next_run(base, &files, true);
    files.refresh(0).unwrap();
    assert_eq!(chunks(&mut files, &ALL).len(), 0);
    assert_eq!(files.unread().len(), 1);

    append(base, "x", b"\":1}\n{\"whole\":1}");
    let mut files = next_run(base, &files, true);
    files.refresh(0).unwrap();
    assert_eq!(files.partitions()[0].progress, Progress::Open);
    let read = all_rows(&chunks(&mut files, &ALL));
    assert_eq!(read, [(4, b"{\"half\":1}".to_vec()), (15, b"{\"whole\":1}".to_vec())]);
    assert_eq!(files.unread(), []);

    // The end of the line that was taken without one is no event of its own.
    append(base, "x", b"\n3\n");
    files.refresh(0).unwrap();
    assert_eq!(all_rows(&chunks(&mut files, &ALL)), [(27, b"3".to_vec())]);
}

#[test]
fn unbounded_a_last_line_waits_for_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    write(base, "empty", b"");
    write(base, "x", b"1\n{}");
    let mut files = source(base, false);
    let read = chunks(&mut files, &ALL);
    assert_eq!(all_rows(&read), model(b"1\n"));
    assert!(read.iter().all(|c| !c.finished));
    assert!(files.partitions().iter().all(|p| p.progress == Progress::CaughtUp));
    assert_eq!(files.partitions()[0].newest, None);
    assert_eq!(files.unread(), []);
    // What is added is seen at the next look, not before.
    append(base, "x", b"\n4\n");
    assert!(files.next(&NO_TIMES, &ALL).unwrap().is_none());
    files.refresh(0).unwrap();
    assert_eq!(all_rows(&chunks(&mut files, &ALL)), [(2, b"{}".to_vec()), (5, b"4".to_vec())]);
    // A bounded run after it finishes what an unbounded one left open.
    write(base, "x", b"1\n{}\n4\n[5]");
    let mut files = next_run(base, &files, true);
    files.refresh(0).unwrap();
    let read = chunks(&mut files, &ALL);
    assert_eq!(all_rows(&read), [(7, b"[5]".to_vec())]);
    assert_eq!(read.iter().filter(|c| c.finished).count(), 2);
    assert!(files.partitions().iter().all(|p| p.progress == Progress::Finished));
}

#[test]
fn a_bounded_run_ends_where_the_file_ended() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    for (name, text) in [("gz", gzip(b"1\n2\n")), ("x", b"1\n2\n".to_vec())] {
        write(base, name, &text);
    }
    let mut files = source(base, true);
    append(base, "x", b"3\n");
    append(base, "gz", &gzip(b"3\n"));
    assert_eq!(all_rows(&chunks(&mut files, &ALL)).len(), 4);
    files.refresh(0).unwrap();
    assert_eq!(all_rows(&chunks(&mut files, &ALL)), [(4, b"3".to_vec()), (4, b"3".to_vec())]);
}

#[test]
fn a_file_that_is_not_what_it_was_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    let started = |text: &[u8]| {
        let _ = fs::remove_dir_all(base.join("in"));
        write(base, "x", text);
        let mut files = source(base, true);
        files.next(&NO_TIMES, &Want { events: 1, ..ALL }).unwrap().unwrap();
        files
    };
    for format in 0..3 {
        let text = packed(format, b"{\"a\":1}\n{\"b\":2}\n{\"c\":3}\n");
        let shorter = &text[..text.len() - 2];
        let mut changed = text.clone();
        changed[9] ^= 1;

        let files = started(&text);
        write(base, "x", shorter);
        let error = fails(&mut next_run(base, &files, true));
        assert!(error.contains("in/x, byte") && error.contains(&format!("had {} bytes", text.len())), "{error}");

        // Of the same length or longer, seen by its time; in the same run and in the next.
        for tail in ["", "{}\n"] {
            let mut files = started(&text);
            std::thread::yield_now();
            write(base, "x", &[&changed[..], tail.as_bytes()].concat());
            let later = std::time::SystemTime::now() + std::time::Duration::from_secs(10);
            File::options().append(true).open(base.join("in/x")).unwrap().set_modified(later).unwrap();
            assert!(fails(&mut next_run(base, &files, true)).contains("its first"));
            assert!(fails(&mut files).contains("its first"));
        }

        let mut files = started(&text);
        fs::remove_file(base.join("in/x")).unwrap();
        for files in [&mut next_run(base, &files, true), &mut files] {
            let error = fails(files);
            assert!(error.contains("in/x, byte 8: the file is gone"), "{error}");
        }
    }
    // Read to its end, or not begun, it may go.
    let mut files = started(b"1\n");
    assert!(files.partitions()[0].progress == Progress::Finished);
    write(base, "y", b"1\n");
    files.refresh(0).unwrap();
    fs::remove_dir_all(base.join("in")).unwrap();
    files.refresh(0).unwrap();
    assert!(files.next(&NO_TIMES, &ALL).unwrap().is_none());
    assert_eq!(files.snapshot().len(), 1);
}

#[test]
fn a_range_of_a_changed_file_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    for format in 0..3 {
        let text = b"{\"a\":1}\n{\"b\":2}\n";
        write(base, "x", &packed(format, text));
        let mut files = source(base, true);
        let range = files.next(&NO_TIMES, &ALL).unwrap().unwrap().range;
        let read =
            |files: &mut Files, range: &Range| files.read_range(range, 0, &mut |_| Ok(())).map_err(|e| e.to_string());
        assert_eq!(read(&mut files, &range), Ok(()));
        let beyond = Range { to: range.to + 1, ..range.clone() };
        assert!(read(&mut files, &beyond).unwrap_err().contains("17 bytes"));
        assert!(read(&mut files, &Range { from: 1 << 40, to: 2 << 40, ..range.clone() }).is_err());
        assert!(read(&mut files, &Range { from: -1, ..range.clone() }).is_err());
        write(base, "x", &packed(format, b"{\"A\":1}\n{\"b\":2}\n"));
        assert!(read(&mut files, &range).unwrap_err().contains("its first"));
        fs::remove_file(base.join("in/x")).unwrap();
        assert!(read(&mut files, &range).unwrap_err().contains("no such file"));
    }
}

#[test]
fn damaged_and_foreign_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    let lines: Vec<u8> = (0..50_000u64)
        .flat_map(|i| format!("{{\"n\":{}}}\n", i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20).into_bytes())
        .collect();
    for (text, name) in [(gzip(&lines), "gzip"), (zstd::encode_all(&lines[..], 3).unwrap(), "zstd")] {
        write(base, "x", &text[..text.len() / 2]);
        let error = fails(&mut source(base, true));
        assert!(error.contains("in/x, byte ") && error.contains(&format!("{name} data ends in the middle")), "{error}");
        let byte: usize = error.split("byte ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(byte > lines.len() / 4 && byte < lines.len(), "{error}");
        let mut broken = text.clone();
        let middle = broken.len() / 2;
        broken[middle..middle + 8].fill(0xff);
        write(base, "x", &broken);
        assert!(fails(&mut source(base, true)).contains(&format!("{name} data")));
        write(base, "x", &[&text[..], b"not compressed"].concat());
        let error = fails(&mut source(base, true));
        assert!(error.contains(&format!("byte {} of its text", lines.len())), "{error}");
    }
    for (head, word) in [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\x03\x04", "zip"),
        (b"PAR1", "Parquet"),
        (b"\xff\xfe{\0", "UTF-16"),
    ] {
        write(base, "x", head);
        assert!(fails(&mut source(base, true)).contains(word));
    }
    let literal = |path: &str| FilesSettings { base: base.to_path_buf(), paths: vec![path.into()], bounded: true };
    assert!(
        fails(&mut Files::new(literal("in")).unwrap()).contains("is a folder; name the files in it ('in/*.jsonl')")
    );
    assert!(fails(&mut Files::new(literal("nope.jsonl")).unwrap()).contains("nope.jsonl: there is no such file"));
    assert!(fails(&mut Files::new(literal("/dev/null")).unwrap()).contains("no regular file"));
}

#[test]
fn of_a_huge_line_little_is_held() {
    // As a compressed file it is small; decompressed it is larger than what may be held.
    const SIZE: u64 = 256 << 20;
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    fs::create_dir(base.join("in")).unwrap();
    let mut encoder = zstd::Encoder::new(File::create(base.join("in/x")).unwrap(), 1).unwrap();
    encoder.write_all(b"{\"before\":1}\n").unwrap();
    let part = vec![b'x'; 1 << 20];
    for _ in 0..SIZE >> 20 {
        encoder.write_all(&part).unwrap();
    }
    encoder.write_all(b"\r\n{\"after\":1}\n").unwrap();
    encoder.finish().unwrap();
    let mut files = source(base, true);
    let chunks = chunks(&mut files, &ALL);
    let pieces: Vec<_> = chunks.iter().flat_map(|c| &c.pieces).collect();
    assert_eq!(pieces.len(), 3);
    assert_eq!(pieces[0].values.value(0), b"{\"before\":1}");
    assert_eq!(pieces[1].values.value(0).len(), crate::events::KEPT_OF_LARGER);
    assert_eq!(pieces[1].truncated[0].length, SIZE);
    assert_eq!(pieces[2].offsets.value(0), 13 + SIZE as i64 + 2);
    assert_eq!(pieces[2].values.value(0), b"{\"after\":1}");
    assert_eq!(pieces.iter().map(|p| p.values.get_array_memory_size()).sum::<usize>() >> 20, 1);
}

#[test]
fn the_lowest_watermark_is_read_next() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    for name in ["a", "b", "c"] {
        write(base, name, "{}\n".repeat(100).as_bytes());
    }
    let mut files = source(base, true);
    files.grid = TINY;
    let want = Want { bytes: 100, ..ALL };
    let mut order = Vec::new();
    let times = |topic: &str, _| match topic {
        "in/a" => Some(30),
        "in/b" => Some(10),
        _ => Some(20),
    };
    while let Some(chunk) = files.next(&times, &want).unwrap() {
        order.push(chunk.range.topic.chars().last().unwrap());
    }
    // First a glance at each, then the lowest to its end.
    let order: String = order.into_iter().collect();
    assert_eq!(order, "abcbbbcccaaa");
}

#[test]
fn a_thousand_files_are_begun_before_one_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path();
    for i in 0..1000 {
        write(base, &format!("{i:04}"), &packed(i % 3, &b"{\"some\":\"text\"}\n".repeat(20)));
    }
    let mut files = source(base, true);
    files.grid = TINY;
    let want = Want { bytes: 200, ..ALL };
    let mut seen = BTreeSet::new();
    let mut events = 0;
    let times = |_: &str, _| Some(0);
    for n in 0.. {
        let Some(chunk) = files.next(&times, &want).unwrap() else { break };
        seen.insert(chunk.range.topic.clone());
        assert!(n >= 1000 || seen.len() == n + 1);
        events += chunk.pieces.iter().map(RawEvents::len).sum::<usize>();
        assert!(files.decoders.len() <= OPEN_DECODERS);
    }
    assert_eq!(events, 20_000);
}
