//! How fast events are judged: shop events of about 390 bytes, on one core.

use std::fmt::Write;
use std::path::Path;

use _core::contract::{Contract, JudgeRules, events_of};
use _core::events::RawEvents;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const CONTRACT: &str = r##"
name: shop
roles: {event_type: /event_type, event_time: /event_time, idempotency_key: /idempotency_key, entity: /user_id, schema_version: /schema_version}
events:
  purchase:
    v1:
      type: object
      required: [event_type, event_time, idempotency_key, user_id, schema_version, amount, currency]
      properties:
        event_id: {type: string, format: uuid}
        event_type: {const: purchase}
        schema_version: {const: v1}
        idempotency_key: {type: string, minLength: 8, maxLength: 64}
        user_id: {type: string, pattern: '^user_[0-9]+$'}
        event_time: {type: string, format: date-time}
        device: {type: object, properties: {type: {enum: [mobile, desktop, tablet]}, os: {type: string}}}
        amount: {type: number, minimum: 0, x-penstock-decimal: [12, 2]}
        currency: {enum: [EUR, USD, GBP]}
        quantity: {type: integer, minimum: 1, maximum: 100}
        page_url: {type: string, maxLength: 200}
        referrer: {type: [string, 'null']}
"##;

fn events(count: usize, flawed: bool) -> RawEvents {
    let mut lines = Vec::with_capacity(count);
    let mut state = 1u64;
    for n in 0..count {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let r = state >> 20;
        let mut line = String::new();
        let amount =
            if flawed && n % 2 == 0 { "\"free\"".to_owned() } else { format!("{}.{:02}", r % 900 + 1, r % 100) };
        write!(
            line,
            r#"{{"event_id":"{:08x}-aa98-41ea-b4aa-73b441d1{:04x}","event_type":"purchase","schema_version":"v1","idempotency_key":"idem-{state:016x}","user_id":"user_{}","event_time":"2024-12-{:02}T{:02}:{:02}:{:02}.{:06}Z","device":{{"type":"mobile","os":"iOS 17.2"}},"amount":{amount},"currency":"EUR","quantity":{},"page_url":"https://shop.example.com/checkout/{}","referrer":null}}"#,
            r as u32, r as u16, r % 50_000, n % 28 + 1, n % 24, n % 60, n % 60, r % 1_000_000, r % 9 + 1, r % 10_000
        )
        .unwrap();
        lines.push(line);
    }
    events_of(lines.iter().map(|l| Some(l.as_bytes())))
}

fn bench(c: &mut Criterion) {
    let contract = Contract::from_text(CONTRACT, Path::new("shop.yaml")).unwrap();
    let rules = JudgeRules { max_future_skew: None };
    let mut group = c.benchmark_group("judge");
    for (name, flawed) in [("valid", false), ("half of them flawed", true)] {
        let events = events(10_000, flawed);
        let bytes: usize = events.values.iter().flatten().map(<[u8]>::len).sum();
        let judged = contract.judge(&events, &rules).unwrap();
        assert_eq!(judged.rejected.len(), if flawed { 5_000 } else { 0 });
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |b| b.iter(|| contract.judge(&events, &rules).unwrap()));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
