//! Splits inputs into parts. The layout is easy to hit by mutation and easy to write by hand.

/// The text in `data`; `None` when it is no UTF-8.
pub(crate) fn text(data: &[u8]) -> Option<&str> {
    str::from_utf8(data).ok()
}

/// The first byte, which chooses the target's treatment of the rest.
pub(crate) fn choice(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (*first, rest))
}

/// Parts, each behind its length in two big-endian bytes. The last part may be cut short.
pub(crate) fn parts(mut data: &[u8]) -> Vec<&[u8]> {
    const PARTS_MAX: usize = 16;
    let mut parts = Vec::new();
    while let Some((length, rest)) = data.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (part, rest) = rest.split_at(length);
        parts.push(part);
        data = rest;
        if parts.len() == PARTS_MAX {
            break;
        }
    }
    parts
}

/// The inverse of `parts`, for seeds.
pub(crate) fn joined<P: AsRef<[u8]>>(parts: &[P]) -> Vec<u8> {
    let mut data = Vec::new();
    for part in parts.iter().map(AsRef::as_ref) {
        let length = u16::try_from(part.len()).expect("a seed's part is shorter than 64 KiB");
        data.extend_from_slice(&length.to_be_bytes());
        data.extend_from_slice(part);
    }
    data
}
