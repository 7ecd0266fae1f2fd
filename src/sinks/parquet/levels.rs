//! Parquet's hybrid of run lengths and packed bits, for definition levels and dictionary numbers.

use arrow::buffer::BooleanBuffer;

/// A run of at least so many equal values is worth a run of its own.
const RUN: usize = 32;

/// Appends the definition levels of a column that may be null: 1 for a value, 0 for a null; with their length before
/// them, as a data page has it.
pub(super) fn definition_levels(valid: &BooleanBuffer, nulls: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if nulls == 0 || nulls == valid.len() {
        run(valid.len(), u32::from(nulls == 0), 1, out);
    } else {
        // Packed bits of width one are a bitmap as Arrow has it.
        let groups = valid.len().div_ceil(8);
        varint((groups as u64) << 1 | 1, out);
        let bits = valid.sliced();
        out.extend_from_slice(&bits.as_slice()[..groups]);
        // What lies beyond the end is not ours to show.
        if let (Some(last), rest @ 1..) = (out.last_mut(), valid.len() % 8) {
            *last &= (1 << rest) - 1;
        }
    }
    let length = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// Appends dictionary numbers: their width, then runs of equal ones and packed stretches between.
pub(super) fn numbers(values: &[u32], count: usize, out: &mut Vec<u8>) {
    let width = count.saturating_sub(1).checked_ilog2().map_or(0, |b| b + 1) as u8;
    out.push(width);
    // A packed stretch holds a multiple of eight values: a run begins where one may end.
    let (mut packed, mut at) = (0, 0);
    while at + RUN <= values.len() {
        let value = values[at];
        if values[at..at + 8].iter().fold(0, |other, v| other | (v ^ value)) != 0 {
            at += 8;
            continue;
        }
        let length = values[at..].iter().take_while(|v| **v == value).count();
        if length < RUN {
            at += length / 8 * 8;
            continue;
        }
        pack(&values[packed..at], width, out);
        run(length, value, width, out);
        at += length;
        packed = at;
    }
    pack(&values[packed..], width, out);
}

fn run(length: usize, value: u32, width: u8, out: &mut Vec<u8>) {
    if length > 0 {
        varint((length as u64) << 1, out);
        out.extend_from_slice(&value.to_le_bytes()[..usize::from(width.div_ceil(8))]);
    }
}

fn pack(values: &[u32], width: u8, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    varint((groups as u64) << 1 | 1, out);
    if width == 0 {
        return;
    }
    out.reserve(groups * usize::from(width) + 8);
    let (mut bits, mut held) = (0u64, 0u32);
    for value in values {
        bits |= u64::from(*value) << held;
        held += u32::from(width);
        if held >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            held -= 32;
        }
    }
    // The rest of the last group of eight is zeros.
    let padding = groups * 8 - values.len();
    let left = (held as usize + padding * usize::from(width)).div_ceil(8);
    let bytes = bits.to_le_bytes();
    out.extend((0..left).map(|i| bytes.get(i).copied().unwrap_or(0)));
}

/// Appends a number, seven bits a byte.
pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
