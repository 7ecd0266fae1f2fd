use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, Decimal128Array, Int32Array, Int64Array, TimestampMicrosecondArray, make_array,
};
use arrow::buffer::Buffer;
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

use super::*;

const LEVEL: i32 = 1;

fn array(kind: &DataType, values: &[Option<i64>]) -> ArrayRef {
    match kind {
        DataType::Int32 => Arc::new(values.iter().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
        DataType::Decimal128(..) => {
            let values: Decimal128Array = values.iter().map(|v| v.map(i128::from)).collect();
            Arc::new(values.with_data_type(kind.clone()))
        }
        DataType::Timestamp(..) => Arc::new(values.iter().copied().collect::<TimestampMicrosecondArray>()),
        _ => Arc::new(values.iter().copied().collect::<Int64Array>()),
    }
}

/// The same as the engine packs it.
fn packed(kind: &DataType, values: &[Option<i64>]) -> ArrayRef {
    let some: Vec<Option<i64>> = values.iter().filter(|v| v.is_some()).copied().collect();
    let numbers = values.iter().scan(0, |next, v| Some(std::mem::replace(next, *next + u16::from(v.is_some()))));
    let numbers: Vec<u16> = numbers.zip(values).map(|(n, v)| if v.is_some() { n } else { 0 }).collect();
    let nulls = values.iter().any(Option::is_none).then(|| values.iter().map(Option::is_some).collect());
    let plain = array(kind, &some).into_data();
    let data = ArrayData::builder(packed_type(kind)).len(values.len()).nulls(nulls);
    make_array(data.add_buffer(Buffer::from_vec(numbers)).add_child_data(plain).build().unwrap())
}

fn packed_type(kind: &DataType) -> DataType {
    DataType::Dictionary(Box::new(DataType::UInt16), Box::new(kind.clone()))
}

fn file(kind: &DataType, nullable: bool, options: &NumberOptions, groups: &[Vec<ArrayRef>]) -> Bytes {
    let schema = Schema::new(vec![Field::new("c", kind.clone(), nullable)]);
    let descriptor = ArrowSchemaConverter::new().convert(&schema).unwrap();
    assert!(covers(kind, descriptor.column(0).physical_type()));
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(Vec::new(), descriptor.root_schema_ptr(), properties).unwrap();
    let mut column = NumberColumn::new(descriptor.column(0), options.clone());
    for arrays in groups {
        arrays.iter().for_each(|array| column.write(array).unwrap());
        let mut group = file.next_row_group().unwrap();
        let (content, close) = column.close().unwrap();
        group.append_column(&content.into_whole(), close).unwrap();
        group.close().unwrap();
    }
    file.into_inner().unwrap().into()
}

/// Reads a file and makes sure that what its footer says is true.
fn read(bytes: &Bytes, kind: &DataType, statistics: bool) -> Vec<Option<i64>> {
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(bytes, options).unwrap();
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata.clone());
    let mut values = Vec::new();
    for batch in builder.build().unwrap() {
        let column = batch.unwrap().column(0).clone();
        assert_eq!(&column.data_type().clone(), kind);
        match kind {
            DataType::Decimal128(..) => {
                values.extend(column.as_primitive::<Decimal128Type>().iter().map(|v| v.map(|v| v as i64)));
            }
            _ => values.extend(cast(&column, &DataType::Int64).unwrap().as_primitive::<Int64Type>().iter()),
        }
    }
    let metadata = metadata.metadata();
    let mut at = 0;
    for (g, group) in metadata.row_groups().iter().enumerate() {
        let chunk = &values[at..at + group.num_rows() as usize];
        at += chunk.len();
        let known = group.column(0).statistics();
        assert_eq!(known.is_some(), statistics);
        let Some(known) = known else { continue };
        let of = |bytes: &[u8]| match bytes.len() {
            4 => i64::from(i32::from_le_bytes(bytes.try_into().unwrap())),
            _ => i64::from_le_bytes(bytes.try_into().unwrap()),
        };
        assert_eq!(known.null_count_opt(), Some(chunk.iter().filter(|v| v.is_none()).count() as u64));
        assert_eq!(known.min_bytes_opt().map(of), chunk.iter().flatten().min().copied());
        assert_eq!(known.max_bytes_opt().map(of), chunk.iter().flatten().max().copied());
        let pages = metadata.offset_index().unwrap()[g][0].page_locations();
        let mut bounds = Vec::new();
        for (p, page) in pages.iter().enumerate() {
            let next = pages.get(p + 1).map_or(chunk.len(), |n| n.first_row_index as usize);
            let values = &chunk[page.first_row_index as usize..next];
            let (min, max, nulls) = match &metadata.column_index().unwrap()[g][0] {
                ColumnIndexMetaData::INT32(index) => {
                    let wide = |v: Option<&i32>| v.map(|v| i64::from(*v));
                    (wide(index.min_value(p)), wide(index.max_value(p)), index.null_count(p))
                }
                ColumnIndexMetaData::INT64(index) => {
                    (index.min_value(p).copied(), index.max_value(p).copied(), index.null_count(p))
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(min, values.iter().flatten().min().copied());
            assert_eq!(max, values.iter().flatten().max().copied());
            assert_eq!(nulls, Some(values.iter().filter(|v| v.is_none()).count() as i64));
            bounds.extend(min.zip(max));
        }
        let order = metadata.column_index().unwrap()[g][0].get_boundary_order();
        let rise = bounds.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1);
        let fall = bounds.is_sorted_by(|a, b| a.0 >= b.0 && a.1 >= b.1);
        match order.unwrap() {
            BoundaryOrder::ASCENDING => assert!(rise),
            BoundaryOrder::DESCENDING => assert!(fall && !rise),
            BoundaryOrder::UNORDERED => assert!(!rise && !fall),
        }
    }
    values
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn numbers_come_back_and_statistics_hold(
        groups in prop::collection::vec(
            prop::collection::vec(
                (prop::collection::vec(prop::option::weighted(0.8, any::<i64>()), 0..300), 0u32..64), 1..6), 1..3),
        kind in prop::sample::select(vec![
            DataType::Int32, DataType::Int64, DataType::Timestamp(TimeUnit::Microsecond, None),
            DataType::Decimal128(12, 2),
        ]),
        page_rows in 1usize..700,
        (statistics, nullable, sorted) in any::<(bool, bool, bool)>(),
    ) {
        // Of any width, from all alike to the whole range of their type.
        let bits = match kind { DataType::Int32 => 32, DataType::Decimal128(..) => 25, _ => 0 };
        let groups: Vec<Vec<Vec<Option<i64>>>> = groups.into_iter().map(|arrays| {
            let mut arrays: Vec<Vec<Option<i64>>> = arrays.into_iter().map(|(values, shift)| {
                let value = |v: Option<i64>| v.map(|v| v >> shift.max(bits));
                values.into_iter().map(|v| if nullable { value(v) } else { value(v.or(Some(7))) }).collect()
            }).collect();
            arrays[0].push(Some(1));
            if sorted {
                arrays.iter_mut().for_each(|values| values.sort_unstable());
            }
            arrays
        }).collect();
        let options = NumberOptions { level: LEVEL, statistics, page_rows };
        let whole = |g: &Vec<Vec<Option<i64>>>| vec![array(&kind, &g.concat())];
        let cut = |g: &Vec<Vec<Option<i64>>>| g.iter().map(|v| array(&kind, v)).collect::<Vec<_>>();
        let bytes = file(&kind, nullable, &options, &groups.iter().map(cut).collect::<Vec<_>>());
        let expected: Vec<_> = groups.iter().flatten().flatten().copied().collect();
        prop_assert_eq!(read(&bytes, &kind, statistics), expected);
        // Where the rows were cut does not show.
        prop_assert_eq!(&bytes, &file(&kind, nullable, &options, &groups.iter().map(whole).collect::<Vec<_>>()));
        // Nor whether they were packed.
        let some_packed = |g: &Vec<Vec<Option<i64>>>| {
            let kinds = [packed, array].into_iter().cycle();
            g.iter().zip(kinds).map(|(v, of)| of(&kind, v)).collect::<Vec<_>>()
        };
        prop_assert_eq!(&bytes, &file(&kind, nullable, &options, &groups.iter().map(some_packed).collect::<Vec<_>>()));
    }
}

#[test]
fn the_ends_of_the_range_wrap_around() {
    let options = NumberOptions { level: LEVEL, statistics: true, page_rows: 1000 };
    let ends = [i64::MIN, i64::MAX, 0, -1, i64::MAX, i64::MIN, i64::MIN + 1].map(Some);
    let bytes = file(&DataType::Int64, false, &options, &[vec![array(&DataType::Int64, &ends)]]);
    assert_eq!(read(&bytes, &DataType::Int64, true), ends);
    let ends = [i32::MIN, i32::MAX, 0, -1, i32::MAX, i32::MIN, i32::MIN + 1].map(|v| Some(i64::from(v)));
    let bytes = file(&DataType::Int32, false, &options, &[vec![array(&DataType::Int32, &ends)]]);
    assert_eq!(read(&bytes, &DataType::Int32, true), ends);
}

#[test]
fn a_null_in_a_column_without_nulls_is_an_error() {
    let schema = Schema::new(vec![Field::new("c", DataType::Int64, false)]);
    let descriptor = ArrowSchemaConverter::new().convert(&schema).unwrap();
    let options = NumberOptions { level: LEVEL, statistics: true, page_rows: 10 };
    let mut column = NumberColumn::new(descriptor.column(0), options);
    let error = column.write(&Int64Array::from(vec![Some(1), None])).unwrap_err();
    assert!(error.to_string().contains("'c' has nulls"), "{error}");
}
