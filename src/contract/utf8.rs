//! Whether values are UTF-8: asked once for a whole buffer where that is cheaper than once for each value.

use arrow::array::{BinaryViewArray, ByteView};

/// So many places that are no UTF-8 are looked for in a buffer; with more of them each value is asked by itself.
const MOST_BREAKS: usize = 256;

/// The answers for the buffers of an array.
pub struct Utf8 {
    /// Where the runs of UTF-8 in a buffer end that follow each other up to its end; none where that was not worth it.
    buffers: Vec<Vec<usize>>,
}

impl Utf8 {
    /// Checks the buffers that the values mostly fill.
    pub fn new(values: &BinaryViewArray) -> Self {
        let buffers = values.data_buffers();
        let mut used = vec![0usize; buffers.len()];
        for view in values.views() {
            let view = ByteView::from(*view);
            if view.length > 12
                && let Some(sum) = used.get_mut(view.buffer_index as usize)
            {
                *sum += view.length as usize;
            }
        }
        let runs = |(buffer, used): (&arrow::buffer::Buffer, &usize)| {
            if buffer.len() <= used * 2 { runs(buffer.as_slice()) } else { Vec::new() }
        };
        Self { buffers: buffers.iter().zip(&used).map(runs).collect() }
    }

    /// Whether the value of a row is UTF-8.
    #[inline]
    pub fn is_valid(&self, values: &BinaryViewArray, row: usize, text: &[u8]) -> bool {
        let view = ByteView::from(values.views()[row]);
        if view.length > 12
            && let Some(runs) = self.buffers.get(view.buffer_index as usize)
        {
            let (start, end) = (view.offset as usize, view.offset as usize + view.length as usize);
            let run = runs.partition_point(|run| *run <= start);
            if runs.get(run).is_some_and(|run| end <= *run) {
                // A part of UTF-8 is UTF-8 when it does not begin or end inside a character.
                let buffer = values.data_buffers()[view.buffer_index as usize].as_slice();
                let inside = |byte: Option<&u8>| byte.is_some_and(|b| b & 0xc0 == 0x80);
                if !inside(text.first()) && !inside(buffer.get(end)) {
                    return true;
                }
            }
        }
        simdutf8::basic::from_utf8(text).is_ok()
    }
}

/// Cuts a text into runs of which each is UTF-8 up to the byte before the next one begins; gives where each ends. A byte that
/// is none has a run of its own, which lies in no value's way: a value that has it is asked by itself.
fn runs(text: &[u8]) -> Vec<usize> {
    let (mut runs, mut at) = (Vec::new(), 0);
    while at < text.len() {
        match simdutf8::compat::from_utf8(&text[at..]) {
            Ok(_) => {
                runs.push(text.len());
                return runs;
            }
            Err(_) if runs.len() >= 2 * MOST_BREAKS => return Vec::new(),
            Err(wrong) => {
                at += wrong.valid_up_to();
                runs.extend([at, at + 1]);
                at += 1;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::buffer::{Buffer, ScalarBuffer};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn half_a_character_is_not_utf8() {
        let buffer = Buffer::from("0123456789abcdé0123456789abcd".as_bytes());
        let view = |offset: u32, length: u32| {
            let head = &buffer.as_slice()[offset as usize..offset as usize + 4];
            ByteView::new(length, head).with_buffer_index(0).with_offset(offset).as_u128()
        };
        let views = [view(0, 14), view(0, 15), view(15, 15), view(14, 16), view(16, 13)];
        let values = BinaryViewArray::new(ScalarBuffer::from(views.to_vec()), vec![buffer.clone()], None);
        let utf8 = Utf8::new(&values);
        assert_eq!(utf8.buffers, [vec![buffer.len()]]);
        for row in 0..values.len() {
            let text = values.value(row);
            assert_eq!(utf8.is_valid(&values, row, text), std::str::from_utf8(text).is_ok(), "{row}");
        }
    }

    proptest! {
        #[test]
        fn each_value_is_told_as_if_alone(
            pieces in prop::collection::vec("[a-z]{0,20}|é{1,9}|😀{1,4}", 0..20),
            broken in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            many in 0..600usize,
        ) {
            let mut bytes = pieces.concat().into_bytes();
            bytes.extend(b"0123456789abcdef");
            for (at, byte) in broken {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let sound = bytes.len();
            bytes.extend(std::iter::repeat_n(0xff, many));
            let buffer = Buffer::from(bytes.as_slice());
            let places: Vec<(usize, usize)> = (0..sound).flat_map(|from| [(from, 13), (from, 20)]).collect();
            let view = |(offset, length): &(usize, usize)| {
                let head = &buffer.as_slice()[*offset..*offset + 4];
                ByteView::new(*length as u32, head).with_buffer_index(0).with_offset(*offset as u32).as_u128()
            };
            let views: Vec<u128> = places.iter().filter(|(at, n)| at + n <= buffer.len()).map(view).collect();
            let values = BinaryViewArray::new(ScalarBuffer::from(views), vec![buffer.clone()], None);
            let utf8 = Utf8::new(&values);
            for row in 0..values.len() {
                let text = values.value(row);
                prop_assert_eq!(utf8.is_valid(&values, row, text), std::str::from_utf8(text).is_ok());
            }
        }
    }
}
