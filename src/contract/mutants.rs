//! Laws over bytes: events that are cut, spliced and rewritten token by token are judged alike by the fast path and by the
//! exact one, and are JSON for both of them exactly when they are for `serde_json`.

use std::path::Path;

use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

use super::judge::{Paths, judge_by};
use super::judge_tests::{GOOD, shop};
use super::*;
use crate::generate::{GenerateOptions, Made, Profile, generate};
use crate::verdict::Code;

/// Says something of every kind of value, and has columns of every type and mark.
const ODD: &str = r#"
name: odd
roles:
  event_type: /type
  event_time: /at
  idempotency_key: [/key, /n]
  entity: /who/id
  schema_version: /v
events:
  a:
    '1':
      required: [type, at, key]
      minProperties: 3
      maxProperties: 40
      dependentRequired: {mail: [host]}
      properties:
        type: {const: a}
        at: {type: string, format: date-time}
        key: {type: string, minLength: 2, maxLength: 40, pattern: '^[a-z0-9_-]+$'}
        n: {type: integer, minimum: -5, exclusiveMaximum: 1000}
        v: {type: integer}
        who: {type: object, additionalProperties: false, properties: {id: {type: [string, integer]}, name: {type: string, x-penstock-pii: hash}}}
        whole: {type: integer}
        count: {type: integer, exclusiveMinimum: 0, maximum: 9007199254740993}
        even: {type: integer, multipleOf: 2}
        tenth: {type: number, multipleOf: 0.1}
        price: {type: number, minimum: 0, x-penstock-decimal: [9, 2]}
        float: {type: [number, 'null'], maximum: 1e300}
        one: {const: 1}
        some: {enum: [1.0, a, null, true, [1, 2], {a: 1.50}]}
        word: {type: string, enum: [red, grün, "a\"b", ""]}
        flag: {type: boolean}
        yes: {const: true}
        short: {type: string, minLength: 1, maxLength: 3}
        umlaut: {type: string, pattern: 'ü$'}
        dots: {type: string, pattern: '^.{2,4}$'}
        code: {type: string, pattern: '^SKU-[A-Z0-9]{2,5}$'}
        host: {type: string, format: hostname}
        mail: {type: string, format: email}
        four: {type: string, format: ipv4}
        six: {type: string, format: ipv6}
        uri: {type: string, format: uri}
        uuid: {type: string, format: uuid}
        day: {type: string, format: date}
        clock: {type: string, format: time}
        later: {type: [string, 'null'], format: date-time}
        tags: {type: array, uniqueItems: true, maxItems: 4, items: {type: [string, number]}}
        list: {type: array, minItems: 1, prefixItems: [{type: integer}], items: {type: string, maxLength: 4}}
        items: {type: array, items: {type: object, required: [sku], properties: {sku: {type: string}, at: {type: string, format: date-time}, n: {type: integer}}}}
        deep: {type: object, properties: {a: {type: object, properties: {b: {type: object, properties: {c: {type: number}}}}}}}
        hidden: {type: [string, number, boolean], x-penstock-pii: mask}
        gone: {x-penstock-pii: drop}
        any: {}
    '2':
      properties: {key: {type: string}, at: {type: [string, 'null'], format: date-time}, v: {type: integer}, type: {enum: [a]}, uuid: {type: string}, n: {type: integer}}
      additionalProperties: {type: [string, integer, object]}
  b:
    '1': {additionalProperties: false, required: [at], properties: {type: {x-penstock-column: b_type}, at: {type: string, x-penstock-column: b_at}, key: {type: string, format: uuid}, n: {type: number, maximum: 7, x-penstock-column: b_n}, v: {type: string, x-penstock-column: b_v}, who: {type: object, x-penstock-column: b_who}, short: {type: string, maxLength: 2}}}
  '*':
    '1': {properties: {n: {minimum: 1, x-penstock-column: other_n}}}
"#;

const ODD_EVENTS: [&str; 4] = [
    r#"{"type":"a","at":"2024-12-17T01:02:03.567016Z","key":"key-1","v":1,"n":7,"who":{"id":"u1","name":"Ann"},"whole":12,"count":3,"even":4,"tenth":0.3,"price":12.50,"float":1.5,"one":1,"some":1,"word":"red","flag":true,"yes":true,"short":"abc","umlaut":"grün ü","dots":"äöü","code":"SKU-A1"}"#,
    r#"{"type":"a","at":"2024-12-17T01:02:03Z","key":"key-2","who":{"id":5},"n":0,"v":1,"host":"a.example.org","mail":"a@example.org","four":"192.168.0.1","six":"::1","uri":"https://example.org/a?b=c","uuid":"2eb8aa08-aa98-11ea-b4aa-73b441d16380","day":"2024-02-29","clock":"23:59:60Z","later":null,"tags":["a",1,"b"],"list":[1,"ab"],"items":[{"sku":"s","at":"2024-12-17T01:02:03.000000Z","n":1,"more":[1, {"a":2}]},{"sku":""}],"deep":{"a":{"b":{"c":1e2},"x":1}},"hidden":"x","gone":[1],"any":{"b" : [ ]},"more":{"z":null}}"#,
    r#"{"v":"1","type":"b","at":"2024-12-17T01:02:03.567016Z","key":"2eb8aa08-aa98-11ea-b4aa-73b441d16380","n":6.5,"who":{"id":9},"short":"ab"}"#,
    r#"{"key":"k","type":"a","uuid":"any text","n":3,"v":2,"at":"2024-12-17T01:02:03.567016Z","who":{"id":"7"},"foo":"bar"}"#,
];

const PAGE: &str = r#"{"v":"v2","event_type":"page_view","id":"p-1","event_time":"2024-12-17T01:02:03.567016Z","user":{"id":7},"url":"https://example.org/","ref":"abc"}"#;

/// Values that stand near some edge.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "-0",
    "-0.0",
    "0.0",
    "1",
    "1.0",
    "1e0",
    "10e-1",
    "1E+0",
    "2",
    "01",
    "-1",
    "-5",
    "-6",
    "-5.0",
    "999",
    "1000",
    "999.0",
    "1e3",
    "0.1",
    "0.3",
    "0.30",
    "0.35",
    "1e-1",
    "7.0",
    "7.000000000000000000001",
    "12.505",
    "9999999.99",
    "99999999.99",
    "1e7",
    "9007199254740993",
    "9007199254740992",
    "9007199254740993.0",
    "9007199254740994",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "999999999999999999",
    "1000000000000000000",
    "123456789012345678",
    "1234567890123456789",
    "0.123456789012345678",
    "1e400",
    "-1e400",
    "1e-400",
    "1e300",
    "1.1e300",
    "1e99999999999999999999",
    "1.50",
    "1.5",
    "+1",
    ".5",
    "1.",
    "1e",
    "NaN",
    "tru",
    "nul",
    "[]",
    "{}",
    "[1,2]",
    "[1.0, 2]",
    "[2,1]",
    r#"{"a":1.5}"#,
    r#"{"a":1.50,"a":1.5}"#,
    r#"{"id":"x"}"#,
    r#"{"id":7,"more":1}"#,
    "[[[[[[[[]]]]]]]]",
    r#"{"a":{"a":{"a":{"a":{"a":{}}}}}}"#,
    r#"["a","a"]"#,
    r#"["a","\u0061"]"#,
    "[1,1.0]",
    r#"[1,"abcde"]"#,
    r#""""#,
    r#"" ""#,
    r#""a""#,
    r#""\u0061""#,
    r#""red""#,
    r#""gr\u00fcn""#,
    r#""grün""#,
    r#""a\"b""#,
    r#""a\u0022b""#,
    r#""1""#,
    r#""2""#,
    r#""b""#,
    r#""äöü""#,
    r#""äöüß""#,
    r#""äöüßx""#,
    r#""😀😀""#,
    r#""\ud83d\ude00""#,
    r#""\ud83d""#,
    r#""\ude00""#,
    r#""\ud83d\u0061""#,
    r#""\u0000""#,
    "\"\u{0}\"",
    "\"\u{1f}\"",
    "\"\u{7f}\"",
    r#""\n""#,
    "\"\n\"",
    r#""\x""#,
    r#""\u12""#,
    r#""\/""#,
    r#""abc\\""#,
    r#""SKU-AB""#,
    r#""SKU-ABCDEF""#,
    r#""SKU-AB\n""#,
    r#""sku-ab""#,
    r#""key_x-9""#,
    r#""Key""#,
    r#""a text of sixtee""#,
    r#""a text of sixteen""#,
    r#""a text that is longer than two lanes of bytes, quite""#,
    r#""2024-12-17T00:00:03.567016Z""#,
    r#""2024-12-17T24:00:00.000000Z""#,
    r#""2024-12-17T23:59:60.000000Z""#,
    r#""2016-12-31T23:59:60Z""#,
    r#""2016-12-31T23:59:60.5Z""#,
    r#""2023-02-29T00:00:00.000000Z""#,
    r#""2024-02-29T00:00:00.000000Z""#,
    r#""1900-02-29T00:00:00.000000Z""#,
    r#""2000-02-29T00:00:00.000000Z""#,
    r#""0000-01-01T00:00:00.000000Z""#,
    r#""9999-12-31T23:59:59.999999Z""#,
    r#""9999-12-31T23:59:59-23:59""#,
    r#""2024-12-17T00:00:00+23:59""#,
    r#""2024-12-17T00:00:00+24:00""#,
    r#""2024-12-17t00:00:00z""#,
    r#""2024-12-17 00:00:00Z""#,
    r#""2024-12-17T00:00:00.Z""#,
    r#""2024-12-17T00:00:00.1234567Z""#,
    r#""2024-13-17T00:00:00.000000Z""#,
    r#""2024-12-17T00:00:03.56701\u0036Z""#,
    r#""2024-12-17T00:00:03,567016Z""#,
    r#""2024-12-17T00:00:0٣.56701Z""#,
    r#""2024-12-17""#,
    r#""2024-02-30""#,
    r#""12:00:00+01:00""#,
    r#""127.0.0.1""#,
    r#""127.0.0.01""#,
    r#""256.0.0.1""#,
    r#""1.1.1.1.""#,
    r#""::FFFF:1.2.3.4""#,
    r#""fe80::1%eth0""#,
    r#""FE80::ABCD""#,
    r#""2EB8AA08-AA98-11EA-B4AA-73B441D16380""#,
    r#""2eb8aa08aa9811eab4aa73b441d16380""#,
    r#""2eb8aa08-aa98-11ea-b4aa-73b441d1638g""#,
    r#""urn:uuid:2eb8aa08-aa98-11ea-b4aa-73b441d16380""#,
    r#""HTTPS://EXAMPLE.org""#,
    r#""https://ex ample.org""#,
    r#""https://example.org/%zz""#,
    r#""https://é.org""#,
    r#""//a""#,
    r#""A@EXAMPLE.ORG""#,
    r#""a@b@c""#,
    r#""page_view""#,
    r#""purchase""#,
    r#""v1""#,
    r#""v2""#,
];

/// Keys beside those of the event itself.
const KEYS: &[&str] = &[
    r#""type""#,
    r#""\u0074ype""#,
    r#""at""#,
    r#""a\u0074""#,
    r#""key""#,
    r#""n""#,
    r#""id""#,
    r#""who""#,
    r#""unknown""#,
    r#""unkn\u006fwn""#,
    r#""""#,
    r#""ü""#,
    r#""mail""#,
    r#""v""#,
    r#""event_type""#,
    r#""event_time""#,
    r#""\u0000""#,
    r#""a\"b""#,
    r#""short""#,
    r#""tags""#,
];

/// The tokens of an event, and of what is no JSON something like them.
fn tokens(text: &[u8]) -> Vec<Vec<u8>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let start = at;
        if text[at] == b'"' {
            at += 1;
            while at < text.len() && text[at] != b'"' {
                at += if text[at] == b'\\' { 2 } else { 1 };
            }
            at = (at + 1).min(text.len());
        } else if b"{}[],: \t\r\n".contains(&text[at]) {
            at += 1;
        } else {
            while at < text.len() && !b"{}[],: \t\r\n\"".contains(&text[at]) {
                at += 1;
            }
        }
        tokens.push(text[start..at].to_vec());
    }
    tokens
}

fn is_scalar(token: &[u8]) -> bool {
    !token.is_empty() && !b"{}[],: \t\r\n".contains(&token[0])
}

/// An event with some of its tokens, then some of its bytes changed.
fn mutant(rng: &mut ChaCha8Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut tokens = tokens(seeds.choose(rng).unwrap());
    let changes = [0, 0, 1, 1, 1, 2, 2, 5][rng.random_range(0..8)];
    for _ in 0..changes {
        if tokens.is_empty() {
            break;
        }
        let at = rng.random_range(0..tokens.len());
        let scalars: Vec<usize> = (0..tokens.len()).filter(|at| is_scalar(&tokens[*at])).collect();
        let scalar = scalars.choose(rng).copied().unwrap_or(at);
        let keys: Vec<usize> =
            scalars.iter().copied().filter(|at| tokens.get(at + 1).is_some_and(|next| next == b":")).collect();
        let key = keys.choose(rng).copied().unwrap_or(at);
        match rng.random_range(0..14) {
            // A value that stands near some edge, for a value; and for anything.
            0..=4 => {
                let value = if tokens.get(scalar + 1).is_some_and(|t| t == b":") {
                    (scalar + 2).min(tokens.len() - 1)
                } else {
                    scalar
                };
                tokens[value] = VALUES.choose(rng).unwrap().as_bytes().to_vec();
            }
            5 => tokens[scalar] = VALUES.choose(rng).unwrap().as_bytes().to_vec(),
            6 => tokens[key] = KEYS.choose(rng).unwrap().as_bytes().to_vec(),
            // One more property, perhaps one that is there already.
            7 | 8 => {
                let name = match keys.choose(rng) {
                    Some(known) if rng.random_bool(0.5) => tokens[*known].clone(),
                    _ => KEYS.choose(rng).unwrap().as_bytes().to_vec(),
                };
                let value = VALUES.choose(rng).unwrap().as_bytes().to_vec();
                tokens.splice(key..key, [name, b":".to_vec(), value, b",".to_vec()]);
            }
            // A property less.
            9 if key + 4 <= tokens.len() => _ = tokens.drain(key..key + 4),
            10 => {
                let space = [" ", "\n", "\r\n", "\t ", "\u{a0}", "\u{feff}", "\u{b}"].choose(rng).unwrap();
                tokens.insert(at, space.as_bytes().to_vec());
            }
            // A character of a string, escaped.
            11 => {
                let token = &mut tokens[scalar];
                let text = String::from_utf8_lossy(token).into_owned();
                let inside: Vec<(usize, char)> = text.char_indices().filter(|(_, c)| !"\"\\".contains(*c)).collect();
                if token[0] == b'"'
                    && let Some((place, c)) = inside.choose(rng)
                {
                    let mut units = [0; 2];
                    let escaped: String = c.encode_utf16(&mut units).iter().map(|u| format!("\\u{u:04x}")).collect();
                    *token = [&text[..*place], &escaped, &text[place + c.len_utf8()..]].concat().into_bytes();
                }
            }
            12 => {
                let other = rng.random_range(0..tokens.len());
                tokens.swap(at, other);
            }
            _ => {
                let token = tokens[at].clone();
                tokens.insert(at, token);
            }
        }
    }
    let mut text = tokens.concat();
    let changes = [0, 0, 0, 0, 0, 0, 1, 2][rng.random_range(0..8)];
    for _ in 0..changes {
        let at = rng.random_range(0..=text.len());
        let byte = *b"\"{}[],:0129.eE-+\\u \x00\x1f\xff\xc3\xa4\xed\xa0\xf4\x90tfn\r\n/b".choose(rng).unwrap();
        match rng.random_range(0..6) {
            0 if at < text.len() => text[at] = byte,
            1 if at < text.len() => _ = text.remove(at),
            2 => text.truncate(at),
            3 => _ = text.splice(0..0, *b"\xef\xbb\xbf"),
            4 => text.extend_from_slice(b" \r\n"),
            _ => text.insert(at, byte),
        }
    }
    text
}

fn generated(profile: Profile) -> Vec<Vec<u8>> {
    let options = GenerateOptions { total: 400, bad_rate: 0.02, duplicate_rate: 0.0, ..GenerateOptions::default() };
    let mut lines = Vec::new();
    let mut out = |made: Made<'_>| {
        lines.push(made.line.to_vec());
        Ok(())
    };
    generate(profile, &options, &mut out, &mut |_| Ok(())).unwrap();
    lines.retain(|line| line.len() < 4096);
    lines
}

fn subjects() -> Vec<(Contract, Vec<Vec<u8>>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/penstock/pipelines");
    let made =
        |name: &str| Contract::load(&folder.join(name).join("contract.yaml")).unwrap().with_secret(Some(b"mutants"));
    let odd = Contract::from_text(ODD, Path::new("odd.yaml")).unwrap().with_secret(Some(b"mutants"));
    let odd = odd.with_limits(Limits { max_bytes: 2000, max_depth: 6 }).unwrap();
    let bytes = |events: &[&str]| events.iter().map(|event| event.as_bytes().to_vec()).collect::<Vec<_>>();
    vec![
        (made("ecommerce"), generated(Profile::Ecommerce)),
        (made("payments"), generated(Profile::Payments)),
        (odd, bytes(&ODD_EVENTS)),
        (shop(), bytes(&[GOOD, PAGE])),
    ]
}

#[test]
fn changed_events_are_judged_alike() {
    // Far more of them, for hours: PENSTOCK_MUTANTS=100000000 (any number is also the seed).
    let wanted = std::env::var("PENSTOCK_MUTANTS").ok().and_then(|n| n.parse().ok()).unwrap_or(30_000u64);
    let mut rng = ChaCha8Rng::seed_from_u64(wanted);
    let mut valid = 0;
    let subjects = subjects();
    let mut done = 0;
    while done < wanted {
        for (contract, seeds) in &subjects {
            let count = [1, 10, 300, 3000][rng.random_range(0..4)];
            let texts: Vec<Vec<u8>> = (0..count).map(|_| mutant(&mut rng, seeds)).collect();
            done += count;
            let events = events_of(texts.iter().map(|text| Some(text.as_slice())));
            let rules = JudgeRules { max_future_skew: rng.random_bool(0.5).then_some(1_740_000_000_000_000) };
            let packed = judge_by(contract, &events, &rules, Paths::All).unwrap();
            let fast = contract.unpacked(packed).unwrap();
            let exact = contract.unpacked(judge_by(contract, &events, &rules, Paths::NoFast).unwrap()).unwrap();
            let text = |row: u32| String::from_utf8_lossy(&texts[row as usize]).into_owned();
            for (a, b) in fast.rows.iter().zip(&exact.rows) {
                assert_eq!(a, b, "{}: {}", contract.name(), text(*a.min(b)));
            }
            for (a, b) in fast.rejected.iter().zip(&exact.rejected) {
                assert_eq!(a, b, "{}: {}", contract.name(), text(a.row.min(b.row)));
            }
            assert_eq!((fast.rows.len(), fast.rejected.len()), (exact.rows.len(), exact.rejected.len()));
            for row in 0..texts.len() {
                assert_eq!(fast.event_type[row], exact.event_type[row], "{}", text(row as u32));
                assert_eq!(fast.event_time[row], exact.event_time[row], "{}", text(row as u32));
            }
            for (n, column) in fast.valid.columns().iter().enumerate() {
                let other = exact.valid.column(n);
                if column != other {
                    let name = fast.valid.schema().field(n).name().clone();
                    let row = (0..column.len()).find(|row| column.slice(*row, 1) != other.slice(*row, 1)).unwrap();
                    let (is, was) = (column.slice(row, 1), other.slice(row, 1));
                    panic!("{name}: {is:?} and not {was:?} of {}", text(fast.rows[row]));
                }
            }
            valid += fast.rows.len();
            for rejected in &fast.rejected {
                let text = &texts[rejected.row as usize];
                let code = rejected.problems[0].code;
                if code != Code::TooLarge {
                    assert_eq!(code == Code::MalformedJson, !is_json(text), "{}", String::from_utf8_lossy(text));
                }
            }
            for row in &fast.rows {
                assert!(is_json(&texts[*row as usize]), "{}", text(*row));
            }
        }
    }
    // Mutants that nobody would take say little of what is taken.
    assert!(valid as u64 * 20 > done, "{valid} of {done}");
    println!("{done} events, {valid} of them valid");
}

fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(text).is_ok()
}
