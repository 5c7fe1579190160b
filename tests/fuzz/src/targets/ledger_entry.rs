//! Entries of the ledger as the store reads them back.

use taskpass_store::Entry;

/// What is refused is told in serde's words, which repeat the input; so nothing is asserted of those.
pub(crate) fn run(data: &[u8]) {
    let Ok(entry) = Entry::parse(data) else {
        return;
    };
    let json = serde_json::to_vec(&entry).expect("JSON");
    let again = Entry::parse(&json).expect("what was written");
    assert_eq!(again, entry);
    assert_eq!(serde_json::to_vec(&again).ok(), Some(json));
}
