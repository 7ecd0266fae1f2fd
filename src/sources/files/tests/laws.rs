//! Laws: any cut gives the same events, and every range is read again as it was.

use super::*;

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
                    files.refresh(0).unwrap();
                    assert_eq!(files.snapshot(), states);
                }
            }
            (ranges, files.snapshot())
        };
        prop_assert_eq!(run(&[false]), run(&stops));
    }
}
