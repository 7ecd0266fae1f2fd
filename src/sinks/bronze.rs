//! Bronze: every event as it came.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BinaryViewArray, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StringViewArray, StructArray, TimestampMicrosecondArray, make_view, new_null_array,
};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use sha2::{Digest, Sha256};

use crate::error::Result;
use crate::events::{Headers, KEPT_OF_LARGER, RawEvents, WHOLE_VALUE};
use crate::lake::layout::{OTHER, Partition};
use crate::time::DAY;

/// The broker's time says the day, unless it is further than this from the arrival: then it is not to be believed.
const BELIEVED: i64 = 7 * DAY;

/// The columns of Bronze.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(fields()))
}

pub(super) fn fields() -> Vec<Field> {
    vec![
        Field::new("topic", DataType::Utf8View, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("timestamp", time(), true),
        Field::new("timestamp_type", DataType::Utf8, true),
        Field::new("key", DataType::Binary, true),
        Field::new("headers", DataType::List(header()), true),
        Field::new("value", DataType::BinaryView, true),
        Field::new("value_length", DataType::Int64, true),
        Field::new("value_sha256", DataType::Binary, true),
        Field::new("ingested_at", time(), false),
        Field::new("event_time", time(), true),
    ]
}

/// The type of every moment.
pub(super) fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn header() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Struct(header_fields()), false))
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

/// The rows of Bronze for these events. `event_time` is what the contract read, for every event.
///
/// # Errors
/// [`crate::Error::Data`] when the parts of the events do not agree in length.
pub fn batch(events: &RawEvents, event_time: &[Option<i64>]) -> Result<RecordBatch> {
    Ok(RecordBatch::try_new(schema(), columns(events, event_time)?)?)
}

pub(super) fn columns(events: &RawEvents, event_time: &[Option<i64>]) -> Result<Vec<ArrayRef>> {
    let rows = events.len();
    let (value, length, sha256) = values(events)?;
    let (timestamp, kind): (ArrayRef, ArrayRef) = match &events.timestamps {
        Some(times) => (Arc::new(times.clone().with_timezone("UTC")), timestamp_types(times, events.timestamp_type)),
        None => (new_null_array(&time(), rows), new_null_array(&DataType::Utf8, rows)),
    };
    let key: ArrayRef = match &events.keys {
        Some(keys) => Arc::new(keys.clone()),
        None => new_null_array(&DataType::Binary, rows),
    };
    let headers: ArrayRef = match &events.headers {
        Some(headers) => Arc::new(header_lists(headers)?),
        None => new_null_array(&DataType::List(header()), rows),
    };
    Ok(vec![
        Arc::new(repeated(&events.topic, rows)?),
        Arc::new(Int32Array::from_value(events.partition, rows)),
        Arc::new(events.offsets.clone()),
        timestamp,
        kind,
        key,
        headers,
        Arc::new(value),
        Arc::new(length),
        sha256,
        Arc::new(TimestampMicrosecondArray::from_value(events.arrival, rows).with_timezone("UTC")),
        Arc::new(event_time.iter().copied().collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
    ])
}

/// For every event the partition that it belongs to: an index into the partitions. `event_type` gives for every event an
/// index into `names`, or one beyond for a type that the contract does not name.
pub fn partitions(events: &RawEvents, event_type: &[u16], names: &[&str]) -> (Vec<u32>, Vec<Partition>) {
    let name = |kind: u16| names.get(usize::from(kind)).copied().unwrap_or(OTHER);
    let kinds = names.len() + 1;
    let mut days: Vec<i64> = Vec::new();
    let mut group_of: Vec<u32> = Vec::new();
    let mut partitions = Vec::new();
    let mut groups = Vec::with_capacity(event_type.len());
    for (row, kind) in event_type.iter().enumerate() {
        let day = ingest_time(events, row).div_euclid(DAY);
        let day_at = match days.iter().rposition(|d| *d == day) {
            Some(at) => at,
            None => {
                days.push(day);
                group_of.resize(days.len() * kinds, u32::MAX);
                days.len() - 1
            }
        };
        let group = &mut group_of[day_at * kinds + usize::from(*kind).min(kinds - 1)];
        if *group == u32::MAX {
            *group = partitions.len() as u32;
            partitions.push(Partition::day(day).and("event_type", name(*kind)));
        }
        groups.push(*group);
    }
    (groups, partitions)
}

/// The time that says in which day's partition an event lies: the broker's, or the arrival when the two are far apart.
pub fn ingest_time(events: &RawEvents, row: usize) -> i64 {
    let broker = events.timestamps.as_ref().filter(|t| t.is_valid(row)).map(|t| t.value(row));
    match broker {
        Some(time) if time.abs_diff(events.arrival) <= BELIEVED as u64 => time,
        _ => events.arrival,
    }
}

/// The values as they are kept, their lengths as they came, and the hashes of those that are not kept whole.
fn values(events: &RawEvents) -> Result<(BinaryViewArray, Int64Array, ArrayRef)> {
    let rows = events.len();
    let nulls = events.values.nulls().cloned();
    let mut lengths: Vec<i64> = events.values.lengths().map(i64::from).collect();
    let large = |row: &usize| lengths[*row] > WHOLE_VALUE as i64 && events.values.is_valid(*row);
    let large: Vec<usize> = (0..rows).filter(large).collect();
    if large.is_empty() && events.truncated.is_empty() {
        let lengths = Int64Array::new(lengths.into(), nulls);
        return Ok((events.values.clone(), lengths, new_null_array(&DataType::Binary, rows)));
    }
    let mut hashes: Vec<Option<[u8; 32]>> = vec![None; rows];
    for truncated in &events.truncated {
        if let Some(hash) = hashes.get_mut(truncated.row as usize) {
            *hash = Some(truncated.sha256);
            lengths[truncated.row as usize] = i64::try_from(truncated.length).unwrap_or(i64::MAX);
        }
    }
    let mut views = events.values.views().to_vec();
    for row in large {
        hashes[row] = Some(Sha256::digest(events.values.value(row)).into());
        // A view of the same bytes, shorter: the length stands in its lowest 32 bits.
        views[row] = (views[row] & !u128::from(u32::MAX)) | KEPT_OF_LARGER as u128;
    }
    let kept = BinaryViewArray::try_new(views.into(), events.values.data_buffers().to_vec(), nulls.clone())?;
    let mut sha256 = BinaryBuilder::with_capacity(rows, 64);
    for hash in hashes {
        sha256.append_option(hash);
    }
    Ok((kept, Int64Array::new(lengths.into(), nulls), Arc::new(sha256.finish())))
}

/// One text in every row, held once.
pub(super) fn repeated(text: &str, rows: usize) -> Result<StringViewArray> {
    let views: ScalarBuffer<u128> = vec![make_view(text.as_bytes(), 0, 0); rows].into();
    Ok(StringViewArray::try_new(views, vec![Buffer::from(text.as_bytes())], None)?)
}

fn timestamp_types(times: &TimestampMicrosecondArray, kind: Option<&str>) -> ArrayRef {
    Arc::new((0..times.len()).map(|i| kind.filter(|_| times.is_valid(i))).collect::<StringArray>())
}

fn header_lists(headers: &[Headers]) -> Result<ListArray> {
    let offsets = OffsetBuffer::from_lengths(headers.iter().map(Vec::len));
    let keys: StringArray = headers.iter().flatten().map(|(key, _)| Some(key)).collect();
    let values: BinaryArray = headers.iter().flatten().map(|(_, value)| value.as_deref()).collect();
    let structs = StructArray::try_new(header_fields(), vec![Arc::new(keys), Arc::new(values)], None)?;
    Ok(ListArray::try_new(header(), offsets, Arc::new(structs), None)?)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use arrow::array::AsArray;
    use arrow::datatypes::Int64Type;

    use super::*;
    use crate::events::Truncated;

    pub(in crate::sinks) fn events(values: &[Option<&[u8]>]) -> RawEvents {
        RawEvents {
            topic: Arc::from("in/a long file name.jsonl"),
            partition: 0,
            offsets: (0..values.len() as i64).collect(),
            values: values.iter().copied().collect(),
            timestamps: None,
            timestamp_type: None,
            keys: None,
            headers: None,
            truncated: Vec::new(),
            arrival: 3 * DAY,
        }
    }

    #[test]
    fn a_value_stays_as_it_came() {
        let events = events(&[Some(b"{\"a\":1}"), None, Some(b"\xff\xfe and much that is longer")]);
        let batch = batch(&events, &[Some(5), None, None]).unwrap();
        assert_eq!(batch.schema(), schema());
        assert_eq!(batch["value"].as_ref(), &events.values as &dyn Array);
        let lengths: Vec<_> = batch["value_length"].as_primitive::<Int64Type>().iter().collect();
        assert_eq!(lengths, [Some(7), None, Some(26)]);
        assert_eq!(batch["value_sha256"].null_count(), 3);
        assert_eq!(batch["topic"].as_string_view().value(2), "in/a long file name.jsonl");
    }

    #[test]
    fn of_a_value_too_large_the_beginning_stays() {
        let large = vec![b'x'; WHOLE_VALUE + 1];
        let whole = vec![b'y'; WHOLE_VALUE];
        let mut events = events(&[Some(b"short"), Some(&large), Some(&whole), Some(b"a beginning")]);
        events.truncated = vec![Truncated { row: 3, length: 1 << 40, sha256: [7; 32] }];
        let batch = batch(&events, &[None; 4]).unwrap();
        let values = batch["value"].as_binary_view();
        assert_eq!(values.value(1), &large[..KEPT_OF_LARGER]);
        assert_eq!(values.value(2), whole);
        assert_eq!(values.value(3), b"a beginning");
        let lengths: Vec<_> = batch["value_length"].as_primitive::<Int64Type>().values().to_vec();
        assert_eq!(lengths, [5, WHOLE_VALUE as i64 + 1, WHOLE_VALUE as i64, 1 << 40]);
        let hashes = batch["value_sha256"].as_binary::<i32>();
        assert_eq!(hashes.value(1), Sha256::digest(&large).as_slice());
        assert_eq!(hashes.value(3), [7; 32]);
        assert_eq!(hashes.null_count(), 2);
    }

    #[test]
    fn partitions_are_by_day_and_by_type() {
        let mut events = events(&[None; 5]);
        let arrival = events.arrival;
        events.timestamps = Some(TimestampMicrosecondArray::from(vec![
            Some(arrival),
            Some(arrival - DAY),
            Some(arrival - 8 * DAY),
            None,
            Some(arrival),
        ]));
        events.timestamp_type = Some("log_append_time");
        let kinds = batch(&events, &[None; 5]).unwrap()["timestamp_type"].clone();
        assert_eq!((kinds.as_string::<i32>().value(0), kinds.null_count()), ("log_append_time", 1));
        let (groups, partitions) = partitions(&events, &[0, 0, 1, u16::MAX, 0], &["view", "../x"]);
        assert_eq!(groups, [0, 1, 2, 3, 0]);
        let paths: Vec<_> = partitions.iter().map(Partition::path).collect();
        assert_eq!(
            paths,
            [
                "date=1970-01-04/event_type=view",
                "date=1970-01-03/event_type=view",
                "date=1970-01-04/event_type=..%2Fx",
                "date=1970-01-04/event_type=_other"
            ]
        );
    }

    #[test]
    fn headers_keep_their_order() {
        let mut events = events(&[None; 2]);
        events.headers =
            Some(vec![vec![("b".into(), Some(b"1".to_vec())), ("a".into(), Some(b"\xff".to_vec()))], vec![]]);
        events.keys = Some(BinaryArray::from_opt_vec(vec![Some(b"k"), None]));
        let batch = batch(&events, &[None; 2]).unwrap();
        let headers = batch["headers"].as_list::<i32>();
        assert_eq!((headers.value_length(0), headers.value_length(1)), (2, 0));
        assert_eq!(headers.value(0).as_struct().column(0).as_string::<i32>().value(0), "b");
    }
}
