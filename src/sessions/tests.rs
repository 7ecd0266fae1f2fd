use std::collections::BTreeMap;

use arrow::array::{Array, Int32Array, ListArray, StructArray, TimestampMicrosecondArray};
use proptest::prelude::*;

use super::*;
use arrow::compute::cast;

use crate::hash::entity_at;
use crate::packed::packed_type;
use crate::spill::memory::Memory;
use crate::state::{Saved, StateParts, Stateful, from_ipc, merge, split, to_ipc};
use crate::time::MINUTE;

#[derive(Debug, Clone, PartialEq)]
struct Event {
    entity: Option<String>,
    event_type: String,
    time: i64,
    topic: String,
    partition: i32,
    offset: i64,
}

/// What sessions say of an event: id, start, number.
type Place = (String, i64, i64);
/// A session: start, id, entity, end, events, counts.
type Row = (i64, String, Option<String>, i64, i64, Vec<(String, i64)>);

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("event_type", DataType::Utf8, true),
        moment_field("event_time", false),
        Field::new("entity", DataType::Utf8, true),
        Field::new("replayed", DataType::Boolean, true),
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
    ]))
}

fn batch(events: &[Event]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(events.iter().map(|e| &e.event_type))),
        Arc::new(moments(events.iter().map(|e| e.time).collect::<Vec<_>>())),
        Arc::new(events.iter().map(|e| e.entity.as_deref()).collect::<StringArray>()),
        Arc::new(BooleanArray::from(vec![false; events.len()])),
        Arc::new(StringArray::from_iter_values(events.iter().map(|e| &e.topic))),
        Arc::new(Int32Array::from_iter_values(events.iter().map(|e| e.partition))),
        Arc::new(Int64Array::from_iter_values(events.iter().map(|e| e.offset))),
    ];
    // Some come packed, as the contract hands them over.
    let packs = |column: &ArrayRef| events.len() % 2 == 1 && *column.data_type() == DataType::Utf8;
    let pack = |column: ArrayRef| if packs(&column) { cast(&column, &packed_type()).unwrap() } else { column };
    packed::batch(&schema(), columns.into_iter().map(pack).collect()).unwrap()
}

/// The batches without what is packed: that says nothing of what they are.
fn plain(batches: &[RecordBatch]) -> Vec<RecordBatch> {
    batches.iter().map(|batch| packed::plain_rows(batch).unwrap()).collect()
}

fn get<'a, A: 'static>(batch: &'a RecordBatch, name: &str) -> &'a A {
    batch[name].as_any().downcast_ref().unwrap()
}

/// What the rows of a batch say, by offset.
fn places(batches: &[RecordBatch]) -> Vec<(i64, Place)> {
    let mut out = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            out.push((
                get::<Int64Array>(batch, "_offset").value(row),
                (
                    Text::of(&batch["session_id"]).unwrap().get(row).unwrap().to_string(),
                    get::<TimestampMicrosecondArray>(batch, "session_start").value(row),
                    get::<Int64Array>(batch, "session_seq").value(row),
                ),
            ));
        }
    }
    out
}

fn session_rows(batch: &RecordBatch) -> Vec<Row> {
    let entities: &StringArray = get(batch, "entity");
    (0..batch.num_rows())
        .map(|row| {
            let (start, end) = (
                get::<TimestampMicrosecondArray>(batch, "session_start").value(row),
                get::<TimestampMicrosecondArray>(batch, "session_end").value(row),
            );
            assert_eq!(get::<Int64Array>(batch, "duration_us").value(row), end - start);
            let counts = get::<ListArray>(batch, "counts").value(row);
            let counts: &StructArray = counts.as_struct();
            let types = counts.column(0).as_string::<i32>().iter().map(|t| t.unwrap().to_string());
            let numbers = counts.column(1).as_primitive::<Int64Type>().values().iter().copied();
            (
                start,
                get::<StringArray>(batch, "session_id").value(row).to_string(),
                entities.is_valid(row).then(|| entities.value(row).to_string()),
                end,
                get::<Int64Array>(batch, "events").value(row),
                types.zip(numbers).collect(),
            )
        })
        .collect()
}

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
    parts.iter().map(|(name, batch)| (name.clone(), from_ipc(name, &to_ipc(batch).unwrap()).unwrap())).collect()
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

fn at(entity: &str, time: i64, offset: i64) -> Event {
    Event { entity: Some(entity.into()), event_type: "x".into(), time, topic: "t".into(), partition: 0, offset }
}

#[test]
fn exactly_the_gap_goes_on_and_exactly_the_maximum_does_not() {
    let settings = SessionSettings { gap: 30 * MINUTE, max_duration: Some(60 * MINUTE) };
    let times = [0, 30 * MINUTE, 60 * MINUTE - 1, 60 * MINUTE, 90 * MINUTE + 1];
    let events: Vec<Event> = times.iter().zip(0..).map(|(t, o)| at("u", *t, o)).collect();
    let out = sessionize(&[batch(&events)], "entity", "event_time", settings.gap, settings.max_duration).unwrap();
    let numbers: Vec<i64> = places(&out).into_iter().map(|(_, place)| place.2).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 1]);
}

#[test]
fn a_session_closes_when_no_event_can_join_it() {
    let mut stream = Sessionizer::new(SessionSettings { gap: 10, max_duration: None }, schema()).unwrap();
    stream.push(batch(&[at("u", 100, 0)])).unwrap();
    assert_eq!(stream.advance(100).unwrap().events.len(), 0, "released when strictly below the watermark");
    let released = stream.advance(110).unwrap();
    assert_eq!((released.events.len(), released.sessions.num_rows()), (1, 0), "an event at 110 would still join");
    assert_eq!(stream.advance(111).unwrap().sessions.num_rows(), 1);
}

#[test]
fn after_a_flush_an_entity_begins_anew() {
    let settings = SessionSettings { gap: 10, max_duration: None };
    let mut stream = Sessionizer::new(settings, schema()).unwrap();
    stream.push(batch(&[at("u", 100, 0), at("v", 90, 1)])).unwrap();
    stream.delta().unwrap();
    let mut log = Saved::whole(&stream);
    let flushed = stream.flush_all().unwrap();
    assert_eq!((flushed.events.len(), flushed.sessions.num_rows()), (1, 2));
    stream.push(batch(&[at("u", 101, 2)])).unwrap();
    log.add(&mut stream, true);
    let mut loaded = Sessionizer::new(settings, schema()).unwrap();
    log.load(&mut loaded);
    assert_eq!(loaded.snapshot().unwrap(), stream.snapshot().unwrap());
    let rest = loaded.flush_all().unwrap();
    assert_eq!(session_rows(&rest.sessions)[0].0, 101);
    assert!(stream.push(batch(&[at("u", 50, 3)])).unwrap_err().to_string().contains("below the watermark"));
}

#[test]
fn null_and_empty_are_two_entities() {
    let events = [Event { entity: None, ..at("", 1, 0) }, at("", 1, 1), Event { entity: None, ..at("", 2, 2) }];
    let out = sessionize(&[batch(&events)], "entity", "event_time", 5, None).unwrap();
    let out: BTreeMap<i64, Place> = places(&out).into_iter().collect();
    assert_ne!(out[&0].0, out[&1].0);
    assert_eq!((&out[&0].0, out[&2].2), (&out[&2].0, 2));
}

#[test]
fn the_session_columns_stand_before_the_position() {
    let stream = Sessionizer::new(SessionSettings { gap: 1, max_duration: None }, schema()).unwrap();
    let names: Vec<String> = stream.output_schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names[3..7], ["session_id", "session_start", "session_seq", "replayed"]);
}

#[test]
fn a_delta_holds_what_changed() {
    let mut stream = Sessionizer::new(SessionSettings { gap: 1_000, max_duration: None }, schema()).unwrap();
    let many: Vec<Event> = (0..1_000).map(|i| at(&format!("u{i}"), i, i)).collect();
    stream.push(batch(&many)).unwrap();
    stream.advance(500).unwrap();
    stream.delta().unwrap();
    stream.push(batch(&[at("u0", 600, 2_000), at("new", 700, 2_001)])).unwrap();
    stream.advance(503).unwrap();
    let rows: Vec<(String, usize)> =
        stream.delta().unwrap().into_iter().map(|c| (c.table, c.rows.num_rows())).collect();
    let expected = [("sessions/pending", 2), ("sessions/open", 3), ("sessions/meta", 1)];
    assert_eq!(rows, expected.map(|(name, n)| (name.to_string(), n)));
}

#[test]
fn a_contract_may_gain_columns_but_not_lose_them() {
    let settings = SessionSettings { gap: 1, max_duration: None };
    let mut old = Sessionizer::new(settings, schema()).unwrap();
    old.push(batch(&[at("u", 1, 0)])).unwrap();
    let snapshot = old.snapshot().unwrap();
    let mut fields = schema().fields().to_vec();
    fields.insert(3, Arc::new(Field::new("amount", DataType::Int64, true)));
    let mut more = Sessionizer::new(settings, Arc::new(Schema::new(fields.clone()))).unwrap();
    more.load(&snapshot).unwrap();
    assert_eq!(more.flush_all().unwrap().events[0]["amount"].null_count(), 1);
    fields.retain(|f| f.name() != "amount" && f.name() != "replayed");
    let mut fewer = Sessionizer::new(settings, Arc::new(Schema::new(fields))).unwrap();
    assert!(fewer.load(&snapshot).unwrap_err().to_string().contains("'replayed'"));
}

#[test]
fn a_shorter_gap_closes_what_was_open() {
    let mut old = Sessionizer::new(SessionSettings { gap: 100, max_duration: None }, schema()).unwrap();
    old.push(batch(&[at("u", 1, 0)])).unwrap();
    old.advance(50).unwrap();
    let mut new = Sessionizer::new(SessionSettings { gap: 10, max_duration: None }, schema()).unwrap();
    new.load(&old.snapshot().unwrap()).unwrap();
    assert_eq!(new.advance(50).unwrap().sessions.num_rows(), 1, "the session is written, not forgotten");
}

#[test]
fn entities_that_are_numbers_are_known_by_their_text() {
    let columns: [(&str, ArrayRef); 2] =
        [("user", Arc::new(Int64Array::from(vec![42, 42]))), ("at", Arc::new(moments(vec![0, 1])))];
    let out = sessionize(&[RecordBatch::try_from_iter(columns).unwrap()], "user", "at", 5, None).unwrap();
    assert_eq!(get::<StringArray>(&out[0], "session_id").value(1), format!("{:032x}", entity_at(b"42", 0)));
}

#[test]
fn errors_say_what_to_do() {
    let events = batch(&[at("u", 1, 0)]);
    let error =
        |entity, at, gap| sessionize(std::slice::from_ref(&events), entity, at, gap, None).unwrap_err().to_string();
    assert!(error("entty", "event_time", 1).contains("did you mean 'entity'?"));
    assert!(error("entity", "_offset", 1).contains("not a timestamp"));
    assert!(error("entity", "event_time", -1).contains("negative"));
    let again = sessionize(std::slice::from_ref(&events), "entity", "event_time", 1, None).unwrap();
    assert!(
        sessionize(&again, "entity", "event_time", 1, None).unwrap_err().to_string().contains("'session_id' already")
    );
    assert!(sessionize(&[], "entity", "event_time", 1, None).unwrap().is_empty());
}

#[test]
fn many_event_types_are_forgotten() {
    let mut stream = Sessionizer::new(SessionSettings { gap: 1, max_duration: None }, schema()).unwrap();
    for round in 0..10 {
        let events: Vec<Event> =
            (0..500).map(|i| Event { event_type: format!("{round}-{i}"), ..at("u", round * 10, i) }).collect();
        stream.push(batch(&events)).unwrap();
        stream.advance(round * 10 + 1).unwrap();
    }
    assert!(stream.types.len() < 2_000, "{} types known", stream.types.len());
    let last = stream.flush_all().unwrap().sessions;
    let row = &session_rows(&last)[0];
    assert_eq!((row.4, row.5.len()), (500, 500));
}
