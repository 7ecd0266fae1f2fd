//! What is generated is what the truth says, counted again from the lines and judged by the contract's own schemas.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::verdict::Code;

fn pipeline() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("python/penstock/pipelines/ecommerce")
}

fn make(options: &GenerateOptions) -> (Vec<Vec<u8>>, Truth) {
    let mut lines = Vec::new();
    let mut out = |Made { line, key, .. }: Made<'_>| {
        assert!(key.starts_with("user_"));
        assert!(!line.contains(&b'\n'));
        lines.push(line.to_vec());
        Ok(())
    };
    let truth = generate(Profile::Ecommerce, options, &mut out, &mut |_| Ok(())).unwrap();
    (lines, truth)
}

fn schemas() -> HashMap<&'static str, jsonschema::Validator> {
    ["user_signup", "page_view", "purchase", "payment_failed"]
        .into_iter()
        .map(|name| {
            let text = std::fs::read_to_string(pipeline().join(format!("schemas/{name}.v1.json"))).unwrap();
            let schema: Value = serde_json::from_str(&text).unwrap();
            let options = jsonschema::draft202012::options().should_validate_formats(true);
            (name, options.build(&schema).unwrap())
        })
        .collect()
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// The first code of a line, or the event.
fn judge(line: &[u8], schemas: &HashMap<&'static str, jsonschema::Validator>) -> Result<Value, Code> {
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return Err(Code::MalformedJson) };
    if !event.is_object() {
        return Err(Code::NotAnObject);
    }
    if line.len() > 1 << 20 {
        return Err(Code::TooLarge);
    }
    if depth(&event) > 64 {
        return Err(Code::TooDeep);
    }
    let schema = event["event_type"].as_str().and_then(|t| schemas.get(t)).ok_or(Code::UnknownEventType)?;
    if event["schema_version"] != "v1" {
        return Err(Code::UnknownSchemaVersion);
    }
    let codes = schema.iter_errors(&event).map(|e| match e.kind().keyword() {
        "required" => Code::MissingField,
        "type" => Code::WrongType,
        "enum" | "const" => Code::NotAllowed,
        "minimum" | "maximum" | "minLength" | "maxLength" => Code::OutOfRange,
        "format" | "pattern" => Code::BadFormat,
        other => panic!("no flaw is meant to break {other}: {event}"),
    });
    if let Some(code) = codes.min() {
        return Err(code);
    }
    let amount = event["amount"].to_string();
    if amount.split_once('.').is_some_and(|(_, cents)| cents.len() > 2) {
        return Err(Code::NotRepresentable);
    }
    if event["event_timestamp"].as_str().unwrap() > "2199" {
        return Err(Code::FutureEventTime);
    }
    Ok(event)
}

fn micros(event: &Value) -> i64 {
    let text = event["event_timestamp"].as_str().unwrap();
    assert_eq!(text.len(), 27, "{text}");
    chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros()
}

#[test]
fn the_truth_is_what_a_recount_finds() {
    let options =
        GenerateOptions { total: 30_000, seed: 7, bad_rate: 0.05, duplicate_rate: 0.04, ..Default::default() };
    let (lines, truth) = make(&options);
    let schemas = schemas();
    assert_eq!(lines.len() as u64, truth.total);
    assert_eq!(lines.iter().map(|l| l.len() as u64 + 1).sum::<u64>(), truth.bytes);
    let (mut rejected, mut types) = (BTreeMap::new(), BTreeMap::new());
    let mut good: BTreeMap<String, Value> = BTreeMap::new();
    let (mut duplicate, mut newest) = (0, 0);
    for line in &lines {
        let event = match judge(line, &schemas) {
            Ok(event) => event,
            Err(code) => {
                *rejected.entry(code.as_str().to_owned()).or_default() += 1;
                continue;
            }
        };
        let key = event["idempotency_key"].as_str().unwrap().to_owned();
        if let Some(there) = good.insert(key, event.clone()) {
            assert_eq!(there, event, "a duplicate is the same event again");
            duplicate += 1;
            continue;
        }
        let at = micros(&event);
        assert!(at > newest - options.max_disorder, "more disorder than promised");
        newest = newest.max(at);
        *types.entry(event["event_type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    let expected = Expected {
        consumed: truth.total,
        silver: good.len() as u64,
        rejected: rejected.values().sum(),
        rejected_by_code: rejected,
        duplicate,
        late: 0,
        pending: 0,
    };
    assert_eq!(truth.expected, expected);
    assert_eq!(truth.by_type, types);
    assert_eq!(truth.flaws.values().sum::<u64>(), expected.rejected);
    assert_eq!(truth.flaws.len(), Flaw::DEFAULT.len(), "every flaw occurs: {:?}", truth.flaws);
    // About the shares that were asked for.
    assert!((1_200..1_800).contains(&expected.rejected), "{}", expected.rejected);
    assert!((960..1_440).contains(&duplicate), "{duplicate}");
    recount_users(good.into_values().collect(), &truth);
}

fn recount_users(mut events: Vec<Value>, truth: &Truth) {
    events.sort_by_key(micros);
    let minute = 60_000_000;
    let mut last: HashMap<String, (i64, i64)> = HashMap::new();
    let mut plans: HashMap<String, String> = HashMap::new();
    let (mut sessions, mut plan_rows) = (0, 0);
    let mut paid: BTreeMap<String, u64> = BTreeMap::new();
    for event in &events {
        let (at, user) = (micros(event), event["user_id"].as_str().unwrap().to_owned());
        let session = match last.get(&user) {
            Some((before, start)) if at - before <= 30 * minute && at - start < 24 * 60 * minute => *start,
            _ => {
                sessions += 1;
                at
            }
        };
        last.insert(user.clone(), (at, session));
        if let Some(plan) = event["plan_type"].as_str() {
            plan_rows += u64::from(plans.insert(user, plan.to_owned()).as_deref() != Some(plan));
        }
        if event["event_type"] == "purchase" {
            let cents: u64 = event["amount"].to_string().replace('.', "").parse().unwrap();
            *paid.entry(event["currency"].as_str().unwrap().to_owned()).or_default() += cents;
        }
    }
    let money = |cents: u64| format!("{}.{:02}", cents / 100, cents % 100);
    assert_eq!(truth.users, last.len() as u64);
    assert_eq!(truth.users_signed_up, plans.len() as u64);
    assert_eq!((truth.plan_rows, truth.plan_changes), (plan_rows, plan_rows - plans.len() as u64));
    assert!(truth.plan_changes > 20 && truth.users > truth.users_signed_up);
    assert_eq!(truth.sessions, sessions);
    assert_eq!(truth.purchase_amount, money(paid.values().sum()));
    assert_eq!(truth.purchase_amount_by_currency, paid.into_iter().map(|(c, n)| (c, money(n))).collect());
    let times: Vec<&str> = events.iter().map(|e| e["event_timestamp"].as_str().unwrap()).collect();
    assert_eq!(truth.first_event_time.as_deref(), times.first().copied());
    assert_eq!(truth.last_event_time.as_deref(), times.last().copied());
    assert!(events.windows(2).all(|w| micros(&w[0]) < micros(&w[1])), "no two events at one time");
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let options = GenerateOptions { total: 3_000, seed: 3, late_rate: 0.02, ..Default::default() };
    let (lines, truth) = make(&options);
    assert_eq!((lines.clone(), truth), make(&options));
    assert_ne!(lines, make(&GenerateOptions { seed: 4, ..options }).0);
    // Bytes that a new version of a library must not change: benchmarks and tests elsewhere count on them.
    assert_eq!(format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&lines.concat())), "5a31e3809f29c36d");
}

#[test]
fn every_flaw_is_found_under_its_code() {
    let schemas = schemas();
    for &flaw in Flaw::ALL {
        let options = GenerateOptions {
            total: if flaw == Flaw::TooLarge { 12 } else { 600 },
            bad_rate: 1.0,
            duplicate_rate: 0.0,
            flaws: Some(vec![flaw]),
            ..Default::default()
        };
        let (lines, truth) = make(&options);
        let n = lines.iter().filter(|line| judge(line, &schemas) == Err(flaw.code())).count() as u64;
        let other = lines.iter().filter(|line| judge(line, &schemas).is_ok()).count() as u64;
        assert!(n > 0, "{flaw:?}");
        assert_eq!(truth.flaws, BTreeMap::from([(flaw.as_str().to_owned(), n)]), "{flaw:?}");
        // Only a fraction of a cent needs an event of a certain kind.
        assert_eq!((n + other, other > 0), (truth.total, flaw == Flaw::FractionOfACent), "{flaw:?}");
        assert_eq!(truth.expected.silver, other);
    }
}

#[test]
fn late_events_come_more_than_an_hour_behind() {
    let options =
        GenerateOptions { total: 20_000, bad_rate: 0.0, duplicate_rate: 0.0, late_rate: 0.05, ..Default::default() };
    let (lines, truth) = make(&options);
    let (mut newest, mut late) = (0, 0);
    for line in &lines {
        let at = micros(&serde_json::from_slice(line).unwrap());
        late += u64::from(at < newest - HOUR + MINUTE);
        newest = newest.max(at);
    }
    assert_eq!(truth.expected.late, late);
    assert!((500..1_100).contains(&late), "{late}");
    assert_eq!(truth.expected.silver + late, truth.total);
    assert_eq!(truth.expected_batch.silver, truth.total);
}

#[test]
fn devices_are_the_documented_ones() {
    let text = std::fs::read_to_string(pipeline().join("devices.csv")).unwrap();
    let listed: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split(',').collect()).collect();
    assert_eq!(listed, ecommerce::DEVICES.map(|d| d.to_vec()));
    let (lines, _) = make(&GenerateOptions { total: 5_000, bad_rate: 0.0, ..Default::default() });
    let used: BTreeSet<Vec<String>> = lines
        .iter()
        .map(|l| {
            let event: Value = serde_json::from_slice(l).unwrap();
            ["device_type", "os", "browser"].map(|p| event[p].as_str().unwrap().to_owned()).to_vec()
        })
        .collect();
    assert_eq!(used, ecommerce::DEVICES.iter().map(|d| d.map(str::to_owned).to_vec()).collect());
}

#[test]
fn events_are_as_long_and_as_mixed_as_promised() {
    let (_, truth) = make(&GenerateOptions { total: 50_000, ..Default::default() });
    let length = truth.bytes / truth.total;
    assert!((370..410).contains(&length), "{length} bytes an event");
    let share = |name: &str| truth.by_type[name] * 100 / truth.total;
    assert!(share("page_view") >= 75 && (3..15).contains(&share("purchase")), "{:?}", truth.by_type);
    assert!(truth.by_type["payment_failed"] > 300 && share("user_signup") >= 3, "{:?}", truth.by_type);
    // The span is filled, and not much more.
    let last = chrono::DateTime::parse_from_rfc3339(truth.last_event_time.as_deref().unwrap()).unwrap();
    let off = last.timestamp_micros() - DEFAULT_START - DAY;
    assert!(off.abs() < HOUR, "{off}");
}

#[test]
fn any_total_is_met_and_odd_options_are_refused() {
    for total in [0, 1, 2, 17] {
        for duplicate_rate in [0.0, 0.5] {
            let (lines, truth) = make(&GenerateOptions { total, duplicate_rate, bad_rate: 0.0, ..Default::default() });
            assert_eq!((lines.len() as u64, truth.expected.consumed), (total, total));
            assert_eq!(truth.expected.silver + truth.expected.duplicate, total);
        }
    }
    let (lines, _) =
        make(&GenerateOptions { total: 500, users: Some(1), events_per_second: Some(2e6), ..Default::default() });
    assert_eq!(lines.len(), 500);
    let refused = |options: GenerateOptions, name: &str| {
        let error = generate(Profile::Ecommerce, &options, &mut |_| Ok(()), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
    };
    refused(GenerateOptions { bad_rate: 1.5, ..Default::default() }, "bad_rate");
    refused(GenerateOptions { late_rate: f64::NAN, ..Default::default() }, "late_rate");
    refused(GenerateOptions { duplicate_rate: 0.7, ..Default::default() }, "duplicate_rate");
    refused(GenerateOptions { users: Some(0), ..Default::default() }, "users");
    refused(GenerateOptions { start: -1, ..Default::default() }, "start");
    refused(GenerateOptions { span: Some(0), ..Default::default() }, "span");
    refused(GenerateOptions { events_per_second: Some(0.0), ..Default::default() }, "events_per_second");
    assert!(Profile::parse("ecomerce").unwrap_err().to_string().contains("there are: ecommerce"));
}

#[test]
fn work_ends_when_progress_says_so_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let options = GenerateOptions { total: 100_000, ..Default::default() };
    let mut stop = |done: u64| if done > 10_000 { Err(Error::Interrupted) } else { Ok(()) };
    assert!(matches!(generate_file(Profile::Ecommerce, &options, &path, &mut stop), Err(Error::Interrupted)));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let nowhere = folder.path().join("no/such/folder/events.jsonl");
    let error = generate_file(Profile::Ecommerce, &options, &nowhere, &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");
}

#[test]
fn files_hold_the_lines_compressed_or_not() {
    use std::io::Read;
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions { total: 2_000, ..Default::default() };
    let (lines, truth) = make(&options);
    let expected: Vec<u8> = lines.iter().flat_map(|l| [l.as_slice(), b"\n"].concat()).collect();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"] {
        let path = folder.path().join(name);
        assert_eq!(generate_file(Profile::Ecommerce, &options, &path, &mut |_| Ok(())).unwrap(), truth);
        let raw = std::fs::read(&path).unwrap();
        let mut text = Vec::new();
        match name.rsplit('.').next() {
            Some("gz") => drop(flate2::read::GzDecoder::new(raw.as_slice()).read_to_end(&mut text).unwrap()),
            Some("zst") => text = zstd::decode_all(raw.as_slice()).unwrap(),
            _ => text = raw,
        }
        assert!(text == expected, "{name}");
    }
    let json = serde_json::to_value(&truth).unwrap();
    assert_eq!(json["expected"]["consumed"], 2_000);
    assert_eq!(serde_json::from_value::<Truth>(json).unwrap(), truth);
}

#[test]
fn options_come_from_json() {
    let options: GenerateOptions =
        serde_json::from_str(r#"{"total": 5, "flaws": ["truncated", "hostile_event_type"]}"#).unwrap();
    assert_eq!(options.flaws, Some(vec![Flaw::Truncated, Flaw::HostileEventType]));
    assert_eq!((options.users(), options.span().unwrap()), (10, DAY));
    assert!(serde_json::from_str::<GenerateOptions>(r#"{"totl": 5}"#).is_err());
}

#[test]
fn the_truth_of_what_arrived_is_what_a_recount_of_it_finds() {
    let options = GenerateOptions {
        total: 20_000,
        seed: 3,
        bad_rate: 0.05,
        duplicate_rate: 0.2,
        late_rate: 0.02,
        ..Default::default()
    };
    let schemas = schemas();
    let made = 15_000;
    // Some are lost alone, some in a row, and what was made last never went out.
    let arrived = |n: u64| !n.is_multiple_of(7) && !(4_000..4_900).contains(&n);
    let truth = truth_of(Profile::Ecommerce, &options, made, &arrived).unwrap();
    let mut events = Vec::new();
    let (mut lines, mut bytes, mut rejected, mut late) = (0, 0, BTreeMap::new(), 0);
    let mut seen = BTreeMap::<String, u64>::new();
    let mut out = |made: Made<'_>| {
        if made.number >= 15_000 || !arrived(made.number) {
            return Ok(());
        }
        lines += 1;
        bytes += made.line.len() as u64 + 1;
        match judge(made.line, &schemas) {
            Ok(event) => {
                *seen.entry(event["idempotency_key"].as_str().unwrap().to_owned()).or_default() += 1;
                events.push(event);
            }
            Err(code) => *rejected.entry(code.as_str().to_owned()).or_default() += 1,
        }
        Ok(())
    };
    generate(Profile::Ecommerce, &options, &mut out, &mut |_| Ok(())).unwrap();
    late += truth.expected.late;
    assert!(late > 0);
    let expected = Expected {
        consumed: lines,
        silver: seen.len() as u64 - late,
        rejected: rejected.values().sum(),
        rejected_by_code: rejected,
        duplicate: seen.values().filter(|n| **n > 1).count() as u64,
        late,
        pending: 0,
    };
    assert_eq!(truth.expected, expected);
    assert_eq!((truth.total, truth.bytes), (lines, bytes));
    assert_eq!(truth.by_type.values().sum::<u64>(), expected.silver);
    // All of them: as if nothing had been said.
    let whole = truth_of(Profile::Ecommerce, &options, u64::MAX, &|_| true).unwrap();
    assert_eq!(whole, generate(Profile::Ecommerce, &options, &mut |_| Ok(()), &mut |_| Ok(())).unwrap());
}

#[test]
fn a_heartbeat_is_a_good_event() {
    let (schemas, options) = (schemas(), GenerateOptions::default());
    let mut keys = BTreeSet::new();
    for visitor in 0..8 {
        let mut line = Vec::new();
        let key = heartbeat(Profile::Ecommerce, &options, options.start, visitor, &mut line);
        let event = judge(&line, &schemas).unwrap();
        assert_eq!((event["user_id"].as_str(), micros(&event)), (Some(key.as_str()), options.start));
        assert!(keys.insert(event["idempotency_key"].as_str().unwrap().to_owned()));
    }
}
