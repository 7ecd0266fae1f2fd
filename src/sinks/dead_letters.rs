//! Dead letters: every event that was not accepted, whole, with every reason.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, ListArray, RecordBatch, StringArray, StringBuilder, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::bronze;
use crate::contract::Judged;
use crate::error::{Error, Result};
use crate::events::RawEvents;
use crate::time::date_of;
use crate::verdict::{Code, Problem};

/// An event that was not accepted, and what is known of it.
#[derive(Debug, Clone)]
pub struct Letter<'a> {
    /// Its row among the events.
    pub row: u32,
    /// What is wrong with it, in the order of codes; at least one.
    pub problems: &'a [Problem],
    /// Its type, where it could be read.
    pub event_type: Option<&'a str>,
    /// The version of its schema, where it could be read.
    pub schema_version: Option<&'a str>,
    /// Its key, where it could be read.
    pub idempotency_key: Option<&'a str>,
    /// Its entity, where it could be read.
    pub entity: Option<&'a str>,
    /// Its time, where it could be read.
    pub event_time: Option<i64>,
}

impl<'a> Letter<'a> {
    /// Those of the events that the contract does not accept.
    pub fn rejected(judged: &'a Judged) -> impl Iterator<Item = Self> + 'a {
        judged.rejected.iter().map(|r| Self {
            row: r.row,
            problems: &r.problems,
            event_type: r.event_type.as_deref(),
            schema_version: r.schema_version.as_deref(),
            idempotency_key: r.idempotency_key.as_deref(),
            entity: r.entity.as_deref(),
            event_time: judged.event_time.get(r.row as usize).copied().flatten(),
        })
    }
}

/// The columns of the dead letters: those of Bronze, and why.
pub fn schema() -> SchemaRef {
    let mut fields = bronze::fields();
    for name in ["event_type", "schema_version", "idempotency_key", "entity"] {
        fields.push(Field::new(name, DataType::Utf8, true));
    }
    fields.push(Field::new("code", DataType::Utf8, false));
    fields.push(Field::new("problems", DataType::List(problem()), false));
    fields.push(Field::new("contract_version", DataType::Utf8, false));
    fields.push(Field::new("epoch", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

fn problem() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Struct(problem_fields()), false))
}

fn problem_fields() -> Fields {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Fields::from(vec![text("code", false), text("pointer", false), text("message", false), text("value", true)])
}

/// The problem of an event that came too late.
pub fn late(event_time: i64, watermark: i64) -> Problem {
    let moment = |micros: i64| {
        let seconds = micros.div_euclid(1_000_000);
        let of_day = seconds.rem_euclid(86_400);
        let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
        format!("{}T{hour:02}:{minute:02}:{second:02}.{:06}Z", date_of(micros), micros.rem_euclid(1_000_000))
    };
    Problem {
        code: Code::Late,
        pointer: String::new(),
        message: format!(
            "the event's time {} is below the watermark {} of the last commit",
            moment(event_time),
            moment(watermark)
        ),
        value: None,
    }
}

/// The rows of the dead letters among these events. `contract` is the digest of the contract that judged them.
///
/// # Errors
/// [`Error::Internal`] when a letter names no row or has no problem.
pub fn batch(events: &RawEvents, letters: &[Letter<'_>], contract: &str, epoch: u64) -> Result<RecordBatch> {
    if letters.iter().any(|l| l.row as usize >= events.len() || l.problems.is_empty()) {
        return Err(Error::Internal("a dead letter without an event or without a problem".into()));
    }
    let rows: Vec<u32> = letters.iter().map(|l| l.row).collect();
    let times: Vec<Option<i64>> = letters.iter().map(|l| l.event_time).collect();
    // Of the events that are no letters nothing is looked at; and these must not keep all the text alive that was read with
    // them.
    let mut few = events.take(&rows)?;
    few.values = few.values.gc();
    let mut columns = bronze::columns(&few, &times)?;
    let text = |get: fn(&Letter<'_>) -> Option<String>| -> ArrayRef {
        let mut column: StringArray = letters.iter().map(get).collect();
        column.shrink_to_fit();
        Arc::new(column)
    };
    columns.push(text(|l| l.event_type.map(str::to_owned)));
    columns.push(text(|l| l.schema_version.map(str::to_owned)));
    columns.push(text(|l| l.idempotency_key.map(str::to_owned)));
    columns.push(text(|l| l.entity.map(str::to_owned)));
    columns.push(text(|l| l.problems.first().map(|p| p.code.as_str().to_owned())));
    columns.push(Arc::new(problem_lists(letters)?));
    let version = contract.get(..16).unwrap_or(contract);
    columns.push(Arc::new(StringArray::new_repeated(version, letters.len())));
    columns.push(Arc::new(Int64Array::from_value(i64::try_from(epoch).unwrap_or(i64::MAX), letters.len())));
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// The same dead letters under another epoch.
///
/// # Errors
/// [`Error::Data`] when these are no dead letters.
pub fn renumbered(rows: &RecordBatch, epoch: u64) -> Result<RecordBatch> {
    let mut columns = rows.columns().to_vec();
    let at = rows.schema_ref().index_of("epoch")?;
    columns[at] = Arc::new(Int64Array::from_value(i64::try_from(epoch).unwrap_or(i64::MAX), rows.num_rows()));
    Ok(RecordBatch::try_new(rows.schema(), columns)?)
}

fn problem_lists(letters: &[Letter<'_>]) -> Result<ListArray> {
    let mut columns: [StringBuilder; 4] = std::array::from_fn(|_| StringBuilder::new());
    for problem in letters.iter().flat_map(|l| l.problems) {
        columns[0].append_value(problem.code.as_str());
        columns[1].append_value(&problem.pointer);
        columns[2].append_value(&problem.message);
        columns[3].append_option(problem.value.as_deref());
    }
    // A builder begins with room for a thousand values, and these few stay.
    let columns = columns.into_iter().map(|mut c| {
        let mut column = c.finish();
        column.shrink_to_fit();
        Arc::new(column) as ArrayRef
    });
    let structs = StructArray::try_new(problem_fields(), columns.collect(), None)?;
    let offsets = OffsetBuffer::from_lengths(letters.iter().map(|l| l.problems.len()));
    Ok(ListArray::try_new(problem(), offsets, Arc::new(structs), None)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::Int64Type;

    use super::super::bronze::tests::events;
    use super::*;

    #[test]
    fn a_letter_has_every_reason_and_the_whole_event() {
        let events = events(&[Some(b"{}"), Some(b"not json, and longer than a view"), None]);
        let problems = [
            Problem { code: Code::MissingField, pointer: "/a".into(), message: "is missing".into(), value: None },
            Problem { code: Code::WrongType, pointer: "/b".into(), message: "m".into(), value: Some("12".into()) },
        ];
        let late = [late(5_000_001, 86_400_000_000)];
        let none = Letter {
            row: 1,
            problems: &problems,
            event_type: Some("view"),
            schema_version: None,
            idempotency_key: None,
            entity: Some("u"),
            event_time: Some(5),
        };
        let letters = [none.clone(), Letter { row: 2, problems: &late, event_type: None, ..none }];
        let batch = batch(&events, &letters, "0123456789abcdef0123", 4).unwrap();
        assert_eq!(batch.num_rows(), 2);
        assert_eq!(batch["value"].as_binary_view().value(0), b"not json, and longer than a view");
        assert!(batch["value"].is_null(1));
        assert_eq!(batch["offset"].as_primitive::<Int64Type>().values(), &[1, 2]);
        let code: Vec<_> = batch["code"].as_string::<i32>().iter().flatten().collect();
        assert_eq!(code, ["missing_field", "late"]);
        let lists = batch["problems"].as_list::<i32>();
        assert_eq!((lists.value_length(0), lists.value_length(1)), (2, 1));
        let message = lists.value(1).as_struct().column(2).as_string::<i32>().value(0).to_owned();
        assert!(message.contains("1970-01-01T00:00:05.000001Z is below"), "{message}");
        assert!(message.contains("1970-01-02T00:00:00.000000Z"), "{message}");
        assert_eq!(batch["contract_version"].as_string::<i32>().value(0), "0123456789abcdef");
        assert!(super::batch(&events, &[Letter { row: 3, ..letters[0].clone() }], "", 0).is_err());
    }
}
