//! Whether values are UTF-8: asked once for a whole buffer where that is cheaper than once for each value.

use arrow::array::{BinaryViewArray, ByteView};

/// The answers for the buffers of an array.
pub struct Utf8 {
    buffers: Vec<bool>,
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
        let worth = |(buffer, used): (&arrow::buffer::Buffer, &usize)| {
            buffer.len() <= used * 2 && simdutf8::basic::from_utf8(buffer.as_slice()).is_ok()
        };
        Self { buffers: buffers.iter().zip(&used).map(worth).collect() }
    }

    /// Whether the value of a row is UTF-8.
    #[inline]
    pub fn is_valid(&self, values: &BinaryViewArray, row: usize, text: &[u8]) -> bool {
        let view = ByteView::from(values.views()[row]);
        if view.length > 12 && self.buffers.get(view.buffer_index as usize).copied().unwrap_or(false) {
            // A part of UTF-8 is UTF-8 when it does not begin or end inside a character.
            let buffer = values.data_buffers()[view.buffer_index as usize].as_slice();
            let end = view.offset as usize + view.length as usize;
            let inside = |byte: Option<&u8>| byte.is_some_and(|b| b & 0xc0 == 0x80);
            return !inside(text.first()) && !inside(buffer.get(end));
        }
        simdutf8::basic::from_utf8(text).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::buffer::{Buffer, ScalarBuffer};

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
        assert_eq!(utf8.buffers, [true]);
        for row in 0..values.len() {
            let text = values.value(row);
            assert_eq!(utf8.is_valid(&values, row, text), std::str::from_utf8(text).is_ok(), "{row}");
        }
    }
}
