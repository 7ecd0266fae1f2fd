//! How fast a table becomes Parquet: Silver rows of 26 columns, and Bronze with values of about 390 bytes. The unit is
//! one row; a second line of output gives the size.

use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;

use _core::events::RawEvents;
use _core::lake::layout::Partition;
use _core::sinks::parquet::{ParquetSettings, PartitionedWriter};
use _core::sinks::{bronze, dead_letters};
use _core::sources::files::{Files, FilesSettings};
use _core::sources::{Source, Want};
use arrow::array::{
    ArrayRef, BooleanArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

const ROWS: usize = 200_000;
/// About 2 MiB of text.
const PIECE: usize = 5_000;
const START: i64 = 1_734_393_600_000_000;
const TYPES: [&str; 4] = ["page_view", "page_view", "purchase", "user_signup"];

/// A small generator of numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// One event, as the generator of a shop would make it.
struct Event {
    kind: &'static str,
    time: i64,
    key: String,
    user: u64,
    product: u64,
    cents: i64,
    quantity: i64,
    device: &'static str,
    browser: &'static str,
    country: &'static str,
    page: String,
}

fn event(i: usize, random: &mut Random) -> Event {
    let (a, b) = (random.next(), random.next());
    let product = random.below(2_000);
    Event {
        kind: TYPES[random.below(4) as usize],
        time: START + i as i64 * 40_000 + random.below(30_000_000) as i64,
        key: format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            a >> 32,
            a & 0xffff,
            b >> 52,
            (b >> 36) & 0xffff,
            b & 0xffff_ffff_ffff
        ),
        // A thousand people at a time, about ten events each.
        user: (i / 10_000 * 1_000) as u64 + random.below(1_000),
        product,
        cents: (product * 37 % 20_000) as i64 + 99,
        quantity: 1 + random.below(4) as i64,
        device: ["mobile", "desktop", "tablet"][random.below(3) as usize],
        browser: ["chrome", "safari", "firefox", "edge"][random.below(4) as usize],
        country: ["DE", "FR", "US", "GB", "IN", "BR", "JP"][random.below(7) as usize],
        page: format!("/products/{product}"),
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn silver_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let mut fields = vec![
        text("event_type"),
        Field::new("event_time", timestamp(), false),
        Field::new("idempotency_key", DataType::Utf8, false),
        text("entity"),
        text("schema_version"),
        text("user_id"),
        text("product_id"),
        text("page_url"),
        text("referrer"),
        text("device_type"),
        text("browser"),
        text("country"),
        text("currency"),
        Field::new("purchase_amount", DataType::Decimal128(12, 2), true),
        Field::new("quantity", DataType::Int64, true),
        text("payment_method"),
        text("plan_type"),
        text("_extra"),
    ];
    fields.push(Field::new("session_id", DataType::Utf8, true));
    fields.push(Field::new("session_start", timestamp(), true));
    fields.push(Field::new("session_seq", DataType::Int64, true));
    fields.push(Field::new("replayed", DataType::Boolean, false));
    fields.push(Field::new("_topic", DataType::Utf8, false));
    fields.push(Field::new("_partition", DataType::Int32, false));
    fields.push(Field::new("_offset", DataType::Int64, false));
    Arc::new(Schema::new(fields))
}

fn silver(events: &[Event], from: usize) -> RecordBatch {
    let text =
        |f: &dyn Fn(&Event) -> Option<String>| -> ArrayRef { Arc::new(events.iter().map(f).collect::<StringArray>()) };
    let bought = |e: &Event| e.kind == "purchase";
    let session = |e: &Event| e.user * 7_919 + ((e.time - START) / 1_800_000_000) as u64 * 31;
    let columns: Vec<ArrayRef> = vec![
        text(&|e| Some(e.kind.into())),
        Arc::new(events.iter().map(|e| Some(e.time)).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        text(&|e| Some(e.key.clone())),
        text(&|e| Some(format!("user_{:06}", e.user))),
        text(&|_| Some("v1".into())),
        text(&|e| Some(format!("user_{:06}", e.user))),
        text(&|e| (e.kind != "user_signup").then(|| format!("prod_{:05}", e.product))),
        text(&|e| (e.kind == "page_view").then(|| e.page.clone())),
        text(&|e| (e.kind == "page_view").then(|| format!("https://www.example.com{}", e.page))),
        text(&|e| Some(e.device.into())),
        text(&|e| Some(e.browser.into())),
        text(&|e| Some(e.country.into())),
        text(&|e| bought(e).then(|| "EUR".into())),
        Arc::new(
            events
                .iter()
                .map(|e| bought(e).then_some(i128::from(e.cents)))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(12, 2)
                .expect("fits"),
        ),
        Arc::new(events.iter().map(|e| bought(e).then_some(e.quantity)).collect::<Int64Array>()),
        text(&|e| bought(e).then(|| ["card", "paypal", "invoice"][(e.user % 3) as usize].into())),
        text(&|e| (e.kind == "user_signup").then(|| "free".into())),
        text(&|_| None),
        text(&|e| {
            Some(format!("{:032x}", u128::from(session(e)).wrapping_mul(0xdeca_fbad_1234_5678_9abc_def0_8765_4321)))
        }),
        Arc::new(
            events
                .iter()
                .map(|e| Some(e.time / 1_800_000_000 * 1_800_000_000 + e.user as i64))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        Arc::new(events.iter().map(|e| Some((e.user % 12) as i64)).collect::<Int64Array>()),
        Arc::new(BooleanArray::from(vec![false; events.len()])),
        text(&|_| Some("in/events-2024-12-17.jsonl".into())),
        Arc::new(Int32Array::from(vec![0; events.len()])),
        Arc::new((0..events.len()).map(|i| Some(((from + i) * 391) as i64)).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(silver_schema(), columns).expect("columns fit")
}

fn json(e: &Event) -> String {
    format!(
        r#"{{"event_id":"{}","event_type":"{}","schema_version":"v1","event_timestamp":"2024-12-17T{:02}:{:02}:{:02}.{:06}Z","user_id":"user_{:06}","product_id":"prod_{:05}","page_url":"{}","device":{{"type":"{}","browser":"{}","os":"linux"}},"geo":{{"country":"{}","city":"somewhere"}},"purchase_amount":{}.{:02},"currency":"EUR","quantity":{},"payment_method":"card"}}"#,
        e.key,
        e.kind,
        e.time / 3_600_000_000 % 24,
        e.time / 60_000_000 % 60,
        e.time / 1_000_000 % 60,
        e.time % 1_000_000,
        e.user,
        e.product,
        e.page,
        e.device,
        e.browser,
        e.country,
        e.cents / 100,
        e.cents % 100,
        e.quantity
    )
}

fn encode(schema: &SchemaRef, batches: &[RecordBatch], settings: &ParquetSettings) -> usize {
    let mut writer = PartitionedWriter::new(schema, settings);
    let partition = Partition::date(START);
    for batch in batches {
        writer.write(&partition, batch).expect("encodes");
    }
    writer.finish(&|p, n| format!("{}/{n}", p.path())).expect("finishes").iter().map(|f| f.content.len()).sum()
}

/// The same rows by the writer that comes with arrow-rs, set like ours.
fn encode_by_arrow_rs(schema: &SchemaRef, batches: &[RecordBatch], settings: &ParquetSettings) -> usize {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(settings.zstd_level).expect("a level")))
        .set_max_row_group_row_count(Some(settings.row_group_rows))
        .build();
    let mut writer = ArrowWriter::try_new(vec![], Arc::clone(schema), Some(properties)).expect("a schema");
    batches.iter().for_each(|batch| writer.write(batch).expect("encodes"));
    writer.into_inner().expect("finishes").len()
}

fn files(folder: &std::path::Path) -> Files {
    let settings = FilesSettings { base: folder.to_path_buf(), paths: vec!["*.jsonl".into()], bounded: true };
    let mut files = Files::new(settings).expect("patterns");
    files.refresh(0).expect("finds");
    files
}

fn read(folder: &std::path::Path) -> Vec<RawEvents> {
    let want = Want { bytes: 16 << 20, events: usize::MAX, arrival: START };
    let mut source = files(folder);
    std::iter::from_fn(|| source.next(&|_: &str, _| None, &want).expect("reads")).flat_map(|c| c.pieces).collect()
}

fn benches(c: &mut Criterion) {
    let mut random = Random(1);
    let events: Vec<_> = (0..ROWS).map(|i| event(i, &mut random)).collect();
    let silvers: Vec<_> = events.chunks(PIECE).enumerate().map(|(i, e)| silver(e, i * PIECE)).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let mut file = std::io::BufWriter::new(std::fs::File::create(folder.path().join("x.jsonl")).expect("a file"));
    for event in &events {
        writeln!(file, "{}", json(event)).expect("writes");
    }
    file.flush().expect("writes");
    drop(file);
    let raw = read(folder.path());
    assert_eq!(raw.iter().map(RawEvents::len).sum::<usize>(), ROWS);
    let bronzes: Vec<_> = raw.iter().map(|e| bronze::batch(e, &vec![Some(START); e.len()]).expect("fits")).collect();

    let settings = ParquetSettings::default();
    for (name, schema, batches) in [("silver", silver_schema(), &silvers), ("bronze", bronze::schema(), &bronzes)] {
        let memory: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        let size = encode(&schema, batches, &settings);
        let theirs = encode_by_arrow_rs(&schema, batches, &settings) as f64 / ROWS as f64;
        let ours = size as f64 / ROWS as f64;
        eprintln!("{name}: {} bytes a row in memory, {ours:.1} as Parquet, {theirs:.1} by arrow-rs", memory / ROWS);
    }

    let mut group = c.benchmark_group("parquet");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(10);
    group.bench_function("silver", |b| b.iter(|| encode(&silver_schema(), black_box(&silvers), &settings)));
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    group.bench_function("silver, one core", |b| {
        b.iter(|| one.install(|| encode(&silver_schema(), black_box(&silvers), &settings)));
    });
    group.bench_function("silver, one core, by arrow-rs", |b| {
        b.iter(|| encode_by_arrow_rs(&silver_schema(), black_box(&silvers), &settings));
    });
    group.bench_function("bronze", |b| b.iter(|| encode(&bronze::schema(), black_box(&bronzes), &settings)));
    group.bench_function("bronze batches", |b| {
        b.iter(|| {
            raw.iter().map(|e| bronze::batch(e, &vec![Some(START); e.len()]).expect("fits").num_rows()).sum::<usize>()
        });
    });
    group.bench_function("silver by date", |b| {
        b.iter(|| {
            let mut writer = PartitionedWriter::new(&silver_schema(), &settings);
            silvers.iter().for_each(|batch| writer.write_by_date(batch, "session_start").expect("encodes"));
            writer.finish(&|p, n| format!("{}/{n}", p.path())).expect("finishes").len()
        });
    });
    group.bench_function("dead letters, 1 in 100", |b| {
        let problems = [dead_letters::late(START, START + 1)];
        b.iter(|| {
            let letters = |e: &RawEvents| {
                let letter = |row: usize| dead_letters::Letter {
                    row: row as u32,
                    problems: &problems,
                    event_type: Some("page_view"),
                    schema_version: None,
                    idempotency_key: None,
                    entity: None,
                    event_time: None,
                };
                (0..e.len()).step_by(100).map(letter).collect::<Vec<_>>()
            };
            raw.iter().map(|e| dead_letters::batch(e, &letters(e), "", 0).expect("fits").num_rows()).sum::<usize>()
        });
    });
    group.finish();

    let mut group = c.benchmark_group("files");
    let length = std::fs::metadata(folder.path().join("x.jsonl")).expect("a file").len();
    group.throughput(Throughput::Bytes(length)).sample_size(20);
    let want = Want { bytes: 8 << 20, events: usize::MAX, arrival: START };
    group.bench_function("plain", |b| {
        b.iter(|| {
            let mut source = files(folder.path());
            let mut events = 0;
            while let Some(chunk) = source.next(&|_: &str, _| None, &want).expect("reads") {
                events += chunk.pieces.iter().map(RawEvents::len).sum::<usize>();
            }
            events
        });
    });
    group.finish();
}

criterion_group!(parquet, benches);
criterion_main!(parquet);
