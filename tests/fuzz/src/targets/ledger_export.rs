//! Exports, as an auditor gets them. The first byte chooses: the export as it is, or lines that
//! become entries, which are exported and signed.

use taskpass_ledger::{
    Checkpoint, ENTRY_BYTES_MAX, export,
    tree::{Frontier, leaf_hash},
    verify::{Extent, Verified, verify_export},
};

use crate::{fixtures, input, targets::checkpoint, wording};

pub(crate) fn run(data: &[u8]) {
    let (how, rest) = input::choice(data);
    if how % 2 == 1 {
        round_trip(rest);
        return;
    }
    let history = fixtures::history();
    for older in [None, Some(&history.older)] {
        match verify_export(rest, &history.key, older, &mut |_| ()) {
            Ok(verified) => accepted(rest, &verified),
            Err(error) => wording::one_line_each(&error, 1000),
        }
    }
}

/// The last line may carry other signatures beside the ledger's. Everything before it must be the
/// exported bytes.
fn accepted(export: &[u8], verified: &Verified) {
    let history = fixtures::history();
    let lines: Vec<&[u8]> = export.split(|byte| *byte == b'\n').collect();
    let before_last = lines.get(..lines.len() - 2).unwrap_or_default();
    let entries = usize::try_from(verified.entries).expect("a few");
    // A consistency proof may stand between the entries and the checkpoint.
    assert!((entries..=entries + 1).contains(&before_last.len()));
    if verified.extent == Extent::Full {
        let expected: Vec<&[u8]> = history.export.split(|byte| *byte == b'\n').collect();
        assert_eq!(before_last.get(..entries), expected.get(..entries));
    }
}

/// Asserts that the export of any entries verifies.
fn round_trip(data: &[u8]) {
    let entries: Vec<&[u8]> = data
        .split(|byte| *byte == b'\n')
        .filter(|entry| !entry.is_empty() && entry.len() <= ENTRY_BYTES_MAX)
        .collect();
    let (mut tree, mut file) = (Frontier::default(), Vec::new());
    for (index, entry) in (0..).zip(&entries) {
        export::entry_line(index, entry, &mut file);
        tree.push(leaf_hash(entry));
    }
    let root = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, tree.root());
    let note = checkpoint::sign(&format!("{}\n{}\n{root}\n", fixtures::ORIGIN, tree.size()));
    let key = &fixtures::history().key;
    let checkpoint = Checkpoint::open(&note, key).expect("a checkpoint");
    export::checkpoint_line(&checkpoint, None, &mut file);
    let verified =
        verify_export(file.as_slice(), key, None, &mut |_| ()).expect("what was written");
    assert_eq!(verified.entries, tree.size());
}
