//! Parquet's DELTA_BINARY_PACKED: the first number, then the differences from one to the next, packed in bits.
//!
//! A block of 128 differences keeps the least of them; what each lies above it is packed by 32, each miniblock as wide as its
//! widest.

use super::levels::varint;

const BLOCK: usize = 128;
const MINI: usize = 32;

/// Appends numbers of 32 bits: differences wrap around at 32 bits.
pub(super) fn narrow<T: Copy + Into<i64>>(values: &[T], out: &mut Vec<u8>) {
    let less = |a: i64, b: i64| i64::from((a as i32).wrapping_sub(b as i32));
    blocks(values, less, |difference, least| u64::from((difference as i32).wrapping_sub(least as i32) as u32), out);
}

/// Appends numbers of 64 bits.
pub(super) fn wide(values: &[i64], out: &mut Vec<u8>) {
    blocks(values, i64::wrapping_sub, |difference, least| difference.wrapping_sub(least) as u64, out);
}

fn blocks<T: Copy + Into<i64>>(
    values: &[T],
    less: impl Fn(i64, i64) -> i64,
    above: impl Fn(i64, i64) -> u64,
    out: &mut Vec<u8>,
) {
    let first: i64 = values.first().map_or(0, |v| (*v).into());
    varint(BLOCK as u64, out);
    varint((BLOCK / MINI) as u64, out);
    varint(values.len() as u64, out);
    zigzag(first, out);
    let mut last = first;
    let mut differences = [0; BLOCK];
    for block in values.get(1..).unwrap_or_default().chunks(BLOCK) {
        let mut least = i64::MAX;
        for (difference, value) in differences.iter_mut().zip(block) {
            let value: i64 = (*value).into();
            *difference = less(value, last);
            least = least.min(*difference);
            last = value;
        }
        zigzag(least, out);
        // A miniblock that holds nothing has the width 0, and no bytes.
        let widths = out.len();
        out.extend_from_slice(&[0; BLOCK / MINI]);
        for (n, mini) in differences[..block.len()].chunks(MINI).enumerate() {
            let mut packed = [0; MINI];
            let mut bits = 0;
            for (packed, difference) in packed.iter_mut().zip(mini) {
                *packed = above(*difference, least);
                bits |= *packed;
            }
            let width = u64::BITS - bits.leading_zeros();
            out[widths + n] = width as u8;
            pack(&packed, width, out);
        }
    }
}

/// Appends the low bits of 32 numbers: they come to a multiple of four bytes.
fn pack(values: &[u64; MINI], width: u32, out: &mut Vec<u8>) {
    if width == 0 {
        return;
    }
    out.reserve(4 * width as usize + 8);
    let (mut bits, mut held) = (0u64, 0u32);
    for value in values {
        bits |= value << held;
        let next = held + width;
        if next < u64::BITS {
            held = next;
        } else {
            out.extend_from_slice(&bits.to_le_bytes());
            // What of the value did not fit (a shift by all 64 bits is none).
            bits = (value >> 1) >> (63 - held);
            held = next - u64::BITS;
        }
    }
    if held > 0 {
        out.extend_from_slice(&(bits as u32).to_le_bytes());
    }
}

fn zigzag(value: i64, out: &mut Vec<u8>) {
    varint(((value << 1) ^ (value >> 63)) as u64, out);
}
