use super::*;
use crate::{
    Priority,
    testing::{Scratch, append, entry, verifying},
    verify::{Extent, verify_export},
};

#[test]
fn a_full_export_has_the_documented_format() {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(2, 2);
    let mut out = Vec::new();
    assert_eq!(
        write_full(&ledger.reader(), &checkpoint, &mut out).unwrap(),
        2
    );
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let first = String::from_utf8(entry(0)).unwrap();
    assert_eq!(lines[0], format!("{{\"index\":0,\"entry\":{first}}}"));
    let last: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
    assert_eq!(last["checkpoint"], checkpoint.note());
    for line in lines {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok());
    }
}

#[test]
fn entries_of_any_form_survive() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let entries: [&[u8]; 8] = [
        b"{}",
        b" {}",
        b"{\n}",
        b"{},\"entry\":{}",
        b"\xff\xfe",
        b"not json",
        b"\"\\u2028\xe2\x80\xa8\"",
        b"1.50",
    ];
    ledger.append_batch(&entries, Priority::Normal).unwrap();
    let checkpoint = ledger.checkpoint_now().unwrap();
    let mut out = Vec::new();
    write_full(&ledger.reader(), &checkpoint, &mut out).unwrap();
    let encoded = out.windows(14).filter(|w| w == b"\"entry_base64\"").count();
    assert_eq!(encoded, 5);
    let verified = verify_export(out.as_slice(), &verifying(), None, &mut |_| ()).unwrap();
    assert_eq!((verified.entries, verified.extent), (8, Extent::Full));
}

#[test]
fn an_export_of_an_older_checkpoint_leaves_younger_entries_out() {
    let scratch = Scratch::new();
    let (mut ledger, checkpoint) = scratch.filled(5, 5);
    append(&mut ledger, 5..9, 2);
    let mut out = Vec::new();
    assert_eq!(
        write_full(&ledger.reader(), &checkpoint, &mut out).unwrap(),
        5
    );
    let verified = verify_export(out.as_slice(), &verifying(), None, &mut |_| ()).unwrap();
    assert_eq!(verified.entries, 5);
}

#[test]
fn a_selection_by_index_is_the_selection_by_range() {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(9, 3);
    let (reader, wanted) = (ledger.reader(), [2, 4, 5]);
    let (mut by_range, mut by_index) = (Vec::new(), Vec::new());
    let mut keep = |index, _: &[u8]| wanted.contains(&index);
    write_selection(
        &reader,
        &checkpoint,
        0..9,
        &mut keep,
        Some(3),
        &mut by_range,
    )
    .unwrap();
    let written = write_indexes(&reader, &checkpoint, wanted, Some(3), &mut by_index).unwrap();
    assert_eq!(written, 3);
    assert_eq!(by_index, by_range);
    let absent = write_indexes(&reader, &checkpoint, [9], None, &mut Vec::new());
    assert!(
        matches!(absent, Err(Error::OutOfRange { .. })),
        "{absent:?}"
    );
}

#[test]
fn a_checkpoint_of_another_history_is_not_exported() {
    let (one, two) = (Scratch::new(), Scratch::new());
    let (ledger, _) = one.filled(5, 5);
    let mut other = two.open();
    other.append_batch(&[b"1", b"2"], Priority::Normal).unwrap();
    let foreign = other.checkpoint_now().unwrap();
    let refused = write_full(&ledger.reader(), &foreign, &mut Vec::new());
    assert!(matches!(refused, Err(Error::RootMismatch { size: 2 })));
    let refused = write_tiles(&ledger.reader(), &foreign, &one.path.join("out"));
    assert!(matches!(refused, Err(Error::RootMismatch { size: 2 })));
}

#[test]
fn exported_tiles_and_bundles_hash_to_the_checkpoint() {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(700, 100);
    let out = tempfile::tempdir().unwrap();
    write_tiles(&ledger.reader(), &checkpoint, out.path()).unwrap();
    let note = fs::read_to_string(out.path().join("checkpoint")).unwrap();
    assert_eq!(note, checkpoint.note());
    let mut frontier = crate::tree::Frontier::default();
    let mut leaves = Vec::new();
    for name in ["000", "001", "002.p/188"] {
        let bundle = fs::read(out.path().join("tile/entries").join(name)).unwrap();
        let mut rest = bundle.as_slice();
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let (entry, behind) = behind.split_at(usize::from(u16::from_be_bytes(*length)));
            leaves.extend_from_slice(&leaf_hash(entry));
            frontier.push(leaf_hash(entry));
            rest = behind;
        }
        let tile = fs::read(out.path().join("tile/0").join(name)).unwrap();
        assert_eq!(tile, std::mem::take(&mut leaves), "{name}");
    }
    assert_eq!(
        (frontier.size(), &frontier.root()),
        (700, checkpoint.root())
    );
    let level_1 = fs::read(out.path().join("tile/1/000.p/2")).unwrap();
    assert_eq!(level_1.len(), 64);
    assert!(!out.path().join("tile/0/002").exists());
}
