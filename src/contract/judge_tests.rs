//! What contracts say of events.

use std::path::Path;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Int64Type, TimestampMicrosecondType};

use super::*;
use crate::verdict::Code;

pub(crate) const SHOP: &str = r#"
name: shop
roles:
  event_type: /event_type
  event_time: /event_time
  idempotency_key: /id
  entity: /user/id
  schema_version: /v
events:
  purchase:
    v1:
      type: object
      required: [id, event_type, event_time, v, user, amount]
      additionalProperties: true
      properties:
        id: {type: string, minLength: 3, maxLength: 40}
        event_type: {const: purchase}
        event_time: {type: string, format: date-time}
        v: {type: string}
        user: {$ref: '#/$defs/user'}
        amount: {type: number, minimum: 0, x-penstock-decimal: [12, 2]}
        quantity: {type: integer, exclusiveMinimum: 0}
        items:
          type: array
          maxItems: 3
          items: {type: object, properties: {sku: {type: string}, n: {type: integer}}}
        tags: {type: array, uniqueItems: true}
        note: {type: [string, 'null']}
        anything: {}
      $defs:
        user: {type: object, required: [id], properties: {id: {type: integer}, mail: {type: string, x-penstock-pii: mask}}}
  page_view:
    v1: {properties: {url: {type: string, format: uri}, event_time: {type: string}}}
    v2: {properties: {url: {type: string}, ref: {type: string, pattern: '^[a-z]+$'}, v: {type: string}, id: {type: string}, event_type: {}, event_time: {}, user: {$ref: '#/$defs/user'}}, additionalProperties: false,
      $defs: {user: {type: object, properties: {id: {type: integer}}}}}
"#;

pub(crate) fn shop() -> Contract {
    Contract::from_text(SHOP, Path::new("shop.yaml")).unwrap()
}

fn judge(contract: &Contract, events: &[&str]) -> Judged {
    contract.judge(&events_of(events.iter().map(|e| Some(e.as_bytes()))), &JudgeRules::default()).unwrap()
}

fn refusals(contract: &Contract, event: &str) -> Vec<(Code, String)> {
    let judged = judge(contract, &[event]);
    judged.rejected.into_iter().flat_map(|r| r.problems).map(|p| (p.code, p.pointer)).collect()
}

fn text(batch: &arrow::array::RecordBatch, column: &str, row: usize) -> Option<String> {
    let array = batch.column_by_name(column).unwrap().as_string::<i32>();
    array.is_valid(row).then(|| array.value(row).to_owned())
}

pub(crate) const GOOD: &str = r#"{"id":"a-1","event_type":"purchase","event_time":"2024-12-17T01:02:03.5Z","v":"v1","user":{"id":7,"mail":"x@y.z","age":9},"amount":12.50,"quantity":2,"items":[{"sku":"s"},{"n":3,"w":[1, 2]}],"tags":["a",1],"note":null,"anything":{"b" : [ ]},"more":1}"#;

#[test]
fn valid_events_come_to_columns() {
    let judged = judge(&shop(), &[GOOD]);
    assert_eq!(judged.rejected, []);
    let batch = &judged.valid;
    let names: Vec<_> = batch.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(
        names,
        [
            "event_type",
            "event_time",
            "idempotency_key",
            "entity",
            "schema_version",
            "id",
            "v",
            "user",
            "amount",
            "quantity",
            "items",
            "tags",
            "note",
            "anything",
            "url",
            "ref",
            "_extra"
        ]
    );
    assert_eq!(text(batch, "event_type", 0).unwrap(), "purchase");
    assert_eq!(text(batch, "entity", 0).unwrap(), "7");
    assert_eq!(text(batch, "note", 0), None);
    assert_eq!(text(batch, "anything", 0).unwrap(), r#"{"b":[]}"#);
    assert_eq!(text(batch, "_extra", 0).unwrap(), r#"{"user":{"age":9},"items":[null,{"w":[1,2]}],"more":1}"#);
    assert_eq!(batch.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>().value(0), 1250);
    assert_eq!(
        batch.column_by_name("event_time").unwrap().as_primitive::<TimestampMicrosecondType>().value(0),
        1_734_397_323_500_000
    );
    let user = batch.column_by_name("user").unwrap().as_struct();
    assert_eq!(user.column(0).as_primitive::<Int64Type>().value(0), 7);
    assert_eq!(user.column(1).as_string::<i32>().value(0), "***");
    assert_eq!(judged.event_type, [0]);
}

#[test]
fn every_problem_is_reported_in_order() {
    let event = r#"{"id":"a","event_type":"purchase","event_time":"yesterday","v":"v1","user":{"id":"x"},"quantity":0.5,"items":[1,2,3,4],"tags":[1,1.0],"note":5}"#;
    assert_eq!(
        refusals(&shop(), event),
        [
            (Code::MissingField, "/amount".into()),
            (Code::WrongType, "/user/id".into()),
            (Code::WrongType, "/quantity".into()),
            (Code::WrongType, "/items/0".into()),
            (Code::WrongType, "/items/1".into()),
            (Code::WrongType, "/items/2".into()),
            (Code::WrongType, "/items/3".into()),
            (Code::WrongType, "/note".into()),
            (Code::NotAllowed, "/tags".into()),
            (Code::OutOfRange, "/id".into()),
            (Code::OutOfRange, "/items".into()),
            (Code::BadFormat, "/event_time".into()),
        ]
    );
}

#[test]
fn a_time_beyond_the_years_that_can_be_written_is_refused() {
    let time = |time: &str| {
        let event = format!(
            r#"{{"id":"abc","event_type":"purchase","event_time":"{time}","v":"v1","user":{{"id":1}},"amount":1}}"#
        );
        refusals(&shop(), &event)
    };
    for good in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59+23:59", "0000-01-01T00:00:00.000000Z"] {
        assert_eq!(time(good), []);
    }
    for bad in ["0000-01-01T00:00:00+01:00", "9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60Z"] {
        assert_eq!(time(bad), [(Code::BadFormat, "/event_time".into())]);
    }
    let contract = r#"
name: ms
roles: {event_type: {const: e}, event_time: {path: /t, unit: ms}, idempotency_key: /id}
events: {e: {v1: {properties: {t: {type: integer}, id: {type: string}}}}}
"#;
    let contract = Contract::from_text(contract, Path::new("ms.yaml")).unwrap();
    for (millis, valid) in [
        (-62_167_219_200_000i64, true),
        (-62_167_219_200_001, false),
        (253_402_300_799_999, true),
        (253_402_300_800_000, false),
    ] {
        let found = refusals(&contract, &format!(r#"{{"t":{millis},"id":"a"}}"#));
        assert_eq!(found, if valid { vec![] } else { vec![(Code::NotRepresentable, "/t".into())] });
    }
}

#[test]
fn each_code_has_its_event() {
    let contract = shop();
    let purchase = |rest: &str| {
        format!(
            r#"{{"id":"a-1","event_type":"purchase","event_time":"2024-12-17T01:02:03Z","v":"v1","user":{{"id":7}},{rest}}}"#
        )
    };
    let code = |event: &str| refusals(&contract, event);
    assert_eq!(code(r#"{"id":"#), [(Code::MalformedJson, String::new())]);
    assert_eq!(code("[1]"), [(Code::NotAnObject, String::new())]);
    assert_eq!(code(&format!("{{\"x\":\"{}\"}}", "y".repeat(2 << 20))), [(Code::TooLarge, String::new())]);
    assert_eq!(code(&format!("{{\"x\":{}{}}}", "[".repeat(64), "]".repeat(64))), [(Code::TooDeep, String::new())]);
    assert_eq!(code(r#"{"event_type":"purchasee"}"#), [(Code::UnknownEventType, "/event_type".into())]);
    assert_eq!(code(r#"{"event_type":5}"#), [(Code::WrongType, "/event_type".into())]);
    assert_eq!(code("{}"), [(Code::MissingField, "/event_type".into())]);
    assert_eq!(
        code(r#"{"event_type":"page_view","v":"v3","id":"1","event_time":"2024-12-17T01:02:03Z","user":{"id":1}}"#),
        [(Code::UnknownSchemaVersion, "/v".into())]
    );
    assert_eq!(code(&purchase(r#""amount":-1"#)), [(Code::OutOfRange, "/amount".into())]);
    assert_eq!(code(&purchase(r#""amount":1.005"#)), [(Code::NotRepresentable, "/amount".into())]);
    assert_eq!(
        code(&purchase(r#""amount":1,"quantity":9223372036854775808"#)),
        [(Code::NotRepresentable, "/quantity".into())]
    );
    assert_eq!(
        code(r#"{"event_type":"page_view","v":"v2","id":"1","event_time":"2024-12-17T01:02:03Z","user":{"id":1},"ref":"A","x":1}"#)
            .iter()
            .map(|p| p.0)
            .collect::<Vec<_>>(),
        [Code::BadFormat, Code::UnexpectedField]
    );
    let null = contract.judge(&events_of([None]), &JudgeRules::default()).unwrap();
    assert_eq!(null.rejected[0].problems[0].code, Code::NotAnObject);
    let rules = JudgeRules { max_future_skew: Some(300 * crate::time::SECOND) };
    let future = contract.judge(&events_of([Some(GOOD.as_bytes())]), &rules).unwrap();
    assert_eq!(future.rejected[0].problems[0].code, Code::FutureEventTime);
    assert_eq!(future.rejected[0].idempotency_key.as_deref(), Some("a-1"));
    assert_eq!(
        contract.judge(&events_of([Some(&b"{\"a\":\"\xff\"}"[..])]), &rules).unwrap().rejected[0].problems[0].code,
        Code::MalformedJson
    );
}

#[test]
fn the_last_of_two_equal_keys_counts() {
    let twice = GOOD.replace("\"quantity\":2", "\"quantity\":\"x\",\"quantity\":3,\"q\":1,\"q\":2");
    let judged = judge(&shop(), &[&twice, GOOD]);
    assert_eq!(judged.rejected, []);
    assert_eq!(judged.valid.column_by_name("quantity").unwrap().as_primitive::<Int64Type>().values(), &[3, 2]);
    assert!(text(&judged.valid, "_extra", 0).unwrap().contains(r#""q":2"#));
}

#[test]
fn roles_are_read_from_everywhere() {
    let text_ = r#"{"name":"r","roles":{"event_type":{"topic":{"t":"A"}},"event_time":{"kafka":"timestamp"},
        "idempotency_key":{"kafka":"position"},"entity":["/a/b","/c",{"const":"k"}]},
        "events":{"A":{"v1":{}},"*":{"roles":{"event_time":{"path":"/ts","unit":"ms"},"entity":{"header":"h"}},"v9":true}}}"#;
    let contract = Contract::from_text(text_, Path::new("r.json")).unwrap();
    let mut events = events_of([Some(&br#"{"a":{"b":"x\"y"},"c":1.50}"#[..])]);
    events.topic = "t".into();
    events.partition = 3;
    events.timestamps = Some(vec![77i64].into());
    let judged = contract.judge(&events, &JudgeRules::default()).unwrap();
    assert_eq!(judged.rejected, []);
    assert_eq!(text(&judged.valid, "entity", 0).unwrap(), r#"["x\"y",1.5,"k"]"#);
    assert_eq!(text(&judged.valid, "idempotency_key", 0).unwrap(), "t/3/0");
    assert_eq!(text(&judged.valid, "schema_version", 0).unwrap(), "v1");
    assert_eq!(judged.event_time, [Some(77)]);
    // A clock that was never set, and one that nobody can write down.
    for (time, code) in [(None, Code::MissingField), (Some(i64::MIN), Code::NotRepresentable)] {
        events.timestamps = Some(vec![time].into());
        let judged = contract.judge(&events, &JudgeRules::default()).unwrap();
        assert_eq!(judged.rejected[0].problems[0].code, code);
    }
    // The same text again gives the same contract.
    let again = Contract::from_text(contract.text(), Path::new("r.json")).unwrap();
    assert_eq!(again.digest(), contract.digest());
    assert_eq!(again.schema(), contract.schema());
}

#[test]
fn personal_properties_are_hidden() {
    let text_ = r#"{"name":"p","roles":{"event_type":{"const":"A"},"event_time":{"path":"/t","unit":"s"},"idempotency_key":"/k","entity":"/u"},
        "events":{"A":{"v1":{"properties":{"u":{"x-penstock-pii":"hash"},"d":{"x-penstock-pii":"drop"},"m":{"x-penstock-pii":"mask"}}}}}}"#;
    let contract = Contract::from_text(text_, Path::new("p.json")).unwrap();
    let events = [r#"{"t":1.5,"k":1,"u":"jane","d":2,"m":[3]}"#, r#"{"t":1.5,"k":2.0,"u":"jane"}"#];
    let raw = events_of(events.iter().map(|e| Some(e.as_bytes())));
    assert!(contract.judge(&raw, &JudgeRules::default()).is_err());
    let judged = contract.with_secret(Some(b"s")).judge(&raw, &JudgeRules::default()).unwrap();
    assert_eq!(judged.rejected, []);
    let hash = text(&judged.valid, "u", 0).unwrap();
    assert!(hash.len() == 64 && text(&judged.valid, "entity", 1).unwrap() == hash);
    assert_eq!(
        (text(&judged.valid, "m", 0).unwrap().as_str(), text(&judged.valid, "_extra", 0).unwrap().as_str()),
        ("***", r#"{"t":1.5,"k":1}"#)
    );
    assert!(judged.valid.column_by_name("d").is_none());
    assert_eq!(text(&judged.valid, "idempotency_key", 1).unwrap(), "2");
}

#[test]
fn broken_contracts_are_refused_with_file_line_and_reason() {
    let refused = |text: &str, line: usize, part: &str| {
        let error = Contract::from_text(text, Path::new("c.yaml")).map(|_| ()).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("c.yaml:{line}: ")) && error.contains(part),
            "{error}\nwanted {line}: {part}"
        );
    };
    let with = |events: &str| {
        format!(
            "name: c\nroles:\n  event_type: /t\n  event_time: /e\n  idempotency_key: /i\nevents:\n  A:\n    v1:\n{events}"
        )
    };
    refused("name: [", 2, "not YAML");
    refused("name: c\nrole: {}", 2, "did you mean 'roles'?");
    refused("name: c\nroles:\n  event_typ: /t\nevents: {}", 3, "did you mean 'event_type'?");
    refused("name: c\nroles:\n  event_type: type\nevents: {}", 3, "did you mean '/type'?");
    refused(
        "name: c\nroles:\n  event_type: /t\n  idempotency_key: /i\nevents:\n  A: {v1: {}}",
        6,
        "no role event_time",
    );
    refused(
        "name: c\nroles: {event_type: /t, event_time: /e, idempotency_key: /i}\nevents:\n  A: {v1: nowhere.json}",
        4,
        "nowhere.json",
    );
    refused(
        "name: c\nroles: {event_type: /t, event_time: /e, idempotency_key: /i}\nevents:\n  A: {v1: ../x.json}",
        4,
        "leads out",
    );
    refused(
        "name: c\nroles: {event_type: /t, event_time: /e, idempotency_key: /i}\nevents:\n  A: {v1: {}, v2: {}}",
        4,
        "schema_version",
    );
    refused(&with("      type: strin"), 9, "no JSON Schema");
    refused(&with("      properties:\n        a: {minLength: -1}"), 10, "no JSON Schema");
    refused(&with("      properties:\n        a: {x-penstock-colum: b}"), 10, "did you mean 'x-penstock-column'?");
    refused(
        &with("      properties:\n        a: {type: string, x-penstock-decimal: [3, 1]}"),
        10,
        "needs the type number",
    );
    refused(&with("      properties:\n        a: {type: number, x-penstock-decimal: [3, 4]}"), 10, "at most 38");
    refused(&with("      properties:\n        entity: {type: string}"), 10, "x-penstock-column");
    refused(&with("      properties:\n        i: {type: string, x-penstock-pii: drop}"), 5, "hash keeps it usable");
    refused(&with("      properties:\n        a: {$ref: '#/$defs/b'}"), 10, "nothing stands at");
    refused(&with("      properties:\n        a: {$ref: '#/properties/a'}"), 10, "circle");
    refused(&with("      properties:\n        a: {pattern: '('}"), 10, "regular expression");
    refused(&with("      properties:\n        e: {type: integer}"), 4, "unit: ms");
    refused(&with("      properties:\n        i: {type: object}"), 5, "cannot be read");
    refused(
        &with("      properties:\n        e: {}\n        t: {}\n      additionalProperties: false"),
        5,
        "does not let /i in",
    );
    refused(&with("      type: string"), 9, "takes no object");
    refused(
        &with(
            "      properties:\n        a: {type: string}\n  B:\n    v1:\n      properties:\n        a: {type: integer}",
        ),
        14,
        "text in A v1 and int64 in B v1",
    );
}

#[test]
fn schema_files_lie_beside_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("contract.yaml");
    let contract = "name: f\nroles: {event_type: /t, event_time: /e, idempotency_key: /i}\nevents:\n  A:\n    v1: schemas/a.json\n";
    std::fs::write(&path, contract).unwrap();
    std::fs::create_dir(folder.path().join("schemas")).unwrap();
    let schema = folder.path().join("schemas/a.json");
    std::fs::write(&schema, "{\n  \"properties\": {\n    \"a\": {\"type\": \"int\"}\n  }\n}").unwrap();
    let error = Contract::load(&path).unwrap_err().to_string();
    assert!(error.contains("a.json:3: is no JSON Schema"), "{error}");
    std::fs::write(&schema, "{\"properties\": {\"a\": {\"type\": \"integer\", \"multipleOf\": 0.50}}}").unwrap();
    let loaded = Contract::load(&path).unwrap();
    assert!(loaded.text().contains("0.50"));
    let copy = Contract::from_text(loaded.text(), Path::new("elsewhere")).unwrap();
    assert_eq!(copy.digest(), loaded.digest());
}

#[test]
fn a_contract_explains_itself() {
    let text_ = r#"{"name":"e","roles":{"event_type":"/t","event_time":{"path":"/e","unit":"ms"},"idempotency_key":["/i","/j"]},
        "events":{"A":{"v1":{"required":["i"],"requird":["j"],"properties":{"i":{"type":"string"}}}},
                  "B":{"v1":{"anyOf":[{"required":["x"]}],"properties":{"x":{"pattern":"^(?!a)"}}}}}}"#;
    let told = Contract::from_text(text_, Path::new("e.json")).unwrap().explain();
    let (a, b) = (&told["event_types"]["A"], &told["event_types"]["B"]);
    assert_eq!(a["versions"]["v1"]["path"], "fast");
    assert_eq!(a["versions"]["v1"]["required"][0], "i");
    assert_eq!(a["versions"]["v1"]["ignored"][0], "requird (did you mean required?) (line 2)");
    assert_eq!(a["roles"]["event_time"], "/e in milliseconds");
    assert_eq!(b["versions"]["v1"]["path"], "fallback");
    assert_eq!(b["versions"]["v1"]["why"].as_array().unwrap().len(), 2);
}

#[test]
fn the_fallback_judges_what_only_it_can() {
    let text_ = r#"{"name":"f","roles":{"event_type":{"const":"A"},"event_time":{"path":"/e","unit":"s"},"idempotency_key":"/i"},
        "events":{"A":{"v1":{"properties":{"i":{"type":"string"},"n":{"type":"integer"},"d":{"type":"number","x-penstock-decimal":[4,1]}},
        "anyOf":[{"required":["n"]},{"required":["d"]}],"patternProperties":{"^x":{"type":"boolean"}},"unevaluatedProperties":false}}}}"#;
    let contract = Contract::from_text(text_, Path::new("f.json")).unwrap();
    assert_eq!(
        refusals(&contract, r#"{"e":1,"i":"k","n":1,"xa":1,"d":1.25}"#),
        [(Code::WrongType, "/xa".into()), (Code::UnexpectedField, "/e".into()), (Code::NotRepresentable, "/d".into())]
    );
    let refused = judge(&contract, &[r#"{"i":"k"}"#]).rejected.remove(0);
    assert_eq!(refused.problems.iter().map(|p| p.code).collect::<Vec<_>>(), [Code::MissingField, Code::Invalid]);
}
