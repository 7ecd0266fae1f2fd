use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryViewArray, Decimal128Array, DictionaryArray, Float64Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt16Array, UInt32Array,
};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use super::*;
use crate::lake::Durability;
use crate::lake::layout::Partition;
use crate::time::DAY;

fn table() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("event_time", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
        Field::new("n", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

fn rows(from: i64, count: i64) -> RecordBatch {
    let times =
        TimestampMicrosecondArray::from_iter_values((from..from + count).map(|i| i * DAY / 4)).with_timezone("UTC");
    let numbers: Int64Array = (from..from + count).map(|i| (i % 5 != 0).then_some(i)).collect();
    let texts: StringArray = (from..from + count).map(|i| (i % 7 != 0).then(|| format!("text {}", i % 100))).collect();
    RecordBatch::try_new(table(), vec![Arc::new(times) as ArrayRef, Arc::new(numbers), Arc::new(texts)]).unwrap()
}

fn read(bytes: &Bytes) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap();
    let schema = Arc::clone(reader.schema());
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

fn name(partition: &Partition, part: u32) -> String {
    format!("{}/{part:04}", partition.path())
}

#[test]
fn rows_come_back() {
    let settings = ParquetSettings { row_group_rows: 1000, ..ParquetSettings::default() };
    let mut encoder = Encoder::new(&table(), &settings).unwrap();
    for i in 0..10 {
        encoder.write(&rows(i * 777, 777)).unwrap();
    }
    let bytes = encoder.finish().unwrap().into_whole();
    assert_eq!(read(&bytes), rows(0, 7770));
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
    let groups: Vec<_> = reader.metadata().row_groups().iter().map(|g| g.num_rows()).collect();
    assert_eq!(groups, [1000, 1000, 1000, 1000, 1000, 1000, 1000, 770]);
    assert!(
        reader.metadata().offset_index().is_some()
            || reader.metadata().row_groups()[0].column(0).offset_index_offset().is_some()
    );
    assert!(reader.metadata().file_metadata().key_value_metadata().is_none());
}

#[test]
fn days_become_partitions_and_large_files_parts() {
    let settings = ParquetSettings { file_rows: 3, ..ParquetSettings::default() };
    let mut writer = PartitionedWriter::new(&table(), &settings);
    assert!(writer.is_empty());
    writer.write_by_date(&rows(0, 10), "event_time").unwrap();
    writer.write_by_date(&rows(0, 0), "event_time").unwrap();
    assert!(writer.write_by_date(&rows(0, 3), "n").is_err());
    let files = writer.finish(&name).unwrap();
    let found: Vec<_> = files.iter().map(|f| (f.path.as_str(), f.rows)).collect();
    assert_eq!(
        found,
        [
            ("date=1970-01-01/0000", 3),
            ("date=1970-01-01/0001", 1),
            ("date=1970-01-02/0000", 3),
            ("date=1970-01-02/0001", 1),
            ("date=1970-01-03/0000", 2)
        ]
    );
    assert_eq!((files[4].min_time, files[4].max_time), (Some(2 * DAY), Some(2 * DAY + DAY / 4)));
    assert_eq!((files[1].min_time, files[1].max_time), (Some(DAY * 3 / 4), Some(DAY * 3 / 4)));
    assert_eq!(read(&files[4].content.clone().into_whole()), rows(8, 2));
}

#[test]
fn many_small_partitions_do_not_wait_without_end() {
    let mut writer = PartitionedWriter::new(&table(), &ParquetSettings::default());
    let partitions: Vec<_> = (0..40).map(Partition::day).collect();
    for i in 0..40 {
        let groups: Vec<u32> = (0..10_000).map(|row| row % 40).collect();
        writer.write_grouped(&rows(i * 10_000, 10_000), &groups, &partitions).unwrap();
    }
    assert!(writer.bytes() > 0);
    let files = writer.finish(&name).unwrap();
    assert_eq!(
        files.iter().map(|f| (f.rows, read(&f.content.clone().into_whole()).num_rows())).collect::<Vec<_>>(),
        [(10_000, 10_000); 40]
    );
}

/// Rows whose text does not shrink, so that a file has several pieces.
fn large(from: u64, count: u64) -> RecordBatch {
    let rows = rows(from as i64, count as i64);
    let word = |i: u64| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes());
    let texts: StringArray = (from..from + count)
        .map(|i| Some((8 * i..8 * i + 8).map(|n| format!("{:016x}", word(n))).collect::<String>()))
        .collect();
    let mut columns = rows.columns().to_vec();
    columns[2] = Arc::new(texts);
    RecordBatch::try_new(table(), columns).unwrap()
}

#[test]
fn a_large_file_is_written_while_it_is_encoded() {
    let settings = ParquetSettings { row_group_rows: 60_000, file_rows: 200_000, ..ParquetSettings::default() };
    let mut writer = PartitionedWriter::new(&table(), &settings);
    let batches: Vec<_> = (0..10).map(|n| large(n * 30_000, 30_000)).collect();
    batches.iter().for_each(|batch| writer.write_soon(&Partition::none(), batch).unwrap());
    let expected = writer.finish(&name).unwrap();
    assert!(expected.len() == 2 && expected[0].content.len() > 12 << 20, "{}", expected[0].content.len());

    for durability in [Durability::Disk, Durability::Process] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        let options = ExportOptions { settings: settings.clone(), durability, ..ExportOptions::default() };
        let all = || batches.iter().cloned().map(Ok);
        let written = write_parquet(&table(), all(), &path, options.clone()).unwrap();
        assert_eq!(written, [("part-0000.parquet".to_owned(), 200_000), ("part-0001.parquet".to_owned(), 100_000)]);
        for (file, (path, _)) in expected.iter().zip(&written) {
            assert!(std::fs::read(folder.path().join(path)).unwrap() == file.content.clone().into_whole());
        }
        let said = write_parquet(&table(), all(), &path, options.clone()).unwrap_err().to_string();
        assert!(said.contains("is there already"), "{said}");
        let replace = ExportOptions { existing: Existing::Replace, ..options.clone() };
        assert_eq!(write_parquet(&table(), all(), &path, replace).unwrap(), written);

        // One that is given up half way leaves nothing.
        let other = ExportOptions { name: "other".into(), ..options };
        let broken = all().take(6).chain([Err(Error::Interrupted)]);
        assert!(matches!(write_parquet(&table(), broken, &path, other), Err(Error::Interrupted)));
        let mut left: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["part-0000.parquet", "part-0001.parquet"]);
    }
}

#[test]
fn an_export_is_in_hives_layout() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t").to_str().unwrap().to_owned();
    let options = ExportOptions { partition_by: vec!["text".into(), "n".into()], ..ExportOptions::default() };
    let write = |options: &ExportOptions, count| write_parquet(&table(), [Ok(rows(0, count))], &path, options.clone());
    let files = write(&options, 3).unwrap();
    let null = crate::lake::layout::NULL_PARTITION;
    let expected = [
        (format!("text={null}/n={null}/part-0000.parquet"), 1),
        ("text=text%201/n=1/part-0000.parquet".to_owned(), 1),
        ("text=text%202/n=2/part-0000.parquet".to_owned(), 1),
    ];
    assert_eq!(files, expected);
    let bytes: Bytes = std::fs::read(folder.path().join("t").join(&files[1].0)).unwrap().into();
    assert_eq!(read(&bytes), rows(1, 1).project(&[0]).unwrap());

    assert!(write(&options, 3).unwrap_err().to_string().contains("is there already"));
    let replace = ExportOptions { existing: Existing::Replace, ..options.clone() };
    std::fs::write(folder.path().join("t/text=text%201/n=1/part-0001.parquet"), "old").unwrap();
    assert_eq!(write(&replace, 3).unwrap(), expected);
    assert!(!folder.path().join("t/text=text%201/n=1/part-0001.parquet").exists());

    let by = |columns: &[&str]| ExportOptions {
        partition_by: columns.iter().map(|c| (*c).to_owned()).collect(),
        ..options.clone()
    };
    assert!(write(&by(&["tex"]), 1).unwrap_err().to_string().contains("there are event_time, n, text"));
    assert!(write(&by(&["event_time"]), 1).unwrap_err().to_string().contains("partition by text"));
    assert!(write(&by(&["n", "n"]), 1).is_err());
}

/// Rows as Bronze has them: bytes that do not shrink, as views into shared memory.
fn blobs(from: u64, sizes: &[usize]) -> RecordBatch {
    let word = |i: u64| xxhash_rust::xxh3::xxh3_64(&i.to_le_bytes()).to_le_bytes();
    let blob = |i: u64, size: usize| (i * 1_000..).flat_map(word).take(size).collect::<Vec<u8>>();
    let values = BinaryViewArray::from_iter_values((from..).zip(sizes).map(|(i, size)| blob(i, *size)));
    let fields = vec![Field::new("n", DataType::Int64, false), Field::new("value", DataType::BinaryView, false)];
    let numbers = Int64Array::from_iter_values(from as i64..from as i64 + sizes.len() as i64);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![Arc::new(numbers), Arc::new(values)]).unwrap()
}

#[test]
fn views_count_with_what_they_show() {
    let batch = blobs(0, &[100_000; 10]);
    assert!((1_000_000..4_000_000).contains(&super::encoder::at_most(&batch).unwrap()));
    assert!(super::encoder::at_most(&batch.slice(0, 1)).unwrap() < 400_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Batches that are encoded in one go make the bytes that they make one by one, also where a row group or a file ends
    /// among them.
    #[test]
    fn together_or_one_by_one_is_the_same(
        batches in prop::collection::vec(prop::collection::vec(0usize..6_000, 1..120), 2..40),
        tick in 2usize..9,
        group_mib in 5usize..9,
        file_mib in 3usize..12,
    ) {
        let settings = ParquetSettings {
            row_group_bytes: group_mib << 20,
            file_bytes: file_mib << 20,
            ..ParquetSettings::default()
        };
        let partitions: Vec<_> = (0..3).map(Partition::day).collect();
        let mut from = 0;
        let batches: Vec<_> = batches.iter().map(|sizes| {
            let batch = blobs(from, sizes);
            // Most are of one kind.
            let groups: Vec<u32> = (0..sizes.len() as u32).map(|i| if i % 8 < 6 { 0 } else { i % 8 - 5 }).collect();
            from += sizes.len() as u64;
            (batch, groups, partitions.clone())
        }).collect();
        let schema = batches[0].0.schema();
        let mut one_by_one = PartitionedWriter::new(&schema, &settings);
        let mut together = PartitionedWriter::new(&schema, &settings);
        for batches in batches.chunks(tick) {
            for (batch, groups, partitions) in batches {
                one_by_one.write_grouped(batch, groups, partitions).unwrap();
            }
            together.write_all_grouped(batches.iter().cloned().map(Ok)).unwrap();
        }
        let content = |files: Vec<DataFile>| -> Vec<_> {
            files.into_iter().map(|file| (file.path, file.rows, file.content.into_whole())).collect()
        };
        let (one_by_one, together) = (content(one_by_one.finish(&name).unwrap()), content(together.finish(&name).unwrap()));
        prop_assert_eq!(
            one_by_one.iter().map(|f| (&f.0, f.1, f.2.len())).collect::<Vec<_>>(),
            together.iter().map(|f| (&f.0, f.1, f.2.len())).collect::<Vec<_>>()
        );
        prop_assert!(one_by_one == together);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is written comes back, in order, however it is cut and grouped; and the same cuts give the same bytes.
    #[test]
    fn any_cut_gives_the_rows(cuts in prop::collection::vec(0i64..400, 1..8), file_rows in 50usize..500, threads in 1usize..4) {
        let settings = ParquetSettings { row_group_rows: 128, file_rows, ..ParquetSettings::default() };
        let write = || {
            let mut writer = PartitionedWriter::new(&table(), &settings);
            let mut from = 0;
            for count in &cuts {
                let batch = rows(from, *count);
                let groups: Vec<u32> = (from..from + count).map(|i| (i % 3) as u32).collect();
                let partitions: Vec<_> = (0..3).map(Partition::day).collect();
                writer.write_grouped(&batch, &groups, &partitions).unwrap();
                from += count;
            }
            writer.finish(&name).unwrap()
        };
        let files = write();
        let total: i64 = cuts.iter().sum();
        for day in 0..3i64 {
            let partition = Partition::day(day);
            let batches: Vec<_> = files.iter().filter(|f| f.partition == partition).map(|f| read(&f.content.clone().into_whole())).collect();
            let numbers: Vec<i64> = (0..total).filter(|i| i % 3 == day).collect();
            let got = concat_batches(&table(), &batches).unwrap();
            let times = got["event_time"].as_any().downcast_ref::<TimestampMicrosecondArray>().unwrap();
            prop_assert_eq!(times.values().to_vec(), numbers.iter().map(|i| i * DAY / 4).collect::<Vec<_>>());
        }
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let again = pool.install(write);
        prop_assert!(files.iter().zip(&again).all(|(a, b)| a.path == b.path && a.content.clone().into_whole() == b.content.clone().into_whole()));
        prop_assert_eq!(files.len(), again.len());
    }
}

/// Columns that are one in memory are encoded once; the file says the same as if they were not.
#[test]
fn columns_that_are_the_same_are_encoded_once() {
    let field = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    let schema = Arc::new(Schema::new(vec![field("a", true), field("b", true), field("c", false)]));
    let text = |from: usize, count: usize| -> ArrayRef {
        Arc::new((from..from + count).map(|i| Some(format!("entity {}", i % 3000))).collect::<StringArray>())
    };
    let alone = |array: &ArrayRef| -> ArrayRef { Arc::new(array.as_string::<i32>().iter().collect::<StringArray>()) };
    // In the second row group (and in none of the others) they part half-way.
    let settings = ParquetSettings { row_group_rows: 40_000, ..ParquetSettings::default() };
    let mut twins = Encoder::new(&schema, &settings).unwrap();
    let mut plain = Encoder::new(&schema, &settings).unwrap();
    let mut expected = vec![];
    for (n, same) in [true, true, true, true, true, false, false, false, true, true].into_iter().enumerate() {
        let a = text(n * 777, 10_000);
        let b = if same { a.clone() } else { text(n, 10_000) };
        let batch = RecordBatch::try_new(schema.clone(), vec![a.clone(), b, a]).unwrap();
        let parted = batch.columns().iter().map(alone).collect();
        plain.write(&RecordBatch::try_new(schema.clone(), parted).unwrap()).unwrap();
        twins.write_all(&[batch.slice(0, 4000), batch.slice(4000, 6000)]).unwrap();
        expected.push(batch);
    }
    let (twins, plain) = (twins.finish().unwrap().into_whole(), plain.finish().unwrap().into_whole());
    assert_eq!(read(&twins), concat_batches(&schema, &expected).unwrap());
    assert_eq!(twins, plain);
}

#[test]
fn packed_numbers_make_the_same_file() {
    let schema = Arc::new(Schema::new(vec![
        Field::new("n", DataType::Int64, true),
        Field::new("float", DataType::Float64, true),
        Field::new("decimal", DataType::Decimal128(30, 2), true),
    ]));
    let plain = |from: i64| -> RecordBatch {
        let some = |i: i64| (i % 7 == 0).then_some(i);
        let numbers: Int64Array = (from..from + 900).map(some).collect();
        let floats: Float64Array = (from..from + 900).map(|i| some(i).map(|i| i as f64 / 4.0)).collect();
        let decimals: Decimal128Array = (from..from + 900).map(|i| some(i).map(i128::from)).collect();
        let decimals = decimals.with_precision_and_scale(30, 2).unwrap();
        RecordBatch::try_new(schema.clone(), vec![Arc::new(numbers), Arc::new(floats), Arc::new(decimals)]).unwrap()
    };
    let packed = |batch: &RecordBatch| -> RecordBatch {
        let column = |column: &ArrayRef| {
            let rows = (0..column.len()).filter(|row| column.is_valid(*row)).map(|row| row as u32);
            let values = take(column, &UInt32Array::from_iter_values(rows), None).unwrap();
            let next = (0..column.len())
                .scan(0, |next, row| Some(column.is_valid(row).then(|| std::mem::replace(next, *next + 1))));
            Arc::new(DictionaryArray::new(next.collect::<UInt16Array>(), values)) as ArrayRef
        };
        crate::packed::batch(&schema, batch.columns().iter().map(column).collect()).unwrap()
    };
    let file = |some: &dyn Fn(usize, RecordBatch) -> RecordBatch| -> Bytes {
        let mut encoder = Encoder::new(&schema, &ParquetSettings::default()).unwrap();
        let batches: Vec<_> = (0..6).map(|n| some(n, plain(n as i64 * 900))).collect();
        encoder.write(&batches[0]).unwrap();
        encoder.write_all(&batches[1..]).unwrap();
        encoder.finish().unwrap().into_whole()
    };
    let bytes = file(&|_, rows| rows);
    assert_eq!(bytes, file(&|n, rows| if n % 2 == 0 { packed(&rows) } else { rows }));
    let expected: Vec<_> = (0..6).map(|n| plain(n * 900)).collect();
    assert_eq!(read(&bytes), concat_batches(&schema, &expected).unwrap());
}
