use std::{fs, sync::Arc};

use super::*;
use crate::{
    Ledger, Priority, SigningKey, export,
    testing::{ORIGIN, Scratch, append, entry, verifying},
};

fn full(size: u64) -> (Vec<u8>, Arc<Checkpoint>) {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(size, 3);
    let mut out = Vec::new();
    export::write_full(&ledger.reader(), &checkpoint, &mut out).unwrap();
    (out, checkpoint)
}

/// Entries 2, 4 and 5 of 9, with consistency from 3.
fn selection() -> (Vec<u8>, Arc<Checkpoint>) {
    let scratch = Scratch::new();
    let (mut ledger, older) = scratch.filled(3, 3);
    append(&mut ledger, 3..9, 2);
    let checkpoint = ledger.checkpoint_now().unwrap();
    let mut out = Vec::new();
    let mut keep = |index, _: &[u8]| [2, 4, 5].contains(&index);
    let reader = ledger.reader();
    let count =
        export::write_selection(&reader, &checkpoint, 1..7, &mut keep, Some(3), &mut out).unwrap();
    assert_eq!(count, 3);
    (out, older)
}

fn check(export: &[u8], older: Option<&Checkpoint>) -> Result<Verified, VerifyError> {
    verify_export(export, &verifying(), older, &mut |_| ())
}

fn lines(export: &[u8]) -> Vec<Vec<u8>> {
    export
        .split_inclusive(|b| *b == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

#[test]
fn genuine_exports_are_accepted() {
    let (export, checkpoint) = full(10);
    let verified = check(&export, Some(&checkpoint)).unwrap();
    assert_eq!(
        (verified.entries, verified.extent, verified.continues),
        (10, Extent::Full, Some(10))
    );
    let (export, _) = full(0);
    assert_eq!(check(&export, None).unwrap().entries, 0);
    let (export, older) = selection();
    let verified = check(&export, Some(&older)).unwrap();
    assert_eq!(
        (verified.entries, verified.extent, verified.continues),
        (3, Extent::Selection, Some(3))
    );
    assert_eq!(verified.checkpoint.size(), 9);
    assert!(check(&export, None).is_ok());
}

#[test]
fn every_flipped_bit_of_an_export_is_noticed() {
    for export in [full(5).0, selection().0] {
        for place in 0..export.len() {
            for bit in 0..8 {
                let mut changed = export.clone();
                changed[place] ^= 1 << bit;
                assert!(check(&changed, None).is_err(), "byte {place} bit {bit}");
            }
        }
    }
}

#[test]
fn an_export_cut_anywhere_is_noticed() {
    for export in [full(5).0, selection().0] {
        for length in 0..export.len() {
            assert!(check(&export[..length], None).is_err(), "{length}");
        }
    }
}

#[test]
fn removed_moved_and_doubled_lines_are_noticed() {
    for export in [full(6).0, selection().0] {
        let lines = lines(&export);
        for place in 0..lines.len() {
            let mut removed = lines.clone();
            removed.remove(place);
            // Without its consistency proof a selection still proves each of its entries.
            let harmless = lines[place].starts_with(b"{\"consistency\"");
            assert_eq!(
                check(&removed.concat(), None).is_ok(),
                harmless,
                "removed {place}"
            );
            for to in 0..lines.len() {
                let mut doubled = lines.clone();
                doubled.insert(to, lines[place].clone());
                assert!(
                    check(&doubled.concat(), None).is_err(),
                    "{place} doubled at {to}"
                );
                let mut moved = lines.clone();
                let line = moved.remove(place);
                moved.insert(to, line);
                assert_eq!(
                    check(&moved.concat(), None).is_ok(),
                    to == place,
                    "{place} to {to}"
                );
            }
        }
    }
}

#[test]
fn wrong_keys_and_origins_are_refused() {
    let (export, _) = full(3);
    let other = SigningKey::from_seed(ORIGIN, &[8; 32]).unwrap();
    let refused = verify_export(export.as_slice(), other.verifying_key(), None, &mut |_| ());
    assert!(matches!(
        refused,
        Err(VerifyError::Checkpoint(NoteError::NotSigned { .. }))
    ));
    let elsewhere = SigningKey::from_seed("taskpass/other.test", &[7; 32]).unwrap();
    let refused = verify_export(
        export.as_slice(),
        elsewhere.verifying_key(),
        None,
        &mut |_| (),
    );
    assert!(matches!(
        refused,
        Err(VerifyError::Checkpoint(NoteError::NotSigned { .. }))
    ));
    let foreign = Checkpoint::sign(0, crate::tree::empty_root(), &elsewhere);
    let refused = check(&export, Some(&foreign));
    assert!(matches!(refused, Err(VerifyError::OtherLedger { .. })));
}

/// A ledger with the same key and other entries.
fn replaced(size: u64) -> (Scratch, Ledger, Arc<Checkpoint>) {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    for n in 0..size {
        ledger
            .append_batch(&[&entry(n + 1000)], Priority::Normal)
            .unwrap();
    }
    let checkpoint = ledger.checkpoint_now().unwrap();
    (scratch, ledger, checkpoint)
}

#[test]
fn a_replaced_history_is_noticed_with_an_older_checkpoint() {
    let (_, older) = full(4);
    let (scratch, ledger, checkpoint) = replaced(9);
    let reader = ledger.reader();
    let mut out = Vec::new();
    export::write_full(&reader, &checkpoint, &mut out).unwrap();
    assert!(check(&out, None).is_ok());
    assert!(matches!(
        check(&out, Some(&older)),
        Err(VerifyError::Replaced { older: 4 })
    ));
    let mut out = Vec::new();
    let mut all = |_, _: &[u8]| true;
    export::write_selection(&reader, &checkpoint, 0..9, &mut all, Some(4), &mut out).unwrap();
    assert!(check(&out, None).is_ok());
    assert!(matches!(
        check(&out, Some(&older)),
        Err(VerifyError::Replaced { older: 4 })
    ));
    let dir = verify_dir(&scratch.path, &verifying(), Some(&older), &mut |_| ());
    assert!(matches!(dir, Err(VerifyError::Replaced { older: 4 })));
    // A claimed old root that is not the one of the proof.
    let text = String::from_utf8(out).unwrap();
    use base64::{Engine, engine::general_purpose::STANDARD};
    let (theirs, ours) = (reader.root_at(4).unwrap(), older.root());
    let forged = text.replace(&STANDARD.encode(theirs), &STANDARD.encode(ours));
    assert!(check(forged.as_bytes(), Some(&older)).is_err());
}

#[test]
fn a_shorter_history_is_noticed_with_an_older_checkpoint() {
    let (_, older) = full(9);
    let (export, _) = full(4);
    let refused = check(&export, Some(&older));
    assert!(matches!(
        refused,
        Err(VerifyError::Shorter { older: 9, found: 4 })
    ));
}

#[test]
fn a_selection_without_the_asked_consistency_is_refused() {
    let (export, _) = selection();
    let (_, older) = full(4);
    let refused = check(&export, Some(&older));
    assert!(matches!(
        refused,
        Err(VerifyError::NoConsistency { older: 4 })
    ));
}

#[test]
fn messages_name_the_line() {
    let (export, _) = full(6);
    let mut changed = lines(&export);
    changed.remove(2);
    let error = check(&changed.concat(), None).unwrap_err().to_string();
    assert!(
        error.starts_with("line 3: entry 3 stands where entry 2 must be"),
        "{error}"
    );
    let endless = vec![b'x'; 600_000];
    let error = check(&endless, None).unwrap_err().to_string();
    assert_eq!(error, "line 1: the line is cut off or too long");
}

#[test]
fn a_directory_is_verified_without_changing_it() {
    let scratch = Scratch::new();
    let (mut ledger, checkpoint) = scratch.filled(600, 100);
    append(&mut ledger, 600..605, 5);
    let mut told = 0;
    let verified = verify_dir(&scratch.path, &verifying(), Some(&checkpoint), &mut |n| {
        told = n
    })
    .unwrap();
    assert_eq!((verified.entries, verified.unsigned, told), (600, 5, 605));
    assert_eq!(verified.continues, Some(600));
}

#[test]
fn every_flipped_byte_of_a_directory_is_noticed() {
    let scratch = Scratch::new();
    let (ledger, _) = scratch.filled(257, 257);
    drop(ledger);
    let mut files = vec![
        scratch.path.join("checkpoint"),
        scratch.path.join("tile/0/000"),
    ];
    files.push(scratch.first_segment());
    for path in files {
        let good = fs::read(&path).unwrap();
        // A prime step keeps the large files affordable; small ones are flipped byte by byte.
        let step = if good.len() > 1000 { 7 } else { 1 };
        for place in (0..good.len()).step_by(step) {
            let mut bad = good.clone();
            bad[place] ^= 0x10;
            fs::write(&path, &bad).unwrap();
            let found = verify_dir(&scratch.path, &verifying(), None, &mut |_| ());
            assert!(found.is_err(), "{} at {place}", path.display());
        }
        fs::write(&path, &good).unwrap();
    }
    let others: Vec<_> = fs::read_dir(&scratch.path)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    // `lock` and `checkpoint.next` hold nothing that is read.
    assert_eq!(others.len(), 5, "{others:?}");
    assert!(verify_dir(&scratch.path, &verifying(), None, &mut |_| ()).is_ok());
}
