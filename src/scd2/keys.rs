//! Keys as bytes, hashes and surrogate keys. The bytes are ours, not a library's, because surrogate keys follow from
//! them and stand in people's warehouses: they must stay the same in every version.
//!
//! Each column is a tag (0 null, 1 a value, 2 an unsigned value beyond 63 bits) and a form whose byte order is the
//! order of the values: numbers big-endian with the sign bit turned over; text and binary as they are, and where
//! another column follows, with 0x00 as 0x00 0x01 and 0x00 0x00 at the end.

use std::ops::Range;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float64Array, GenericByteArray,
    GenericByteViewArray, Int64Array, RecordBatch, UInt64Array,
};
use arrow::datatypes::{
    BinaryType, BinaryViewType, ByteArrayType, ByteViewType, DataType, Decimal128Type, Float64Type, Int64Type,
    LargeBinaryType, LargeUtf8Type, StringViewType, UInt64Type, Utf8Type,
};

use crate::error::{Error, Result};
use crate::hash;

/// How many parts the entities of a history are split into, by hash: enough for cores to share, and few enough that
/// the index of one part stays in a core's cache while it is worked on.
pub(super) const PARTS: usize = 64;

/// The part that a hash belongs to. The bits lie between those that the hash table uses for buckets and for tags.
pub(super) fn part_of(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

/// The hash of a key.
pub(super) fn hash_of(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// The surrogate key of an entity's row: 63 bits, of which the highest 6 are its part, so that equal ones meet there.
pub(super) fn surrogate(key: &[u8], hash: u64, start: i64) -> i64 {
    ((part_of(hash) as i64) << 57) | (hash::entity_at(key, start) as i64 & ((1 << 57) - 1))
}

/// Buckets that items of one part are sorted by.
const BUCKETS: usize = 1 << 10;

/// The bucket of a hash among those of its part: the bits above those that say the part.
pub(super) fn bucket_of(hash: u64) -> usize {
    (hash >> 54) as usize
}

/// The bucket of a surrogate key among those of its part: the bits below those that say the part.
pub(super) fn surrogate_bucket(surrogate: i64) -> usize {
    (surrogate >> 47) as usize % BUCKETS
}

/// Sorts items of one part: bucket sort (Knuth, volume 3, 5.2.5), as hashes are evenly spread. `bucket` never falls as items
/// rise, and is below [`BUCKETS`].
pub(super) fn sort_part<T: Copy + Default + Ord>(items: &mut Vec<T>, bucket: impl Fn(&T) -> usize) {
    if items.len() < BUCKETS / 4 {
        return items.sort_unstable();
    }
    let mut next = [0_usize; BUCKETS + 1];
    for item in items.iter() {
        next[bucket(item) + 1] += 1;
    }
    for n in 0..BUCKETS {
        next[n + 1] += next[n];
    }
    let mut sorted = vec![T::default(); items.len()];
    for item in items.iter() {
        let place = &mut next[bucket(item)];
        sorted[*place] = *item;
        *place += 1;
    }
    // Each has moved on to where the next one began.
    let mut from = 0;
    for to in &next[..BUCKETS] {
        sorted[from..*to].sort_unstable();
        from = *to;
    }
    *items = sorted;
}

enum Column {
    Text(GenericByteArray<Utf8Type>),
    LargeText(GenericByteArray<LargeUtf8Type>),
    TextView(GenericByteViewArray<StringViewType>),
    Binary(GenericByteArray<BinaryType>),
    LargeBinary(GenericByteArray<LargeBinaryType>),
    BinaryView(GenericByteViewArray<BinaryViewType>),
    Fixed(FixedSizeBinaryArray),
    Signed(Int64Array),
    Unsigned(UInt64Array),
    Decimal(Decimal128Array),
    Float(Float64Array),
    Bool(BooleanArray),
    Null,
}

/// The key columns of a batch.
pub(super) struct Keys {
    columns: Vec<Column>,
}

impl Keys {
    pub fn new(batch: &RecordBatch, columns: Range<usize>) -> Result<Self> {
        let schema = batch.schema();
        let columns = columns.map(|i| open(schema.field(i).name(), batch.column(i))).collect::<Result<_>>()?;
        Ok(Self { columns })
    }

    /// Writes the bytes of a row's key, replacing what `out` held.
    pub fn encode(&self, row: usize, out: &mut Vec<u8>) {
        out.clear();
        let last = self.columns.len() - 1;
        for (i, column) in self.columns.iter().enumerate() {
            match column {
                Column::Text(a) => bytes(a, row, i == last, out),
                Column::LargeText(a) => bytes(a, row, i == last, out),
                Column::Binary(a) => bytes(a, row, i == last, out),
                Column::LargeBinary(a) => bytes(a, row, i == last, out),
                Column::TextView(a) => view(a, row, i == last, out),
                Column::BinaryView(a) => view(a, row, i == last, out),
                Column::Fixed(a) => put_bytes((!a.is_null(row)).then(|| a.value(row)), i == last, out),
                Column::Signed(a) => put(a.is_null(row), &(a.value(row) ^ i64::MIN).to_be_bytes(), out),
                Column::Unsigned(a) => match (a.is_null(row), i64::try_from(a.value(row))) {
                    (true, _) => out.push(0),
                    (_, Ok(v)) => put(false, &(v ^ i64::MIN).to_be_bytes(), out),
                    (_, Err(_)) => {
                        out.push(2);
                        out.extend_from_slice(&a.value(row).to_be_bytes());
                    }
                },
                Column::Decimal(a) => put(a.is_null(row), &(a.value(row) ^ i128::MIN).to_be_bytes(), out),
                Column::Float(a) => {
                    // -0 is 0, and one NaN is as good as another. The order of the bits is that of the numbers once
                    // negative ones are turned over.
                    let v = a.value(row) + 0.0;
                    let bits = if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
                    let bits = if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) };
                    put(a.is_null(row), &bits.to_be_bytes(), out);
                }
                Column::Bool(a) => put(a.is_null(row), &[u8::from(a.value(row))], out),
                Column::Null => out.push(0),
            }
        }
    }
}

fn put(null: bool, value: &[u8], out: &mut Vec<u8>) {
    if null {
        out.push(0);
    } else {
        out.push(1);
        out.extend_from_slice(value);
    }
}

fn bytes<T: ByteArrayType>(a: &GenericByteArray<T>, row: usize, last: bool, out: &mut Vec<u8>) {
    put_bytes((!a.is_null(row)).then(|| AsRef::<[u8]>::as_ref(a.value(row))), last, out);
}

fn view<T: ByteViewType>(a: &GenericByteViewArray<T>, row: usize, last: bool, out: &mut Vec<u8>) {
    put_bytes((!a.is_null(row)).then(|| AsRef::<[u8]>::as_ref(a.value(row))), last, out);
}

fn put_bytes(value: Option<&[u8]>, last: bool, out: &mut Vec<u8>) {
    let Some(mut value) = value else {
        out.push(0);
        return;
    };
    out.push(1);
    if last {
        out.extend_from_slice(value);
        return;
    }
    while let Some(zero) = memchr::memchr(0, value) {
        out.extend_from_slice(&value[..zero]);
        out.extend_from_slice(&[0, 1]);
        value = &value[zero + 1..];
    }
    out.extend_from_slice(value);
    out.extend_from_slice(&[0, 0]);
}

fn open(name: &str, array: &ArrayRef) -> Result<Column> {
    use DataType::*;
    let signed = |a: &ArrayRef| -> Result<Column> {
        let plain = match a.data_type() {
            Date32 | Time32(_) => arrow::compute::cast(a, &Int32)?,
            _ => a.clone(),
        };
        Ok(Column::Signed(arrow::compute::cast(&plain, &Int64)?.as_primitive::<Int64Type>().clone()))
    };
    Ok(match array.data_type() {
        Utf8 => Column::Text(array.as_string().clone()),
        LargeUtf8 => Column::LargeText(array.as_string().clone()),
        Utf8View => Column::TextView(array.as_string_view().clone()),
        Binary => Column::Binary(array.as_binary().clone()),
        LargeBinary => Column::LargeBinary(array.as_binary().clone()),
        BinaryView => Column::BinaryView(array.as_binary_view().clone()),
        FixedSizeBinary(_) => Column::Fixed(array.as_fixed_size_binary().clone()),
        UInt64 => Column::Unsigned(array.as_primitive::<UInt64Type>().clone()),
        t if t.is_integer() => signed(array)?,
        Date32 | Date64 | Time32(_) | Time64(_) => signed(array)?,
        Timestamp(_, _) => {
            let data = array.to_data().into_builder().data_type(Int64).build()?;
            Column::Signed(Int64Array::from(data))
        }
        Decimal128(_, _) => Column::Decimal(array.as_primitive::<Decimal128Type>().clone()),
        Float16 | Float32 | Float64 => {
            Column::Float(arrow::compute::cast(array, &Float64)?.as_primitive::<Float64Type>().clone())
        }
        Boolean => Column::Bool(array.as_boolean().clone()),
        Null => Column::Null,
        other => {
            return Err(Error::Data(format!(
                "key column '{name}' has type {other}; a key is text, binary, a number, a boolean, a date or a time"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn items_of_a_part_are_sorted(
            hashes in prop::collection::vec(prop_oneof![any::<u64>(), 0u64..9, (0u64..9).prop_map(|n| n << 60)], 0..900),
        ) {
            let mut by_hash: Vec<(u64, u32)> = hashes.iter().copied().zip(0..).collect();
            let mut by_surrogate: Vec<(i64, u32)> = by_hash.iter().map(|(h, n)| ((5 << 57) | (*h as i64 & ((1 << 57) - 1)), *n)).collect();
            let mut expected = (by_hash.clone(), by_surrogate.clone());
            expected.0.sort();
            expected.1.sort();
            sort_part(&mut by_hash, |(hash, _)| bucket_of(*hash));
            sort_part(&mut by_surrogate, |(surrogate, _)| surrogate_bucket(*surrogate));
            prop_assert_eq!((by_hash, by_surrogate), expected);
        }
    }
}
