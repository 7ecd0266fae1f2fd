//! Laws: a batch is a stream, in any cut, saved, spilled or late; against sessions that are obviously right.

use super::*;

/// The obviously right sessions: the events of each entity in order, one after the other.
fn model(events: &[Event], settings: SessionSettings) -> (BTreeMap<i64, Place>, Vec<Row>) {
    let mut by_entity: BTreeMap<Option<String>, Vec<&Event>> = BTreeMap::new();
    events.iter().for_each(|e| by_entity.entry(e.entity.clone()).or_default().push(e));
    let (mut places, mut rows) = (BTreeMap::new(), Vec::new());
    for (entity, mut events) in by_entity {
        events.sort_by_key(|e| (e.time, e.topic.clone(), e.partition, e.offset));
        let mut sessions: Vec<Vec<&Event>> = Vec::new();
        for event in events {
            let same = sessions.last().is_some_and(|session| {
                event.time - session.last().unwrap().time <= settings.gap
                    && settings.max_duration.is_none_or(|max| event.time - session[0].time < max)
            });
            match same {
                true => sessions.last_mut().unwrap().push(event),
                false => sessions.push(vec![event]),
            }
        }
        for session in sessions {
            let start = session[0].time;
            let id = format!("{:032x}", entity_at(entity.as_deref().map_or(&[0xFF], str::as_bytes), start));
            let mut counts: BTreeMap<String, i64> = BTreeMap::new();
            for (i, event) in session.iter().enumerate() {
                places.insert(event.offset, (id.clone(), start, i as i64 + 1));
                *counts.entry(event.event_type.clone()).or_default() += 1;
            }
            let end = session.last().unwrap().time;
            rows.push((start, id, entity.clone(), end, session.len() as i64, counts.into_iter().collect()));
        }
    }
    rows.sort();
    (places, rows)
}

fn event() -> impl Strategy<Value = (Option<String>, String, i64, String, i32)> {
    let entity = prop_oneof![Just(None), Just(Some(String::new())), "[ab]".prop_map(Some)];
    (entity, "[xyz]", 0i64..6, "[st]", 0i32..2)
}

/// Events whose time goes on by `pace`, give or take the jitter; offsets shuffled against the order of arrival.
fn events(pace: i64) -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(event(), 0..40)
        .prop_flat_map(|raw| {
            let offsets = Just((0..raw.len() as i64).collect::<Vec<_>>()).prop_shuffle();
            (Just(raw), offsets)
        })
        .prop_map(move |(raw, offsets)| {
            let number = |(i, ((entity, event_type, jitter, topic, partition), offset))| Event {
                entity,
                event_type,
                time: i as i64 * pace - jitter - 20,
                topic,
                partition,
                offset,
            };
            raw.into_iter().zip(offsets).enumerate().map(number).collect()
        })
}

fn settings() -> impl Strategy<Value = SessionSettings> {
    (0i64..5, prop::option::of(1i64..12)).prop_map(|(gap, max_duration)| SessionSettings { gap, max_duration })
}

/// After each event: nothing, a new batch, a commit, or a commit and one of the ways of being saved.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Push,
    Commit,
    Snapshot,
    Deltas,
    Uncommitted,
}

fn afters() -> impl Strategy<Value = Vec<After>> {
    let after = prop_oneof![
        4 => Just(After::Nothing), 2 => Just(After::Push), 2 => Just(After::Commit),
        1 => Just(After::Snapshot), 1 => Just(After::Deltas), 1 => Just(After::Uncommitted)
    ];
    prop::collection::vec(after, 40)
}

fn through_ipc(parts: &StateParts) -> StateParts {
    parts
        .iter()
        .map(|(name, batch)| (name.clone(), from_ipc(name, &to_ipc(batch).unwrap().into_whole()).unwrap()))
        .collect()
}

#[derive(Default)]
struct Output {
    accepted: Vec<Event>,
    events: Vec<Vec<RecordBatch>>,
    sessions: Vec<RecordBatch>,
}

/// Runs events through a stream that is cut, and saved where `save` says so.
fn stream(events: &[Event], settings: SessionSettings, lateness: i64, afters: &[After], save: bool) -> Output {
    spilling_stream(events, settings, lateness, afters, save, &[])
}

/// The same; after each push so many hundredths of the memory of what is held are wanted back.
fn spilling_stream(
    events: &[Event],
    settings: SessionSettings,
    lateness: i64,
    afters: &[After],
    save: bool,
    wants: &[usize],
) -> Output {
    let place = Arc::new(Memory::default());
    let fresh = || Sessionizer::new(settings, schema()).unwrap().spilling_to(place.clone());
    let mut stream = fresh();
    let mut out = Output::default();
    let mut log = Saved::default();
    let (mut watermark, mut highest) = (None, i64::MIN);
    let mut tick: Vec<Event> = Vec::new();
    for (n, (event, after)) in events.iter().zip(afters).enumerate() {
        highest = highest.max(event.time);
        if watermark.is_none_or(|w| event.time >= w) {
            tick.push(event.clone());
            out.accepted.push(event.clone());
        }
        if *after == After::Nothing {
            continue;
        }
        stream.push(batch(&std::mem::take(&mut tick))).unwrap();
        if let Some(want) = wants.get(n).filter(|want| **want > 0) {
            let (held, before) = (stream.pending(), stream.held_memory());
            let freed = stream.spill((before * want).div_ceil(100)).unwrap();
            assert_eq!((stream.pending(), stream.held_memory()), (held, before - freed));
            assert!(before == 0 || place.usage().files > 0);
        }
        if !matches!(after, After::Push | After::Uncommitted) {
            watermark = watermark.max(Some(highest - lateness));
            let released = stream.advance(highest - lateness).unwrap();
            out.events.push(plain(&released.events));
            out.sessions.push(released.sessions);
        }
        if !save {
            continue;
        }
        let snapshot = through_ipc(&stream.snapshot().unwrap());
        for n in 1..4 {
            assert_eq!(merge(&split(&snapshot, n).unwrap()).unwrap(), snapshot);
        }
        let mut loaded = fresh();
        match after {
            After::Snapshot | After::Uncommitted => {
                loaded.load(&snapshot).unwrap();
                // What was not in a delta yet would be lost to the log: a snapshot begins it anew.
                log = Saved::whole(&stream);
            }
            After::Deltas => {
                log.add(&mut stream, false);
                log.load(&mut loaded);
            }
            _ => {
                log.add(&mut stream, *after == After::Commit);
                continue;
            }
        }
        assert_eq!(loaded.snapshot().unwrap(), snapshot);
        assert_eq!(loaded.pending(), stream.pending());
        stream = loaded;
    }
    stream.push(batch(&tick)).unwrap();
    let released = stream.flush_all().unwrap();
    out.events.push(plain(&released.events));
    out.sessions.push(released.sessions);
    assert_eq!((stream.pending(), stream.open_sessions()), (0, 0));
    out
}

fn check(
    events: &[Event],
    settings: SessionSettings,
    lateness: i64,
    afters: &[After],
) -> Result<Output, TestCaseError> {
    let out = stream(events, settings, lateness, afters, false);
    let (expected, rows) = model(&out.accepted, settings);
    let released: Vec<(i64, Place)> = out.events.iter().flat_map(|batches| places(batches)).collect();
    prop_assert_eq!(released.len(), expected.len());
    prop_assert_eq!(released.into_iter().collect::<BTreeMap<_, _>>(), expected);
    for sessions in &out.sessions {
        prop_assert!(session_rows(sessions).is_sorted());
    }
    let mut closed: Vec<Row> = out.sessions.iter().flat_map(session_rows).collect();
    closed.sort();
    prop_assert_eq!(closed, rows);
    Ok(out)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Disorder within the lateness: whatever the cut, the stream says what the batch says, and nothing is late.
    #[test]
    fn batch_is_stream(events in events(2), settings in settings(), afters in afters()) {
        let out = check(&events, settings, 5, &afters)?;
        prop_assert_eq!(&out.accepted, &events);
        let whole = sessionize(&[batch(&events)], "entity", "event_time", settings.gap, settings.max_duration).unwrap();
        prop_assert_eq!(places(&whole).into_iter().collect::<BTreeMap<_, _>>(), model(&events, settings).0);
    }

    /// Any input under any cut: what is not late is put into the sessions that the model has for it.
    #[test]
    fn late_events_change_nothing(events in events(1), settings in settings(), afters in afters(), lateness in 0i64..4) {
        check(&events, settings, lateness, &afters)?;
    }

    /// Saved and loaded at any point, as a whole or as deltas: the same batches, cut the same way, row for row.
    #[test]
    fn saving_changes_nothing(events in events(1), settings in settings(), afters in afters(), lateness in 0i64..6) {
        let never = stream(&events, settings, lateness, &afters, false);
        let saved = stream(&events, settings, lateness, &afters, true);
        prop_assert_eq!(never.events, saved.events);
        prop_assert_eq!(never.sessions, saved.sessions);
    }

    /// Spilled at any point, however much of it, saved or not: the same batches, cut the same way, row for row.
    #[test]
    fn spilling_changes_nothing(
        events in events(1),
        settings in settings(),
        afters in afters(),
        lateness in 0i64..12,
        wants in prop::collection::vec(0usize..101, 40),
        save in any::<bool>(),
    ) {
        let never = stream(&events, settings, lateness, &afters, save);
        let spilled = spilling_stream(&events, settings, lateness, &afters, save, &wants);
        prop_assert_eq!(never.events, spilled.events);
        prop_assert_eq!(never.sessions, spilled.sessions);
    }

    /// Any order of arrival inside an epoch gives the same.
    #[test]
    fn order_within_an_epoch_does_not_matter(
        (events, shuffled) in events(1).prop_flat_map(|e| (Just(e.clone()), Just(e).prop_shuffle())),
        settings in settings(),
    ) {
        let run = |events: &[Event]| {
            let mut stream = Sessionizer::new(settings, schema()).unwrap();
            events.chunks(3).for_each(|chunk| stream.push(batch(chunk)).unwrap());
            let released = stream.advance(0).unwrap();
            let rest = stream.flush_all().unwrap();
            let places = places(&[released.events, rest.events].concat()).into_iter().collect::<BTreeMap<_, _>>();
            (places, released.sessions, rest.sessions)
        };
        prop_assert_eq!(run(&events), run(&shuffled));
    }

    /// Rows come out in the order in which they went in, one batch for each batch.
    #[test]
    fn rows_keep_their_order(events in events(1), cut in 1usize..8, watermark in -20i64..20) {
        let mut stream = Sessionizer::new(SessionSettings { gap: 1, max_duration: None }, schema()).unwrap();
        events.chunks(cut).for_each(|chunk| stream.push(batch(chunk)).unwrap());
        let released = stream.advance(watermark).unwrap();
        let offsets: Vec<Vec<i64>> =
            released.events.iter().map(|b| get::<Int64Array>(b, "_offset").values().to_vec()).collect();
        let expected: Vec<Vec<i64>> = events
            .chunks(cut)
            .map(|chunk| chunk.iter().filter(|e| e.time < watermark).map(|e| e.offset).collect())
            .filter(|rows: &Vec<i64>| !rows.is_empty())
            .collect();
        prop_assert_eq!(offsets, expected);
        prop_assert_eq!(stream.pending(), events.iter().filter(|e| e.time >= watermark).count());
    }

    /// The batch keeps rows and columns as they are, whatever the cut into batches and the type of the entity.
    #[test]
    fn a_batch_keeps_its_rows(events in events(1), settings in settings(), cut in 1usize..12) {
        let batches: Vec<RecordBatch> = events.chunks(cut).map(batch).collect();
        let out = sessionize(&batches, "entity", "event_time", settings.gap, settings.max_duration).unwrap();
        prop_assert_eq!(places(&out).into_iter().collect::<BTreeMap<_, _>>(), model(&events, settings).0);
        for (before, after) in batches.iter().zip(&out) {
            prop_assert_eq!(&after.columns()[..before.num_columns()], before.columns());
        }
        // Without positions, ties are broken by the order given: the numbers are a session's rows in some order of time.
        let bare: Vec<RecordBatch> = batches.iter().map(|b| b.project(&[1, 2, 6]).unwrap()).collect();
        let bare = sessionize(&bare, "entity", "event_time", settings.gap, settings.max_duration).unwrap();
        let start_of = |batches: &[RecordBatch]| places(batches).into_iter().map(|(o, p)| (o, (p.0, p.1))).collect::<BTreeMap<_, _>>();
        prop_assert_eq!(start_of(&bare), start_of(&out));
    }
}
