use std::collections::BTreeMap;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::*;
use crate::columns::moments;
use crate::hash::entity_at;
use crate::packed::{Text, packed_type};
use crate::spill::memory::Memory;
use crate::state::{Saved, StateParts, Stateful, from_ipc, merge, split, to_ipc};
use crate::time::MINUTE;

mod laws;

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
