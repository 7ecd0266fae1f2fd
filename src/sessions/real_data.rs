//! The kernels against facts that were counted independently of them, on data that was not made for them. The files are
//! not part of the repository; without them these tests say so and pass.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::filter_record_batch;
use flate2::bufread::MultiGzDecoder;

use super::sessionize;
use crate::columns::moments;
use crate::dedup::deduplicate;
use crate::time::{HOUR, MINUTE, SECOND, days_from_civil};

fn lines(path: &str) -> Option<impl Iterator<Item = String>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/data").join(path);
    let Ok(file) = std::fs::File::open(&path) else {
        eprintln!("SKIPPED: {} is not there", path.display());
        return None;
    };
    Some(BufReader::new(MultiGzDecoder::new(BufReader::new(file))).lines().map(|line| line.unwrap()))
}

fn sessions(batches: &[RecordBatch]) -> BTreeSet<String> {
    let ids = |b: &RecordBatch| {
        b["session_id"].as_string::<i32>().iter().map(|id| id.unwrap().to_string()).collect::<Vec<_>>()
    };
    batches.iter().flat_map(ids).collect()
}

/// `2015-01-01T00:00:00Z`, or with a blank.
fn moment(text: &str) -> i64 {
    let part = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    let days = days_from_civil(part(0, 4), part(5, 7) as u32, part(8, 10) as u32);
    ((days * 24 + part(11, 13)) * HOUR) + part(14, 16) * MINUTE + part(17, 19) * SECOND
}

#[test]
fn sessions_of_an_hour_of_github() {
    let Some(lines) = lines("gharchive/2015-01-01-0.json.gz") else { return };
    let (mut actors, mut times, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let event: serde_json::Value = serde_json::from_str(&line).unwrap();
        actors.push(event["actor"]["id"].as_i64().unwrap());
        times.push(moment(event["created_at"].as_str().unwrap()));
        ids.push(event["id"].as_str().unwrap().to_string());
    }
    let columns: [(&str, ArrayRef); 3] = [
        ("actor", Arc::new(Int64Array::from(actors))),
        ("at", Arc::new(moments(times))),
        ("id", Arc::new(StringArray::from(ids))),
    ];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let (unique, duplicates) = deduplicate(&[batch], &["id"], None, None).unwrap();
    assert_eq!(duplicates, 0);
    let out = sessionize(&unique, "actor", "at", 30 * MINUTE, None).unwrap();
    assert_eq!(out.iter().map(RecordBatch::num_rows).sum::<usize>(), 7_702);
    assert_eq!(sessions(&out).len(), 3_759);
}

#[test]
fn sessions_of_a_year_of_a_shop() {
    let Some(mut lines) = lines("online_retail/online_retail.csv.gz") else { return };
    let header: Vec<String> = lines.next().unwrap().split(',').map(str::to_string).collect();
    let mut columns: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    let mut record = String::new();
    for line in lines {
        record.push_str(&line);
        if record.matches('"').count() % 2 == 1 {
            record.push('\n');
            continue;
        }
        let mut quoted = false;
        let fields = record.split(|c| {
            quoted ^= c == '"';
            c == ',' && !quoted
        });
        fields.enumerate().for_each(|(i, field)| columns.entry(i).or_default().push(field.to_string()));
        record.clear();
    }
    let arrays = header.iter().enumerate().map(|(i, name)| {
        let column: StringArray = columns[&i].iter().map(|v| Some(v.as_str()).filter(|v| !v.is_empty())).collect();
        (name.as_str(), Arc::new(column) as ArrayRef)
    });
    let batch = RecordBatch::try_from_iter(arrays).unwrap();
    assert_eq!(batch.num_rows(), 541_909);
    let names: Vec<&str> = header.iter().map(String::as_str).collect();
    let (kept, duplicates) = deduplicate(std::slice::from_ref(&batch), &names, None, None).unwrap();
    assert_eq!((duplicates, kept.iter().map(RecordBatch::num_rows).sum::<usize>()), (5_268, 536_641));
    let known = arrow::compute::is_not_null(&batch["CustomerID"]).unwrap();
    let known = filter_record_batch(&batch, &known).unwrap();
    let times: TimestampMicrosecondArray =
        known["InvoiceDate"].as_string::<i32>().iter().map(|t| t.map(moment)).collect();
    let columns = [("customer", known["CustomerID"].clone()), ("at", Arc::new(times) as ArrayRef)];
    let events = RecordBatch::try_from_iter(columns).unwrap();
    let out = sessionize(&[events], "customer", "at", 30 * MINUTE, None).unwrap();
    assert_eq!(sessions(&out).len(), 19_969);
    let customers: BTreeSet<&str> = known["CustomerID"].as_string::<i32>().iter().flatten().collect();
    assert_eq!((customers.len(), batch["CustomerID"].null_count()), (4_372, 135_080));
}
