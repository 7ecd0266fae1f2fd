//! Sixteen bytes at a time: which of them are what the scanner looks for, as one bit each. On x86-64 every processor can
//! (SSE2); elsewhere the compiler makes of the loops what it can.

/// As many bytes as are looked at in one go.
pub const WIDTH: usize = 16;

/// So many bytes of the text from `at` on, where it has them.
#[inline(always)]
pub fn chunk_at(text: &[u8], at: usize) -> Option<&[u8; WIDTH]> {
    if text.len() < WIDTH || at > text.len() - WIDTH {
        return None;
    }
    // SAFETY: the bytes from `at` to `at + WIDTH` lie inside of the text, as was just checked; an array of bytes may lie anywhere.
    Some(unsafe { &*text.as_ptr().add(at).cast() })
}

/// The bytes of the text from `at` on as a number (little end first), zeros where it has ended; none for shorter texts than a
/// chunk.
#[inline(always)]
pub fn word_at(text: &[u8], at: usize) -> Option<u128> {
    if let Some(chunk) = chunk_at(text, at) {
        return Some(u128::from_le_bytes(*chunk));
    }
    let beyond = (at + WIDTH).checked_sub(text.len()).filter(|beyond| *beyond < WIDTH)?;
    Some(u128::from_le_bytes(*text.last_chunk()?) >> (8 * beyond))
}

/// Appends the first `length` bytes of a chunk, of all of which it makes room: a few stores instead of a call.
#[inline(always)]
pub fn append<const N: usize>(bytes: &mut Vec<u8>, chunk: &[u8; N], length: usize) {
    bytes.reserve(N);
    let end = bytes.len();
    // SAFETY: `reserve` made room for N bytes after the last one, so all of them can be written there; the new length takes in
    // none but the old bytes and these.
    unsafe {
        bytes.as_mut_ptr().add(end).cast::<[u8; N]>().write(*chunk);
        bytes.set_len(end + length.min(N));
    }
}

/// The bits of the first `n` bytes of a chunk as a number (little end first).
#[inline(always)]
pub fn first(n: usize) -> u128 {
    const FIRST: [u128; WIDTH + 1] = {
        let mut bits = [u128::MAX; WIDTH + 1];
        let mut n = 0;
        while n < WIDTH {
            bits[n] = (1 << (8 * n)) - 1;
            n += 1;
        }
        bits
    };
    FIRST[n.min(WIDTH)]
}

// SAFETY, of every block of this module: the functions only compute with registers, and need nothing but a processor with SSE2. This
// module is compiled only for targets whose every processor has it (`target_feature`).
#[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
mod imp {
    use std::arch::x86_64::{
        __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8, _mm_sub_epi8,
    };

    use super::WIDTH;

    #[inline(always)]
    fn load(chunk: &[u8; WIDTH]) -> __m128i {
        let whole = u128::from_le_bytes(*chunk);
        // SAFETY: see above.
        unsafe { _mm_set_epi64x((whole >> 64) as i64, whole as i64) }
    }

    #[inline(always)]
    fn all(byte: u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_set1_epi8(byte as i8) }
    }

    #[inline(always)]
    fn up_to(bytes: __m128i, most: u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_cmpeq_epi8(_mm_min_epu8(bytes, all(most)), bytes) }
    }

    #[inline(always)]
    fn same(bytes: __m128i, byte: u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_cmpeq_epi8(bytes, all(byte)) }
    }

    #[inline(always)]
    fn less(bytes: __m128i, by: u8) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_sub_epi8(bytes, all(by)) }
    }

    #[inline(always)]
    fn either(one: __m128i, other: __m128i) -> __m128i {
        // SAFETY: see above.
        unsafe { _mm_or_si128(one, other) }
    }

    #[inline(always)]
    fn bits(lanes: __m128i) -> u32 {
        // SAFETY: see above.
        unsafe { _mm_movemask_epi8(lanes) as u32 }
    }

    #[inline(always)]
    pub fn special(chunk: &[u8; WIDTH]) -> u32 {
        let bytes = load(chunk);
        bits(either(either(same(bytes, b'"'), same(bytes, b'\\')), up_to(bytes, 0x1f)))
    }

    #[inline(always)]
    pub fn equal(chunk: &[u8; WIDTH], byte: u8) -> u32 {
        bits(same(load(chunk), byte))
    }

    #[inline(always)]
    pub fn is_under(chunk: &[u8; WIDTH], (word, mask): (u128, u128)) -> bool {
        let number = |number: u128| load(&number.to_le_bytes());
        // SAFETY: see above.
        bits(unsafe { _mm_cmpeq_epi8(_mm_and_si128(load(chunk), number(mask)), number(word)) }) == 0xffff
    }

    #[inline(always)]
    pub fn digits(chunk: &[u8; WIDTH]) -> u32 {
        bits(up_to(less(load(chunk), b'0'), 9))
    }

    #[inline(always)]
    pub fn hex(chunk: &[u8; WIDTH]) -> u32 {
        let bytes = load(chunk);
        let letter = up_to(less(either(bytes, all(0x20)), b'a'), 5);
        bits(either(up_to(less(bytes, b'0'), 9), letter))
    }
}

#[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
mod imp {
    use super::WIDTH;

    #[inline(always)]
    fn bits(chunk: &[u8; WIDTH], is: impl Fn(u8) -> bool) -> u32 {
        chunk.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(is(*byte)) << at)
    }

    #[inline(always)]
    pub fn special(chunk: &[u8; WIDTH]) -> u32 {
        bits(chunk, |b| b == b'"' || b == b'\\' || b < 0x20)
    }

    #[inline(always)]
    pub fn equal(chunk: &[u8; WIDTH], byte: u8) -> u32 {
        bits(chunk, |b| b == byte)
    }

    #[inline(always)]
    pub fn is_under(chunk: &[u8; WIDTH], (word, mask): (u128, u128)) -> bool {
        u128::from_le_bytes(*chunk) & mask == word
    }

    #[inline(always)]
    pub fn digits(chunk: &[u8; WIDTH]) -> u32 {
        bits(chunk, |b| b.is_ascii_digit())
    }

    #[inline(always)]
    pub fn hex(chunk: &[u8; WIDTH]) -> u32 {
        bits(chunk, |b| b.is_ascii_hexdigit())
    }
}

/// Which bytes end a run of plain string characters: quotes, backslashes and control characters.
#[inline(always)]
pub fn special(chunk: &[u8; WIDTH]) -> u32 {
    imp::special(chunk)
}

/// Which bytes are this one.
#[inline(always)]
pub fn equal(chunk: &[u8; WIDTH], byte: u8) -> u32 {
    imp::equal(chunk, byte)
}

/// Whether the bits of a chunk that a mask leaves are this word (little end first).
#[inline(always)]
pub fn is_under(chunk: &[u8; WIDTH], (word, mask): (u128, u128)) -> bool {
    imp::is_under(chunk, (word, mask))
}

/// Which bytes are decimal digits.
#[inline(always)]
pub fn digits(chunk: &[u8; WIDTH]) -> u32 {
    imp::digits(chunk)
}

/// Which bytes are hexadecimal digits.
#[inline(always)]
pub fn hex(chunk: &[u8; WIDTH]) -> u32 {
    imp::hex(chunk)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(chunk: &[u8], is: impl Fn(u8) -> bool) -> u32 {
        (0..WIDTH).filter(|at| is(chunk[*at])).map(|at| 1 << at).sum()
    }

    fn agrees(chunk: &[u8; WIDTH]) {
        assert_eq!(special(chunk), naive(chunk, |b| b == b'"' || b == b'\\' || b < 0x20), "{chunk:?}");
        assert_eq!(digits(chunk), naive(chunk, |b| b.is_ascii_digit()), "{chunk:?}");
        assert_eq!(hex(chunk), naive(chunk, |b| b.is_ascii_hexdigit()), "{chunk:?}");
        let word = u128::from_le_bytes(*chunk);
        for n in 0..=WIDTH {
            assert!(is_under(chunk, (word & first(n), first(n))));
            for wrong in (0..n).map(|at| word & first(n) ^ 1 << (8 * at)) {
                assert!(!is_under(chunk, (wrong, first(n))));
            }
        }
        for byte in [b'.', b'-', 0, 0xff] {
            assert_eq!(equal(chunk, byte), naive(chunk, |b| b == byte), "{chunk:?}");
        }
    }

    #[test]
    fn every_byte_is_told_in_every_place() {
        for byte in 0..=u8::MAX {
            for at in 0..WIDTH {
                let mut chunk = [b'~'; WIDTH];
                chunk[at] = byte;
                agrees(&chunk);
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_appended_is_there(pieces in prop::collection::vec((any::<[u8; 16]>(), 0..20usize), 0..20)) {
            let (mut bytes, mut model) = (Vec::<u8>::new(), Vec::<u8>::new());
            for (chunk, length) in &pieces {
                append(&mut bytes, chunk, *length);
                model.extend(chunk.iter().take(*length));
            }
            prop_assert_eq!(bytes, model);
        }

        #[test]
        fn words_are_the_bytes_that_are_there(bytes in prop::collection::vec(any::<u8>(), 0..40), at in 0..48usize) {
            let rest = bytes.get(at..).unwrap_or_default();
            let mut word = [0; WIDTH];
            word.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            match word_at(&bytes, at) {
                Some(found) => prop_assert_eq!(found, u128::from_le_bytes(word)),
                None => prop_assert!(bytes.len() < WIDTH || rest.is_empty()),
            }
        }

        #[test]
        fn lanes_say_what_bytes_do(bytes in prop::collection::vec(any::<u8>(), 0..40), at in 0..48usize) {
            match chunk_at(&bytes, at) {
                Some(chunk) => {
                    prop_assert_eq!(&chunk[..], &bytes[at..at + WIDTH]);
                    agrees(chunk);
                    for n in 0..=WIDTH {
                        let mut short = [0; WIDTH];
                        short[..n].copy_from_slice(&chunk[..n]);
                        prop_assert_eq!(u128::from_le_bytes(*chunk) & first(n), u128::from_le_bytes(short));
                    }
                }
                None => prop_assert!(at + WIDTH > bytes.len()),
            }
        }
    }
}
