//! Generated transactions are what the truth says, judged by the contract of the pipeline and counted again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BinaryViewArray, Int64Array, RecordBatch};
use arrow::datatypes::{Decimal128Type, TimestampMicrosecondType};

use super::payments::{EVENT_TYPE, LATE};
use super::*;
use crate::contract::{Contract, JudgeRules};
use crate::events::RawEvents;

fn contract() -> Contract {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/penstock/pipelines/payments");
    Contract::load(&folder.join("contract.yaml")).unwrap()
}

/// Lines in the order in which they came, the keys of their messages, and the truth.
fn make(options: &GenerateOptions) -> (Vec<Vec<u8>>, Vec<String>, Truth) {
    let (mut lines, mut keys) = (vec![], vec![]);
    let mut out = |made: Made<'_>| {
        lines.push(made.line.to_vec());
        keys.push(made.key.to_owned());
        Ok(())
    };
    let truth = generate(Profile::Payments, options, &mut out, &mut |_| Ok(())).unwrap();
    (lines, keys, truth)
}

struct Judged {
    valid: RecordBatch,
    codes: BTreeMap<String, u64>,
    several: u64,
}

fn judge(lines: &[Vec<u8>], arrival: i64, max_future_skew: Option<i64>) -> Judged {
    let events = RawEvents {
        topic: Arc::from("transactions"),
        partition: 0,
        offsets: Int64Array::from_iter_values(0..lines.len() as i64),
        values: lines.iter().map(|l| Some(l.as_slice())).collect::<BinaryViewArray>(),
        timestamps: None,
        keys: None,
        headers: None,
        timestamp_type: None,
        truncated: vec![],
        arrival,
    };
    let judged = contract().judge(&events, &JudgeRules { max_future_skew }).unwrap();
    let mut codes = BTreeMap::new();
    for rejected in &judged.rejected {
        *codes.entry(rejected.problems[0].code.as_str().to_owned()).or_default() += 1;
    }
    let several = judged.rejected.iter().filter(|r| r.problems.len() == 3).count() as u64;
    Judged { valid: judged.valid, codes, several }
}

fn end(options: &GenerateOptions) -> i64 {
    options.start + options.span().unwrap() + DAY
}

#[derive(Debug, PartialEq)]
struct Transaction {
    key: String,
    user: String,
    at: i64,
    processed: i64,
    cents: i128,
    currency: String,
}

fn rows(valid: &RecordBatch) -> Vec<Transaction> {
    let column = |name: &str| valid.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    let text = |name: &str, i: usize| column(name).as_string::<i32>().value(i).to_owned();
    let time = |name: &str, i: usize| {
        let column = column(name).as_primitive::<TimestampMicrosecondType>();
        assert!(column.is_valid(i));
        column.value(i)
    };
    (0..valid.num_rows())
        .map(|i| Transaction {
            key: text("idempotency_key", i),
            user: text("entity", i),
            at: time("event_time", i),
            processed: time("processing_time", i),
            cents: column("amount").as_primitive::<Decimal128Type>().value(i),
            currency: text("currency", i),
        })
        .collect()
}

#[test]
fn the_truth_of_payments_is_what_the_contract_and_a_recount_find() {
    let options = GenerateOptions {
        total: 30_000,
        seed: 7,
        bad_rate: 0.05,
        duplicate_rate: 0.04,
        late_rate: 0.03,
        ..Default::default()
    };
    let (lines, keys, truth) = make(&options);
    assert_eq!((lines.len() as u64, truth.total, truth.profile.as_str()), (30_000, 30_000, "payments"));
    assert_eq!(lines.iter().map(|l| l.len() as u64 + 1).sum::<u64>(), truth.bytes);

    let found = judge(&lines, end(&options), Some(5 * MINUTE));
    assert_eq!(found.codes, truth.expected.rejected_by_code);
    assert_eq!(found.codes.values().sum::<u64>(), truth.expected.rejected);
    assert_eq!(found.several, truth.flaws["several_problems"]);
    let asked = Flaw::DEFAULT.iter().filter(|f| f.suits(&payments::NAMES)).count();
    assert_eq!((truth.flaws.len(), asked), (asked, Flaw::DEFAULT.len() - 3), "every flaw occurs: {:?}", truth.flaws);

    let (mut unique, mut duplicate) = (HashMap::new(), 0);
    for row in rows(&found.valid) {
        if let Some(there) = unique.get(&row.key) {
            assert_eq!(there, &row, "a duplicate is the same event again");
            duplicate += 1;
            continue;
        }
        unique.insert(row.key.clone(), row);
    }
    let silver = unique.len() as u64;
    let expected = Expected {
        consumed: truth.total,
        silver,
        rejected: truth.expected.rejected,
        rejected_by_code: truth.expected.rejected_by_code.clone(),
        duplicate,
        late: 0,
        pending: 0,
    };
    assert_eq!(truth.expected, expected);
    assert_eq!(truth.by_type, BTreeMap::from([(EVENT_TYPE.to_owned(), silver)]));
    assert_eq!(truth.users, unique.values().map(|r| &r.user).collect::<BTreeSet<_>>().len() as u64);
    let known: BTreeSet<&String> = keys.iter().collect();
    assert!(unique.values().all(|r| known.contains(&r.user)), "keyed by user");

    let mut hours: BTreeMap<String, (u64, i128, u64)> = BTreeMap::new();
    let mut amounts: BTreeMap<String, i128> = BTreeMap::new();
    for row in unique.values() {
        let hour = chrono::DateTime::from_timestamp_micros(row.at).unwrap().format("%Y-%m-%dT%H:00:00Z").to_string();
        let (transactions, sum, late) = hours.entry(hour).or_default();
        *transactions += 1;
        *sum += row.cents;
        *late += u64::from(row.processed - row.at > LATE);
        *amounts.entry(row.currency.clone()).or_default() += row.cents;
    }
    let money = |cents: i128| format!("{}.{:02}", cents / 100, cents % 100);
    let of = |(hour, (total_transactions, sum, late_transactions)): (String, (u64, i128, u64))| {
        (hour, Hour { total_transactions, total_amount: money(sum), late_transactions })
    };
    assert_eq!(truth.hours, hours.into_iter().map(of).collect());
    assert_eq!(truth.purchase_amount, money(amounts.values().sum()));
    assert_eq!(truth.purchase_amount_by_currency, amounts.into_iter().map(|(c, n)| (c, money(n))).collect());
    assert_eq!(truth.purchase_amount_by_currency.len(), 5);

    // About the shares that were asked for: 3 % are slow by themselves, and 3 % come hours too late.
    let late: u64 = truth.hours.values().map(|h| h.late_transactions).sum();
    assert!((silver * 4 / 100..silver * 8 / 100).contains(&late), "{late} of {silver}");
    assert!((1_200..1_800).contains(&expected.rejected), "{}", expected.rejected);
    assert!((960..1_440).contains(&duplicate), "{duplicate}");

    let batch = judge(&lines, end(&options), None);
    assert_eq!(batch.codes, truth.expected_batch.rejected_by_code);
    assert_eq!(batch.valid.num_rows() as u64, truth.expected_batch.silver + duplicate);
}

#[test]
fn transactions_come_when_they_are_processed() {
    let options =
        GenerateOptions { total: 20_000, bad_rate: 0.0, duplicate_rate: 0.0, max_disorder: 0, ..Default::default() };
    let (lines, _, truth) = make(&options);
    let rows = rows(&judge(&lines, end(&options), None).valid);
    assert_eq!(rows.len(), lines.len());
    assert!(rows.windows(2).all(|w| w[0].processed <= w[1].processed));
    assert!(rows.iter().all(|r| r.processed > r.at && r.processed <= r.at + 2 * HOUR));
    let share = |least: i64| rows.iter().filter(|r| r.processed - r.at > least).count() * 1_000 / rows.len();
    assert!((20..=40).contains(&share(LATE)) && (85..=115).contains(&share(2 * SECOND)), "{}", share(2 * SECOND));
    let newest = rows.iter().map(|r| r.at).max().unwrap();
    assert_eq!(truth.newest(), Some(newest));
    assert!((newest - options.start - DAY).abs() < HOUR);
}

#[test]
fn the_same_seed_gives_the_same_payments() {
    let options = GenerateOptions { total: 3_000, seed: 3, late_rate: 0.02, ..Default::default() };
    let (lines, keys, truth) = make(&options);
    assert_eq!((lines.clone(), keys, truth.clone()), make(&options));
    assert_ne!(lines, make(&GenerateOptions { seed: 4, ..options }).0);
    let json = serde_json::to_value(&truth).unwrap();
    assert_eq!(serde_json::from_value::<Truth>(json).unwrap(), truth);
    // Bytes that a new version of a library must not change: benchmarks and tests elsewhere count on them.
    assert_eq!(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&lines.concat())), "2f9b65f1f34d8a47");
}

#[test]
fn every_flaw_of_payments_is_found_under_its_code() {
    for &flaw in Flaw::ALL {
        let options = GenerateOptions {
            total: if flaw == Flaw::TooLarge { 12 } else { 600 },
            bad_rate: 1.0,
            duplicate_rate: 0.0,
            flaws: Some(vec![flaw]),
            ..Default::default()
        };
        if !flaw.suits(&payments::NAMES) {
            let error = generate(Profile::Payments, &options, &mut |_| Ok(()), &mut |_| Ok(())).unwrap_err();
            assert!(error.to_string().contains(&format!("none can have '{}'", flaw.as_str())), "{error}");
            continue;
        }
        let (lines, _, truth) = make(&options);
        let found = judge(&lines, end(&options), Some(5 * MINUTE));
        let n = truth.flaws[flaw.as_str()];
        assert_eq!(found.codes, BTreeMap::from([(flaw.code().as_str().to_owned(), n)]), "{flaw:?}");
        // Only the yen has no cents of which there could be a fraction.
        let other = found.valid.num_rows() as u64;
        assert_eq!((n + other, other > 0), (truth.total, flaw == Flaw::FractionOfACent), "{flaw:?}");
        assert_eq!(truth.expected.silver, other);
    }
}

#[test]
fn the_truth_of_payments_that_arrived_is_what_a_recount_of_them_finds() {
    let options = GenerateOptions { total: 8_000, seed: 3, duplicate_rate: 0.2, late_rate: 0.02, ..Default::default() };
    let arrived = |n: u64| !n.is_multiple_of(7) && !(4_000..4_900).contains(&n);
    let truth = truth_of(Profile::Payments, &options, 6_000, &arrived).unwrap();
    let mut lines = vec![];
    let mut out = |made: Made<'_>| {
        if made.number < 6_000 && arrived(made.number) {
            lines.push(made.line.to_vec());
        }
        Ok(())
    };
    generate(Profile::Payments, &options, &mut out, &mut |_| Ok(())).unwrap();
    let found = judge(&lines, end(&options), Some(5 * MINUTE));
    let unique: HashMap<String, Transaction> = rows(&found.valid).into_iter().map(|r| (r.key.clone(), r)).collect();
    assert_eq!(truth.expected.silver, unique.len() as u64);
    assert_eq!(truth.expected.duplicate, (found.valid.num_rows() - unique.len()) as u64);
    assert_eq!(truth.expected.rejected_by_code, found.codes);
    assert_eq!(truth.hours.values().map(|h| h.total_transactions).sum::<u64>(), truth.expected.silver);
}

#[test]
fn heartbeats_of_payments_count_as_all_others() {
    let options = GenerateOptions { total: 500, bad_rate: 0.0, ..Default::default() };
    let (mut lines, _, mut truth) = make(&options);
    let before = truth.clone();
    let at = truth.newest().unwrap() + 3 * HOUR;
    let mut users = BTreeSet::new();
    for visitor in 0..4 {
        let mut line = Vec::new();
        users.insert(heartbeat(Profile::Payments, &options, at, visitor, &mut line));
        lines.push(line);
    }
    let bytes = lines[500..].iter().map(|l| l.len() as u64 + 1).sum();
    truth.heartbeats(Profile::Payments, 4, bytes, at);
    let found = rows(&judge(&lines[500..], end(&options), Some(5 * MINUTE)).valid);
    assert_eq!(found.iter().map(|r| r.user.clone()).collect::<BTreeSet<_>>(), users);
    assert_eq!(found.iter().map(|r| &r.key).collect::<BTreeSet<_>>().len(), 4);
    assert!(found.iter().all(|r| (r.at, r.cents) == (at, 0)));
    assert_eq!(truth.expected.silver, before.expected.silver + 4);
    assert_eq!((truth.expected.consumed, truth.expected.pending, truth.newest()), (504, 0, Some(at)));
    let hour = truth.hours.iter().next_back().unwrap().1;
    assert_eq!(hour, &Hour { total_transactions: 4, total_amount: "0.00".into(), late_transactions: 0 });
    assert_eq!(truth.hours.len(), before.hours.len() + 1);
}
