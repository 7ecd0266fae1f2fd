//! The least and the greatest value of a page or chunk, shortened where they are long.

/// A minimum or maximum longer than this is kept as a bound.
pub(super) const BOUND: usize = 64;

/// A value that is not above this one, and whether it is this one.
pub(super) fn lower_bound(value: &[u8], utf8: bool) -> (Vec<u8>, bool) {
    if value.len() <= BOUND {
        return (value.to_vec(), true);
    }
    (value[..boundary(value, utf8)].to_vec(), false)
}

/// A value that is not below this one, and whether it is this one.
pub(super) fn upper_bound(value: &[u8], utf8: bool) -> (Vec<u8>, bool) {
    if value.len() <= BOUND {
        return (value.to_vec(), true);
    }
    let mut cut = value[..boundary(value, utf8)].to_vec();
    // The last character that has one after it is raised, and what follows it dropped.
    if let Some(text) = utf8.then(|| std::str::from_utf8(&cut).ok()).flatten() {
        for (at, c) in text.char_indices().rev() {
            let next = char::from_u32(c as u32 + 1).filter(|next| next.len_utf8() == c.len_utf8());
            if let Some(next) = next {
                let raised = [&text.as_bytes()[..at], next.encode_utf8(&mut [0; 4]).as_bytes()].concat();
                return (raised, false);
            }
        }
        return (value.to_vec(), true);
    }
    while let Some(last) = cut.pop() {
        if last < u8::MAX {
            cut.push(last + 1);
            return (cut, false);
        }
    }
    (value.to_vec(), true)
}

/// Where a long value is cut: between characters, if it is text.
fn boundary(value: &[u8], utf8: bool) -> usize {
    let inside = |at: &usize| utf8 && value.get(*at).is_some_and(|b| (0x80..0xc0).contains(b));
    (BOUND - 3..=BOUND).rev().find(|at| !inside(at)).unwrap_or(BOUND)
}
