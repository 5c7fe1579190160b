//! Reading the newest entries of a ledger's directory, also while a broker appends to it.

use std::{ops::ControlFlow, path::Path};

use crate::{
    Error,
    scan::{SegmentFile, read_segment},
};

/// Calls `take` with entries and their bytes on disk, the newest segment first, and each segment
/// from front to back. Goes no further back than the segment with the first entry at which `take`
/// breaks. The entries are not verified: they are good for estimates alone.
pub fn recent_entries(
    ledger: &Path,
    take: &mut dyn FnMut(&[u8], u64) -> ControlFlow<()>,
) -> Result<(), Error> {
    for file in SegmentFile::all(ledger)?.iter().rev() {
        let mut last = ControlFlow::Continue(());
        read_segment(file, 0, &mut |frame| {
            if take(frame.bytes, frame.disk_bytes() as u64).is_break() {
                last = ControlFlow::Break(());
            }
        })?;
        if last.is_break() {
            break;
        }
    }
    Ok(())
}
