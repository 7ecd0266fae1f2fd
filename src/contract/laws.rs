//! Laws: the fast path, the exact one and the fallback say the same of every schema and document.

use std::path::Path;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::judge::{Paths, judge_by};
use super::schema::{Judge, Validator};
use super::*;

const NAMES: [&str; 5] = ["a", "b", "c", "é", "x y"];
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "1.0",
    "-0",
    "2",
    "3",
    "-1",
    "0.5",
    "1e0",
    "10e-1",
    "12.505",
    "1e2",
    "9223372036854775808",
    "1e400",
    "0.1",
    "100",
];
const STRINGS: [&str; 18] = [
    "",
    "a",
    "b",
    "ab",
    "éa",
    "😀",
    "2015-01-01T00:00:00Z",
    "2015-02-30T00:00:00Z",
    "2016-12-31T23:59:60Z",
    "127.0.0.1",
    "x\"y",
    "\u{7f}\t",
    "2eb8aa08-aa98-11ea-b4aa-73b441d16380",
    "2024-12-17T00:00:03.567016Z",
    "2024-12-17T00:00:60.567016Z",
    "https://example.org/a?b=c",
    "a text of sixteen",
    "one that is longer than any two lanes\n",
];

fn number() -> impl Strategy<Value = Value> {
    prop::sample::select(&NUMBERS[..]).prop_map(|n| serde_json::from_str(n).unwrap())
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number(),
        prop::sample::select(&STRINGS[..]).prop_map(|s| json!(s)),
    ]
}

fn document() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((prop::sample::select(&NAMES[..]), inner), 0..4)
                .prop_map(|p| Value::Object(p.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())),
        ]
    })
}

/// Schemas of the keywords that every path can judge.
fn schema() -> impl Strategy<Value = Value> {
    let bare = prop_oneof![
        3 => Just(json!({})),
        1 => Just(json!(true)),
        1 => Just(json!(false)),
        1 => Just(json!({"$ref": "#/$defs/d"})),
    ];
    bare.prop_recursive(3, 20, 4, |inner| {
        let types = prop::sample::subsequence(&problem::TYPES[..], 1..3).prop_map(|t| match t.as_slice() {
            [one] => json!({"type": one}),
            many => json!({"type": many}),
        });
        let limit = || 0u64..4;
        let names = || prop::sample::subsequence(&NAMES[..], 0..3);
        let keyword = prop_oneof![
            6 => types,
            1 => prop::collection::vec(document(), 1..4).prop_map(|v| json!({"enum": v})),
            1 => document().prop_map(|v| json!({"const": v})),
            1 => number().prop_map(|n| json!({"minimum": n})),
            1 => number().prop_map(|n| json!({"maximum": n})),
            1 => number().prop_map(|n| json!({"exclusiveMinimum": n})),
            1 => number().prop_map(|n| json!({"exclusiveMaximum": n})),
            1 => prop::sample::select(vec!["1", "2", "0.1", "0.5", "1e2", "3"])
                .prop_map(|n| json!({"multipleOf": serde_json::from_str::<Value>(n).unwrap()})),
            1 => limit().prop_map(|n| json!({"minLength": n})),
            1 => limit().prop_map(|n| json!({"maxLength": n})),
            1 => prop::sample::select(vec!["^a", "^a$", "^[ab]{1,2}$", "^[a-c_-]*$", "b$", "^.$", r"\d", r"^[^\s]+$", "é"]).prop_map(|p| json!({"pattern": p})),
            1 => prop::sample::select(vec!["date-time", "ipv4", "uri", "uuid", "nonsense"]).prop_map(|f| json!({"format": f})),
            1 => inner.clone().prop_map(|s| json!({"items": s})),
            1 => prop::collection::vec(inner.clone(), 1..3).prop_map(|s| json!({"prefixItems": s})),
            1 => limit().prop_map(|n| json!({"minItems": n})),
            1 => limit().prop_map(|n| json!({"maxItems": n})),
            1 => Just(json!({"uniqueItems": true})),
            4 => prop::collection::vec((prop::sample::select(&NAMES[..]), inner.clone()), 1..4).prop_map(|p| {
                json!({"properties": Value::Object(p.into_iter().map(|(k, v)| (k.to_owned(), v)).collect())})
            }),
            1 => names().prop_map(|n| json!({"required": n})),
            1 => inner.clone().prop_map(|s| json!({"additionalProperties": s})),
            1 => Just(json!({"additionalProperties": false})),
            1 => limit().prop_map(|n| json!({"minProperties": n})),
            1 => limit().prop_map(|n| json!({"maxProperties": n})),
            1 => (prop::sample::select(&NAMES[..]), names()).prop_map(|(k, n)| json!({"dependentRequired": {k: n}})),
            1 => Just(json!({"$ref": "#/$defs/d"})),
        ];
        prop::collection::vec(keyword, 0..4).prop_map(|keywords| {
            let mut schema = Map::new();
            for keyword in keywords {
                schema.extend(keyword.as_object().cloned().unwrap_or_default());
            }
            Value::Object(schema)
        })
    })
}

/// A schema with something to refer to, that does not refer to itself for ever.
fn whole_schema() -> impl Strategy<Value = Value> {
    (schema(), schema()).prop_map(|(root, definition)| {
        let mut root = match root {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        let text = definition.to_string().replace("#/$defs/d", "#/$defs/e");
        root.insert(
            "$defs".into(),
            json!({"d": serde_json::from_str::<Value>(&text).unwrap(), "e": {"type": ["string", "integer"]}}),
        );
        Value::Object(root)
    })
}

/// A document that a schema might let in; `seed` chooses.
fn fitting(schema: &Value, root: &Value, seed: &mut u64, depth: usize) -> Value {
    let mut choose = |n: usize| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) as usize % n.max(1)
    };
    let Value::Object(map) = schema else { return json!(choose(3)) };
    if let Some(target) = map.get("$ref").and_then(|r| root["$defs"].get(r.as_str()?.rsplit('/').next()?)) {
        return fitting(target, root, seed, depth + 1);
    }
    if let Some(value) = map.get("const") {
        return value.clone();
    }
    if let Some(values) = map.get("enum").and_then(Value::as_array) {
        return values[choose(values.len())].clone();
    }
    let types: Vec<&str> = match map.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ if map.contains_key("properties") => vec!["object"],
        _ if map.contains_key("items") || map.contains_key("prefixItems") => vec!["array"],
        _ => problem::TYPES.to_vec(),
    };
    match types[choose(types.len())] {
        "null" => Value::Null,
        "boolean" => json!(choose(2) == 0),
        "integer" => serde_json::from_str(["0", "1", "2.0", "1e2", "-1", "100"][choose(6)]).unwrap(),
        "number" => serde_json::from_str(NUMBERS[choose(NUMBERS.len())]).unwrap(),
        "string" if map.contains_key("format") => json!(STRINGS[[6, 7, 8, 9, 12, 13, 14, 15][choose(8)]]),
        "string" => json!(STRINGS[choose(STRINGS.len())]),
        "array" if depth < 4 => {
            let count = choose(4);
            let prefix = map.get("prefixItems").and_then(Value::as_array);
            let open = json!({});
            let item = |n: usize| prefix.and_then(|p| p.get(n)).or(map.get("items")).unwrap_or(&open).clone();
            Value::Array((0..count).map(|n| fitting(&item(n), root, seed, depth + 1)).collect())
        }
        "object" if depth < 4 => {
            let mut object = Map::new();
            for (name, schema) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                object.insert(name.clone(), fitting(schema, root, seed, depth + 1));
            }
            for name in map.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
                object.entry(name).or_insert(json!(1));
            }
            if (*seed >> 40).is_multiple_of(3) {
                object.insert("more".into(), json!({"b": [1, {"c": "\u{e9}"}], "a": null}));
            }
            Value::Object(object)
        }
        _ => Value::Null,
    }
}

/// How a document is written down, and what happens to its bytes.
#[derive(Debug, Clone)]
struct Writing {
    spaces: bool,
    twice: bool,
    escaped: bool,
    mutations: Vec<(prop::sample::Index, u8)>,
}

fn writing() -> impl Strategy<Value = Writing> {
    let mutations = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(b"\"{}[],:0129.eE-+\\u \x00\xff\xc3tfn".to_vec())), 1..4),
    ];
    (any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), mutations)
        .prop_map(|(spaces, twice, escaped, mutations)| Writing { spaces, twice, escaped, mutations })
}

fn write(value: &Value, how: &Writing) -> Vec<u8> {
    let mut out = Vec::new();
    write_into(value, how, &mut out);
    for (at, byte) in &how.mutations {
        let at = at.index(out.len().max(1));
        if let Some(place) = out.get_mut(at) {
            *place = *byte;
        }
    }
    out
}

fn write_into(value: &Value, how: &Writing, out: &mut Vec<u8>) {
    let space = |out: &mut Vec<u8>| {
        if how.spaces {
            out.extend_from_slice(b" \n");
        }
    };
    let string = |text: &str, out: &mut Vec<u8>| {
        if how.escaped && text.starts_with('a') {
            out.extend_from_slice(b"\"\\u0061");
            let mut rest = Vec::new();
            json::quote_into(&text[1..], &mut rest);
            out.extend_from_slice(&rest[1..]);
        } else {
            json::quote_into(text, out);
        }
    };
    match value {
        Value::String(text) => string(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                space(out);
                write_into(item, how, out);
            }
            space(out);
            out.push(b']');
        }
        Value::Object(map) => {
            out.push(b'{');
            let again = how.twice.then(|| map.iter().next()).flatten().map(|(k, _)| (k, &Value::Null));
            for (n, (key, value)) in again.into_iter().chain(map).enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                space(out);
                string(key, out);
                space(out);
                out.push(b':');
                space(out);
                write_into(value, how, out);
            }
            out.push(b'}');
        }
        other => out.extend_from_slice(other.to_string().as_bytes()),
    }
}

proptest! {
    #[test]
    fn a_schema_has_one_answer(schema in whole_schema(), documents in prop::collection::vec((document(), writing()), 1..12)) {
        let Ok(validator) = Validator::new(&schema, true, None) else { return Ok(()) };
        prop_assert!(validator.reasons().is_empty(), "{:?}", validator.reasons());
        for (document, how) in &documents {
            let text = write(document, how);
            let shown = String::from_utf8_lossy(&text).into_owned();
            let fast = validator.accepts(&text);
            let (exact, fallback) = (validator.problems(&text, Judge::Exact), validator.problems(&text, Judge::Fallback));
            prop_assert_eq!(&exact, &fallback, "{} on {}", schema, shown);
            if fast {
                prop_assert_eq!(exact, Ok(Some(Vec::new())), "the fast path accepts {} on {}", schema, shown);
            } else if how.mutations.is_empty() && !how.twice && !how.escaped {
                prop_assert_ne!(exact, Ok(Some(Vec::new())), "the fast path does not accept {} on {}", schema, shown);
            }
        }
    }

    #[test]
    fn a_contract_has_one_answer(
        schemas in prop::collection::vec(prop::collection::vec((prop::sample::select(&NAMES[..]), whole_schema(), 0..9u8), 1..4), 1..3),
        events in prop::collection::vec((any::<u64>(), document(), 0..12usize, writing()), 1..12),
        split in any::<prop::sample::Index>(),
    ) {
        let schemas: Vec<Value> = schemas.iter().map(|s| event_schema(s)).collect();
        let Some(contract) = contract_of(&schemas) else { return Ok(()) };
        let texts: Vec<Vec<u8>> = events.iter().map(|(seed, any, kind, how)| write(&event(&schemas, *seed, any, *kind), how)).collect();
        let events = events_of(texts.iter().map(|t| Some(t.as_slice())));
        let rules = JudgeRules::default();
        let fast = contract.unpacked(judge_by(&contract, &events, &rules, Paths::All).unwrap()).unwrap();
        let exact = contract.unpacked(judge_by(&contract, &events, &rules, Paths::NoFast).unwrap()).unwrap();
        same(&fast, &exact, &texts)?;
        let slow = contract.clone().judged_by_fallback().unwrap();
        let fallback = slow.unpacked(judge_by(&slow, &events, &rules, Paths::NoFast).unwrap()).unwrap();
        same(&fast, &fallback, &texts)?;
        // A piece cut in two comes to the same.
        let at = split.index(texts.len() + 1);
        let mut parts = Vec::new();
        for (start, part) in [(0, &texts[..at]), (at, &texts[at..])] {
            let judged = contract.judge(&events_of(part.iter().map(|t| Some(t.as_slice()))), &rules).unwrap();
            parts.push(judged.valid);
            for mut refused in judged.rejected {
                refused.row += start as u32;
                prop_assert!(fast.rejected.contains(&refused));
            }
        }
        let joined = arrow::compute::concat_batches(&contract.schema(), &parts).unwrap();
        prop_assert_eq!(joined, fast.valid);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let judged = judge_tests::shop().judge(&events_of([Some(bytes.as_slice())]), &JudgeRules::default()).unwrap();
        prop_assert_eq!(judged.rows.len() + judged.rejected.len(), 1);
    }
}

fn same(a: &Judged, b: &Judged, texts: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let shown = || texts.iter().map(|t| String::from_utf8_lossy(t).into_owned()).collect::<Vec<_>>().join("\n");
    prop_assert_eq!(&a.rejected, &b.rejected, "{}", shown());
    prop_assert_eq!(&a.rows, &b.rows);
    prop_assert_eq!(&a.event_type, &b.event_type, "{}", shown());
    prop_assert_eq!(&a.event_time, &b.event_time, "{}", shown());
    prop_assert_eq!(&a.valid, &b.valid, "{}", shown());
    Ok(())
}

/// The schema of an event whose properties have these schemas.
fn event_schema(properties: &[(&str, Value, u8)]) -> Value {
    let mut definitions = Map::new();
    let mut declared = Map::new();
    for (n, (name, schema, mark)) in properties.iter().enumerate() {
        let text = schema.to_string().replace("#/$defs/", &format!("#/$defs/{n}-"));
        let Ok(Value::Object(mut schema)) = serde_json::from_str(&text) else { continue };
        if let Some(Value::Object(own)) = schema.remove("$defs") {
            definitions.extend(own.into_iter().map(|(k, v)| (format!("{n}-{k}"), v)));
        }
        let number = matches!(schema.get("type").and_then(Value::as_str), Some("number" | "integer"));
        match mark {
            0 => _ = schema.insert("x-penstock-pii".into(), json!("mask")),
            1 => _ = schema.insert("x-penstock-pii".into(), json!("hash")),
            2 => _ = schema.insert("x-penstock-pii".into(), json!("drop")),
            3 => _ = schema.insert("x-penstock-column".into(), json!(format!("column of {name}"))),
            _ if number => _ = schema.insert("x-penstock-decimal".into(), json!([4, 2])),
            _ => {}
        }
        declared.insert((*name).to_owned(), Value::Object(schema));
    }
    json!({"properties": declared, "$defs": definitions, "required": ["t"]})
}

/// A contract with one type a schema, when their columns agree.
fn contract_of(schemas: &[Value]) -> Option<Contract> {
    let mut events = Map::new();
    for (n, schema) in schemas.iter().enumerate() {
        events.insert(format!("T{n}"), json!({"v1": schema}));
    }
    let contract = json!({
        "name": "law",
        "roles": {"event_type": "/type", "event_time": {"path": "/t", "unit": "s"}, "idempotency_key": ["/k", "/e"], "entity": "/who/id"},
        "events": events,
    });
    let contract = Contract::from_text(&contract.to_string(), Path::new("law.json")).ok()?;
    Some(contract.with_secret(Some(b"law")))
}

/// An event that mostly fits its schema, with any document in it now and then; a few have no type, or one that is not
/// known.
fn event(schemas: &[Value], seed: u64, any: &Value, kind: usize) -> Value {
    let mut seed = seed;
    let mut event = Map::new();
    if kind == 11 {
        event.insert("nested".into(), json!({"type": "T0", "e": "\"type\":\"T1\""}));
    }
    let name = if kind == 10 { 9 } else { kind % schemas.len() };
    if kind != 9 {
        event.insert("type".into(), json!(format!("T{name}")));
    }
    event.insert("t".into(), json!(1.5));
    event.insert("k".into(), json!("key"));
    event.insert("e".into(), if kind == 8 { any.clone() } else { json!(7) });
    event.insert("who".into(), json!({"more": 1, "id": "x"}));
    if let Some(schema) = schemas.get(name) {
        for (property, of) in schema["properties"].as_object().into_iter().flatten() {
            let value = if kind == 7 { any.clone() } else { fitting(of, schema, &mut seed, 0) };
            event.insert(property.clone(), value);
        }
    }
    Value::Object(event)
}
