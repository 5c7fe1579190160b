//! Entries of the ledger, as the store reads them back.

use taskpass_store::Entry;

/// Errors are in serde's words, which repeat the input; nothing is asserted about them.
pub(crate) fn run(data: &[u8]) {
    let Ok(entry) = Entry::parse(data) else {
        return;
    };
    let json = serde_json::to_vec(&entry).expect("JSON");
    let again = Entry::parse(&json).expect("what was written");
    assert_eq!(again, entry);
    assert_eq!(serde_json::to_vec(&again).ok(), Some(json));
}
