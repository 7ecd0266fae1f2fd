//! The columns that sessions add to events.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef};

use super::kernel::{Assigned, Session, bytes_of};
use crate::columns::{moment_field, moments};
use crate::error::{Error, Result};
use crate::hash::entity_at;
use crate::packed;

/// The columns, as they stand in a row.
pub(super) fn fields() -> &'static [FieldRef; 3] {
    static FIELDS: LazyLock<[FieldRef; 3]> = LazyLock::new(|| {
        let id = Field::new("session_id", DataType::Utf8, false);
        [id, moment_field("session_start", false), Field::new("session_seq", DataType::Int64, false)].map(Arc::new)
    });
    &FIELDS
}

/// The identity of a session.
pub(super) fn session_id(entity: Option<&str>, start: i64) -> u128 {
    entity_at(bytes_of(entity), start)
}

/// The identity of a session, as it stands in a row.
pub fn id_of(entity: Option<&str>, start: i64) -> String {
    format!("{:032x}", session_id(entity, start))
}

/// 32 lower-case hexadecimal digits.
pub(super) fn hex(id: u128) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(id.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

/// Text of 32 bytes a row.
pub(super) fn id_array(ids: impl ExactSizeIterator<Item = [u8; 32]>) -> Result<StringArray> {
    let rows = ids.len();
    let end =
        i32::try_from(rows * 32).map_err(|_| Error::Data(format!("{rows} session ids do not fit into one batch")))?;
    let text = ids.collect::<Vec<[u8; 32]>>().into_flattened();
    let offsets = OffsetBuffer::new((0..=end).step_by(32).collect::<ScalarBuffer<i32>>());
    Ok(StringArray::try_new(offsets, Buffer::from_vec(text), None)?)
}

/// The three columns of the rows `rows` of `assigned`; the ids packed.
pub(super) fn columns(assigned: &Assigned, ids: &[[u8; 32]], rows: std::ops::Range<usize>) -> Result<[ArrayRef; 3]> {
    let rows = &assigned.rows[rows];
    let session = |n: u32| -> &Session { &assigned.sessions[n as usize] };
    let starts: Vec<i64> = rows.iter().map(|(n, _)| session(*n).start).collect();
    let numbers: Vec<i64> = rows.iter().map(|(n, added)| session(*n).before + i64::from(*added)).collect();
    let of: Vec<u32> = rows.iter().map(|(n, _)| *n).collect();
    let names = match packed::numbered(&of) {
        Some((of, distinct)) => packed::of(of, None, id_array(distinct.iter().map(|n| ids[*n as usize]))?)?,
        None => Arc::new(id_array(of.iter().map(|n| ids[*n as usize]))?),
    };
    Ok([names, Arc::new(moments(starts)), Arc::new(Int64Array::from(numbers))])
}
