//! Fetching memory before it is looked at, so that a processor waits for many lines at once and not for one after the other.

/// Has the cache line at the beginning of a value fetched, where the processor can be told so.
#[inline(always)]
pub fn fetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", target_feature = "sse2"))]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint: it reads and writes nothing, and cannot fail whatever the address is (here that of a live value). It
        // needs SSE, which every processor has that this is compiled for (`target_feature`).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "sse2")))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_nothing() {
        let values = [[1_u64; 8]; 3];
        values.iter().for_each(fetch);
        fetch(&());
        assert_eq!(values, [[1; 8]; 3]);
    }
}
