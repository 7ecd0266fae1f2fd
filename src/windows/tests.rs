use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    UInt64Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use proptest::prelude::*;

use super::exact::tests::{float, model as exact_sum};
use super::*;
use crate::columns::moments;
use crate::state::{Saved, StateParts, Stateful, from_ipc, merge, split, to_ipc};
use crate::time::{HOUR, MINUTE};

mod laws;

#[derive(Debug, Clone)]
struct Event {
    event_type: String,
    time: i64,
    entity: Option<String>,
    store: Option<i64>,
    whole: Option<i64>,
    money: Option<i128>,
    real: Option<f64>,
    text: Option<String>,
}

fn batch(events: &[Event]) -> RecordBatch {
    let money = events.iter().map(|e| e.money).collect::<Decimal128Array>().with_precision_and_scale(12, 2).unwrap();
    let columns: [(&str, ArrayRef, bool); 8] = [
        ("event_type", Arc::new(StringArray::from_iter_values(events.iter().map(|e| &e.event_type))), false),
        ("event_time", Arc::new(moments(events.iter().map(|e| e.time).collect::<Vec<_>>())), false),
        ("entity", Arc::new(events.iter().map(|e| e.entity.as_deref()).collect::<StringArray>()), true),
        ("store", Arc::new(events.iter().map(|e| e.store).collect::<Int64Array>()), true),
        ("whole", Arc::new(events.iter().map(|e| e.whole).collect::<Int64Array>()), true),
        ("money", Arc::new(money), true),
        ("real", Arc::new(events.iter().map(|e| e.real).collect::<Float64Array>()), true),
        ("text", Arc::new(events.iter().map(|e| e.text.as_deref()).collect::<StringArray>()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn schema() -> SchemaRef {
    batch(&[]).schema()
}

fn spec(size: i64, slide: Option<i64>, by: &[&str]) -> WindowSpec {
    let aggregates = [
        ("n", "count()"),
        ("texts", "count(text)"),
        ("sum_whole", "sum(whole)"),
        ("avg_whole", "avg(whole)"),
        ("sum_money", "sum(money)"),
        ("avg_money", "avg(money)"),
        ("sum_real", "sum(real)"),
        ("avg_real", "avg(real)"),
        ("min_whole", "min(whole)"),
        ("max_money", "max(money)"),
        ("max_real", "max(real)"),
        ("min_text", "min(text)"),
        ("max_time", "max(event_time)"),
        ("distinct", "approx_count_distinct(text)"),
    ];
    WindowSpec {
        name: "w".to_string(),
        size,
        slide,
        by: by.iter().map(|name| name.to_string()).collect(),
        from: vec!["sale".to_string(), "return".to_string()],
        aggregates: aggregates.iter().map(|(name, text)| (name.to_string(), Aggregate::parse(text).unwrap())).collect(),
    }
}

/// One row of windows as text, floats by their bits.
fn rows(batch: &RecordBatch) -> Vec<Vec<String>> {
    let cell = |column: &ArrayRef, row: usize| match column.as_any().downcast_ref::<Float64Array>() {
        Some(floats) if floats.is_valid(row) => format!("{:016x}", floats.value(row).to_bits()),
        _ if column.is_null(row) => "null".to_string(),
        _ if matches!(column.data_type(), DataType::Timestamp(..)) => {
            crate::columns::micros(&column.slice(row, 1), "moment").unwrap()[0].to_string()
        }
        _ => arrow::util::display::array_value_to_string(column, row).unwrap(),
    };
    (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| cell(column, row)).collect()).collect()
}

/// A window's start, and its group.
type Place = (i64, Option<Option<String>>, Option<Option<i64>>);

/// The obviously right windows: each window that holds an event, each group in it, each aggregate from the list of its
/// events.
fn model(events: &[Event], spec: &WindowSpec, only: impl Fn(i64) -> bool) -> Vec<Vec<String>> {
    let mut windows: BTreeMap<Place, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|e| spec.from.contains(&e.event_type)) {
        for n in -200i64..200 {
            let start = n * spec.slide.unwrap_or(spec.size);
            if start <= event.time && event.time < start + spec.size && only(start + spec.size) {
                let entity = spec.by.contains(&"entity".to_string()).then(|| event.entity.clone());
                let store = spec.by.contains(&"store".to_string()).then_some(event.store);
                windows.entry((start, entity, store)).or_default().push(event);
            }
        }
    }
    let text = |v: Option<String>| v.unwrap_or("null".to_string());
    let float = |v: Option<f64>| text(v.map(|v| format!("{:016x}", v.to_bits())));
    let decimal = |v: Option<i128>, scale: usize| {
        text(v.map(|v| {
            let digits = format!("{:0width$}", v.unsigned_abs(), width = scale + 1);
            let (whole, part) = digits.split_at(digits.len() - scale);
            format!("{}{whole}.{part}", if v < 0 { "-" } else { "" })
        }))
    };
    let moment = |t: i64| t.to_string();
    let mut out = Vec::new();
    for ((start, entity, store), events) in windows {
        let wholes: Vec<i64> = events.iter().filter_map(|e| e.whole).collect();
        let money: Vec<i128> = events.iter().filter_map(|e| e.money).collect();
        let reals: Vec<f64> = events.iter().filter_map(|e| e.real).collect();
        let texts: Vec<&String> = events.iter().filter_map(|e| e.text.as_ref()).collect();
        let total: i128 = money.iter().sum();
        let mean = (!money.is_empty()).then(|| {
            let n = money.len() as i128;
            // Half away from zero.
            (total.abs() * 1_000_000 * 2 + n) / (2 * n) * total.signum()
        });
        let mut different = texts.clone();
        different.sort();
        different.dedup();
        let mut row = vec![moment(start), moment(start + spec.size)];
        row.extend(entity.map(text));
        row.extend(store.map(|store| text(store.map(|s| s.to_string()))));
        row.extend([
            events.len().to_string(),
            texts.len().to_string(),
            text((!wholes.is_empty()).then(|| wholes.iter().sum::<i64>().to_string())),
            float((!wholes.is_empty()).then(|| wholes.iter().sum::<i64>() as f64 / wholes.len() as f64)),
            decimal((!money.is_empty()).then_some(total), 2),
            decimal(mean, 8),
            float((!reals.is_empty()).then(|| exact_sum(&reals))),
            float((!reals.is_empty()).then(|| exact_sum(&reals) / reals.len() as f64)),
            text(wholes.iter().min().map(i64::to_string)),
            decimal(money.iter().max().copied(), 2),
            float(reals.iter().copied().max_by(f64::total_cmp)),
            text(texts.iter().min().map(|t| t.to_string())),
            moment(events.iter().map(|e| e.time).max().unwrap()),
            // Few values are counted exactly.
            different.len().to_string(),
        ]);
        out.push(row);
    }
    out
}

fn event() -> impl Strategy<Value = Event> {
    (
        prop_oneof![4 => Just("sale"), 2 => Just("return"), 1 => Just("other")],
        -60i64..60,
        prop::option::of("[ab]?"),
        prop::option::of(-2i64..2),
        prop::option::of(-1_000i64..1_000),
        prop::option::of(-99_999i128..99_999),
        prop::option::of(float()),
        prop::option::of("[a-e]"),
    )
        .prop_map(|(event_type, time, entity, store, whole, money, real, text)| Event {
            event_type: event_type.to_string(),
            time,
            entity,
            store,
            whole,
            money,
            real,
            text,
        })
}

fn any_spec() -> impl Strategy<Value = WindowSpec> {
    let by = prop::sample::select(vec![vec![], vec!["entity"], vec!["store"], vec!["entity", "store"]]);
    (1i64..30, prop::option::of(1i64..30), by)
        .prop_map(|(size, slide, by)| spec(size, slide.map(|slide| slide.min(size)), &by))
}

fn through_ipc(parts: &StateParts) -> StateParts {
    parts
        .iter()
        .map(|(name, batch)| (name.clone(), from_ipc(name, &to_ipc(batch).unwrap().into_whole()).unwrap()))
        .collect()
}

fn sorted(mut rows: Vec<Vec<String>>) -> Vec<Vec<String>> {
    rows.sort();
    rows
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Commit,
    Snapshot,
    Deltas,
    Changed,
}

fn afters() -> impl Strategy<Value = Vec<After>> {
    let after = prop_oneof![
        4 => Just(After::Nothing), 2 => Just(After::Commit), 1 => Just(After::Snapshot),
        1 => Just(After::Deltas), 1 => Just(After::Changed)
    ];
    prop::collection::vec(after, 30)
}

fn micros_of(batch: &RecordBatch, name: &str) -> Vec<i64> {
    crate::columns::micros(&batch[name], name).unwrap().to_vec()
}

fn without_times(row: Vec<String>) -> Vec<String> {
    row.into_iter().enumerate().filter(|(i, _)| !matches!(i, 0 | 1 | 15)).map(|(_, cell)| cell).collect()
}

fn sale(time: i64) -> Event {
    Event {
        event_type: "sale".into(),
        time,
        entity: None,
        store: Some(1),
        whole: Some(1),
        money: Some(100),
        real: Some(0.1),
        text: Some("t".into()),
    }
}

fn counted(events: &[Event], size: i64, slide: Option<i64>) -> Vec<(i64, i64)> {
    let out = aggregate_windows(&[batch(events)], "event_time", spec(size, slide, &[])).unwrap();
    let counts = out["n"].as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec();
    micros_of(&out, "window_start").into_iter().zip(counts).collect()
}

#[test]
fn aligned_to_the_epoch_and_half_open() {
    let events: Vec<Event> = [-MINUTE - 1, -MINUTE, -1, 0, MINUTE - 1, MINUTE].map(sale).to_vec();
    assert_eq!(counted(&events, MINUTE, None), [(-2 * MINUTE, 1), (-MINUTE, 2), (0, 2), (MINUTE, 1)]);
    // A slide that does not divide the size.
    assert_eq!(counted(&[sale(4)], 7, Some(5)), [(0, 1)]);
    assert_eq!(counted(&[sale(5)], 7, Some(5)), [(0, 1), (5, 1)]);
    assert_eq!(counted(&[sale(-1)], 7, Some(5)), [(-5, 1)]);
}

#[test]
fn a_window_is_final_when_it_ends() {
    let mut windows = Windows::new(spec(HOUR, None, &["store"]), &schema()).unwrap();
    windows.push(&batch(&[sale(1), sale(HOUR)])).unwrap();
    assert_eq!(windows.advance(HOUR - 1).unwrap().num_rows(), 0);
    assert_eq!(windows.advance(HOUR).unwrap().num_rows(), 1);
    assert_eq!(windows.advance(HOUR).unwrap().num_rows(), 0);
    assert_eq!(windows.flush_all().unwrap().num_rows(), 1);
    assert_eq!(windows.flush_all().unwrap().num_rows(), 0);
}

#[test]
fn a_delta_holds_what_changed() {
    let mut windows = Windows::new(spec(MINUTE, None, &["store"]), &schema()).unwrap();
    let many: Vec<Event> = (0..500).map(|i| Event { store: Some(i), ..sale(i) }).collect();
    windows.push(&batch(&many)).unwrap();
    assert_eq!(windows.delta().unwrap()[0].rows.num_rows(), 500);
    windows.push(&batch(&[sale(3), sale(4), sale(MINUTE)])).unwrap();
    assert_eq!(windows.delta().unwrap()[0].rows.num_rows(), 2);
    assert_eq!(windows.delta().unwrap()[0].rows.num_rows(), 0);
}

#[test]
fn what_no_column_can_hold_is_an_error_that_names_the_window() {
    let big = |whole, money| Event { whole: Some(whole), money: Some(money), ..sale(30 * MINUTE) };
    let run = |events: &[Event]| aggregate_windows(&[batch(events)], "event_time", spec(HOUR, None, &[]));
    let error = run(&[big(i64::MAX, 1), big(1, 1)]).unwrap_err().to_string();
    assert!(error.contains("'w' from 1970-01-01T00:00:00Z to 1970-01-01T01:00:00Z"), "{error}");
    assert!(error.contains("sum(whole) of sum_whole is beyond 64 bits"), "{error}");
    // On the way there, the sum may be beyond what its column holds.
    assert!(run(&[big(i64::MAX, 1), big(1, 1), big(-5, 1)]).is_ok());
    let wide = Decimal128Array::from_iter_values([10i128.pow(38) - 1, 1]).with_precision_and_scale(38, 0).unwrap();
    let columns: [(&str, ArrayRef); 2] = [("at", Arc::new(moments(vec![0, 0]))), ("x", Arc::new(wide))];
    let one = |text: &str| WindowSpec {
        from: vec![],
        aggregates: vec![("x_".to_string(), Aggregate::parse(text).unwrap())],
        ..spec(HOUR, None, &[])
    };
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let error = aggregate_windows(std::slice::from_ref(&batch), "at", one("sum(x)")).unwrap_err().to_string();
    assert!(error.contains("beyond 38 digits"), "{error}");
    assert!(aggregate_windows(&[batch], "at", one("max(x)")).is_ok());
}

#[test]
fn every_plain_type_has_a_least_and_a_greatest() {
    let columns: [(&str, ArrayRef); 5] = [
        ("at", Arc::new(moments(vec![0, 1, 2]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("day", Arc::new(Date32Array::from(vec![3, -1, 2]))),
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 0, 7]))),
        ("small", Arc::new(arrow::array::Int8Array::from(vec![-128, 127, 0]))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let names = ["flag", "day", "big", "small", "at"];
    let both = names.iter().flat_map(|c| [format!("min({c})"), format!("max({c})")]);
    let aggregates = both.map(|text| (text.clone(), Aggregate::parse(&text).unwrap())).collect();
    let spec = WindowSpec { from: vec![], aggregates, ..spec(HOUR, None, &[]) };
    let out = aggregate_windows(std::slice::from_ref(&batch), "at", spec.clone()).unwrap();
    for name in names {
        assert_eq!(out[format!("min({name})").as_str()].data_type(), batch[name].data_type());
    }
    assert_eq!(
        rows(&out)[0][2..],
        ["false", "true", "1969-12-31", "1970-01-04", "0", "18446744073709551615", "-128", "127", "0", "2"]
    );
    // And all of it can be saved.
    let schema = batch.schema();
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .map(|f| match f.name().as_str() {
            "at" => Arc::new(f.as_ref().clone().with_name("event_time")),
            _ => f.clone(),
        })
        .collect();
    let renamed =
        RecordBatch::try_new(Arc::new(arrow::datatypes::Schema::new(fields)), batch.columns().to_vec()).unwrap();
    let spec = WindowSpec { aggregates: spec.aggregates[..8].to_vec(), ..spec };
    let mut windows = Windows::new(spec.clone(), &renamed.schema()).unwrap();
    windows.push(&renamed).unwrap();
    let mut loaded = Windows::new(spec, &renamed.schema()).unwrap();
    loaded.load(&through_ipc(&windows.snapshot().unwrap())).unwrap();
    assert_eq!(loaded.flush_all().unwrap(), windows.flush_all().unwrap());
}

#[test]
fn distinct_counts_are_near_and_independent_of_order_cut_and_saving() {
    let spec = WindowSpec {
        aggregates: vec![("d".to_string(), Aggregate::parse("approx_count_distinct(whole)").unwrap())],
        ..spec(HOUR, Some(HOUR / 4), &[])
    };
    for different in [1, 7, 8, 100, 400, 5_000, 100_000] {
        let events: Vec<Event> =
            (0..different * 2).map(|i| Event { whole: Some(i % different), ..sale(i % 7 * 10 * MINUTE) }).collect();
        let forwards = aggregate_windows(&[batch(&events)], "event_time", spec.clone()).unwrap();
        let mut backwards: Vec<Event> = events.clone();
        backwards.reverse();
        let mut windows = Windows::new(spec.clone(), &schema()).unwrap();
        for chunk in backwards.chunks(backwards.len().div_ceil(5)) {
            windows.push(&batch(chunk)).unwrap();
            let snapshot = windows.snapshot().unwrap();
            windows = Windows::new(spec.clone(), &schema()).unwrap();
            windows.load(&snapshot).unwrap();
            assert_eq!(windows.snapshot().unwrap(), snapshot);
        }
        let mut straight = Windows::new(spec.clone(), &schema()).unwrap();
        straight.push(&batch(&events)).unwrap();
        assert_eq!(straight.snapshot().unwrap(), windows.snapshot().unwrap());
        assert_eq!(windows.flush_all().unwrap(), forwards);
        let whole = WindowSpec { size: 24 * HOUR, slide: None, ..spec.clone() };
        let all = aggregate_windows(&[batch(&events)], "event_time", whole).unwrap();
        let estimate = all["d"].as_any().downcast_ref::<Int64Array>().unwrap().value(0);
        let error = (estimate - different).abs() as f64 / different as f64;
        assert!(error < if different < 200 { 0.001 } else { 0.05 }, "{estimate} for {different}");
    }
}

#[test]
fn aggregates_are_read_and_written() {
    for text in ["count()", "count(x)", "sum(x)", "avg(x)", "min(x)", "max(x)", "approx_count_distinct(x)"] {
        assert_eq!(Aggregate::parse(text).unwrap().to_string(), text);
    }
    assert_eq!(Aggregate::parse(" COUNT( * ) ").unwrap(), Aggregate::Count(None));
    let error = |text: &str| Aggregate::parse(text).unwrap_err().to_string();
    assert!(error("summ(x)").contains("did you mean sum?"));
    assert!(error("percentile(x)").contains("known are count"));
    assert!(error("sum").contains("like sum(amount)"));
    assert!(error("sum()").contains("needs a column"));
}

#[test]
fn errors_say_what_to_do() {
    let error = |change: fn(&mut WindowSpec)| {
        let mut spec = spec(HOUR, None, &["store"]);
        change(&mut spec);
        Windows::new(spec, &schema()).err().unwrap().to_string()
    };
    assert!(
        error(|s| s.by = vec!["stor".into()]).contains("windows.w: there is no column 'stor'; did you mean 'store'?")
    );
    assert!(error(|s| s.size = 0).contains("windows.w.size"));
    assert!(error(|s| s.slide = Some(2 * HOUR)).contains("longer than size"));
    assert!(error(|s| s.slide = Some(0)).contains("windows.w.slide"));
    assert!(error(|s| s.aggregates.clear()).contains("at least one"));
    assert!(error(|s| s.aggregates[0].0 = "store".into()).contains("two columns would be called 'store'"));
    assert!(
        error(|s| s.aggregates[0].1 = Aggregate::Sum("text".into()))
            .contains("sum(text) does not work on a column of type Utf8")
    );
    assert!(aggregate_windows(&[], "at", spec(HOUR, None, &[])).is_err());
}

#[test]
fn the_output_has_the_columns_it_says() {
    let out = aggregate_windows(&[batch(&[sale(0)])], "event_time", spec(HOUR, None, &["entity", "store"])).unwrap();
    let windows = Windows::new(spec(HOUR, None, &["entity", "store"]), &schema()).unwrap();
    assert_eq!(out.schema(), windows.schema());
    assert_eq!(concat_batches(&windows.schema(), [&out]).unwrap(), out);
}
