use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, BinaryViewArray, StringArray, StringViewArray};
use arrow::compute::cast;
use arrow::datatypes::{Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::page_index::column_index::ColumnIndexMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use proptest::prelude::*;

use super::super::bounds::BOUND;
use super::*;

/// A file of one column with a row group for each list of arrays.
fn file(kind: &DataType, nullable: bool, options: &TextOptions, groups: &[Vec<ArrayRef>]) -> Bytes {
    let schema = Schema::new(vec![Field::new("c", kind.clone(), nullable)]);
    let descriptor = ArrowSchemaConverter::new().convert(&schema).unwrap();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(Vec::new(), descriptor.root_schema_ptr(), properties).unwrap();
    let mut column = TextColumn::new(descriptor.column(0), kind, options.clone());
    for arrays in groups {
        for array in arrays {
            column.write(array).unwrap();
        }
        let mut group = file.next_row_group().unwrap();
        let (content, close) = column.close().unwrap();
        group.append_column(&content.into_whole(), close).unwrap();
        group.close().unwrap();
    }
    file.into_inner().unwrap().into()
}

/// Reads a file of one column and makes sure that what its footer says of every page is true.
fn read(bytes: &Bytes, statistics: bool) -> Vec<Option<Vec<u8>>> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(bytes, options).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata.clone());
    let batches: Vec<_> = builder.build().unwrap().map(Result::unwrap).collect();
    let mut values = Vec::new();
    for batch in batches {
        let column = cast(batch.column(0), &DataType::Binary).unwrap();
        values.extend(column.as_binary::<i32>().iter().map(|v| v.map(<[u8]>::to_vec)));
    }
    let metadata = metadata.metadata();
    let mut at = 0;
    for (g, group) in metadata.row_groups().iter().enumerate() {
        let rows = group.num_rows() as usize;
        let chunk = &values[at..at + rows];
        at += rows;
        let nulls = chunk.iter().filter(|v| v.is_none()).count();
        let within = |values: &[Option<Vec<u8>>], min: &[u8], max: &[u8]| {
            values.iter().flatten().all(|v| v.as_slice() >= min && v.as_slice() <= max)
        };
        let column = group.column(0);
        assert_eq!(column.statistics().is_some(), statistics);
        if let Some(statistics) = column.statistics() {
            assert_eq!(statistics.null_count_opt(), Some(nulls as u64));
            let (min, max) = (statistics.min_bytes_opt(), statistics.max_bytes_opt());
            assert_eq!(min.is_some(), nulls < rows);
            if let (Some(min), Some(max)) = (min, max) {
                assert!(within(chunk, min, max));
                let lowest = chunk.iter().flatten().min().unwrap();
                assert_eq!(statistics.min_is_exact(), lowest == min);
            }
        }
        let pages = metadata.offset_index().unwrap()[g][0].page_locations();
        for (p, page) in pages.iter().enumerate() {
            let first = page.first_row_index as usize;
            let next = pages.get(p + 1).map_or(rows, |n| n.first_row_index as usize);
            let values = &chunk[first..next];
            if !statistics {
                continue;
            }
            let ColumnIndexMetaData::BYTE_ARRAY(index) = &metadata.column_index().unwrap()[g][0] else { panic!() };
            assert_eq!(index.null_count(p), Some(values.iter().filter(|v| v.is_none()).count() as i64));
            match (index.min_value(p), index.max_value(p)) {
                (Some(min), Some(max)) => assert!(within(values, min, max)),
                _ => assert!(values.iter().all(Option::is_none)),
            }
        }
    }
    values
}

fn array(kind: &DataType, values: &[Option<Vec<u8>>]) -> ArrayRef {
    let text = || values.iter().map(|v| v.as_ref().map(|v| String::from_utf8_lossy(v).into_owned()));
    let array: ArrayRef = match kind {
        DataType::Utf8 => Arc::new(text().collect::<StringArray>()),
        DataType::Utf8View => Arc::new(text().collect::<StringViewArray>()),
        DataType::Binary => Arc::new(values.iter().map(|v| v.as_deref()).collect::<BinaryArray>()),
        _ => Arc::new(values.iter().map(|v| v.as_deref()).collect::<BinaryViewArray>()),
    };
    array
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[a-c]{0,3}".prop_map(String::into_bytes),
        3 => "\\PC{0,6}".prop_map(String::into_bytes),
        1 => "[a-b]{60,62}\\PC{3,30}".prop_map(String::into_bytes),
        1 => "\u{10ffff}{14,20}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn values_come_back_and_statistics_hold(
        groups in prop::collection::vec(
            prop::collection::vec(prop::collection::vec(prop::option::weighted(0.8, value()), 0..40), 1..6), 1..3),
        kind in prop::sample::select(vec![DataType::Utf8, DataType::Utf8View, DataType::Binary, DataType::BinaryView]),
        (page_rows, page_bytes, dictionary_bytes) in (1usize..50, 1usize..400, 0usize..300),
        (dictionary, statistics, nullable) in any::<(bool, bool, bool)>(),
        binary in prop::collection::vec(any::<u8>(), 60..70),
    ) {
        let mut groups = groups;
        if !nullable {
            groups.iter_mut().flatten().flatten().for_each(|v| { v.get_or_insert_default(); });
        }
        if matches!(kind, DataType::Binary | DataType::BinaryView) {
            groups[0][0].push(Some(binary));
            groups[0][0].push(Some(vec![0xff; 70]));
        }
        groups.iter_mut().for_each(|g| g[0].push(Some(b"at least one".to_vec())));
        let options = TextOptions { level: 1, dictionary, statistics, page_rows, page_bytes, dictionary_bytes };
        let whole = |g: &Vec<Vec<Option<Vec<u8>>>>| vec![array(&kind, &g.concat())];
        let cut = |g: &Vec<Vec<Option<Vec<u8>>>>| g.iter().map(|v| array(&kind, v)).collect::<Vec<_>>();
        let bytes = file(&kind, nullable, &options, &groups.iter().map(cut).collect::<Vec<_>>());
        let expected: Vec<_> = groups.iter().flatten().flatten().cloned().collect();
        prop_assert_eq!(read(&bytes, statistics), expected);
        // Where the rows were cut does not show.
        prop_assert_eq!(&bytes, &file(&kind, nullable, &options, &groups.iter().map(whole).collect::<Vec<_>>()));
    }

    /// Runs and packed stretches of any shape are read back by the `parquet` crate's decoder.
    #[test]
    fn runs_and_stretches(runs in prop::collection::vec((0u8..40, 1usize..80), 0..30), distinct in 1u8..40) {
        let values: Vec<_> = runs.iter().flat_map(|(v, n)| vec![(v % 5 > 0).then(|| vec![v % distinct]); *n]).collect();
        let values = [values, vec![Some(vec![0])]].concat();
        let bytes = file(&DataType::Binary, true, &TextOptions::default(), &[vec![array(&DataType::Binary, &values)]]);
        prop_assert_eq!(read(&bytes, true), values);
    }
}

#[test]
fn a_dictionary_that_does_not_pay_is_dropped() {
    let values: Vec<_> = (0..100_000).map(|i| Some(format!("{i:036}").into_bytes())).collect();
    let array = array(&DataType::Utf8, &values);
    let bytes = file(&DataType::Utf8, false, &TextOptions::default(), &[vec![array]]);
    let metadata = ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()).unwrap();
    assert_eq!(metadata.metadata().row_group(0).column(0).dictionary_page_offset(), None);
    assert_eq!(read(&bytes, true), values);
}

#[test]
fn bounds_are_bounds() {
    let long = "ä".repeat(60);
    for (value, utf8) in [(long.as_bytes(), true), (&[0xff; 70][..], false), (&[b'z'; 65][..], false)] {
        assert!(lower_bound(value, utf8).0.as_slice() <= value);
        assert!(upper_bound(value, utf8).0.as_slice() >= value);
        assert!(lower_bound(value, utf8).0.len() <= BOUND);
    }
    assert!(std::str::from_utf8(&upper_bound(long.as_bytes(), true).0).is_ok());
    assert_eq!(upper_bound(&[0xff; 70], false), (vec![0xff; 70], true));
    let highest = "\u{10ffff}".repeat(20);
    assert_eq!(upper_bound(highest.as_bytes(), true), (highest.clone().into_bytes(), true));
}
