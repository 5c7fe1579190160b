use std::{
    fs,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    Damage, Hash, SEGMENT_BYTES,
    testing::{Scratch, append, entry, verifying},
    tree::{Frontier, consistency_holds, inclusion_root},
    verify::verify_dir,
};

fn root_of(size: u64) -> Hash {
    let mut frontier = Frontier::default();
    for n in 0..size {
        frontier.push(leaf_hash(&entry(n)));
    }
    frontier.root()
}

fn assert_holds(ledger: &Ledger, size: u64) {
    let reader = ledger.reader();
    assert_eq!(reader.size(), size);
    assert_eq!(reader.root().unwrap(), root_of(size));
    let entries: Vec<_> = reader
        .entries(0..size)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(entries.len() as u64, size);
    for (n, (index, bytes)) in (0..).zip(entries) {
        assert_eq!((index, bytes), (n, entry(n)));
    }
}

#[test]
fn appended_entries_are_there_after_opening_again() {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(700, 7);
    assert_holds(&ledger, 700);
    drop(ledger);
    let (mut ledger, report) = scratch.open_with(Damage::Refuse).unwrap();
    assert_eq!(
        (report.created, report.size, report.signed),
        (false, 700, 700)
    );
    assert_eq!((report.torn, report.tiles_rebuilt), (None, 0));
    assert_holds(&ledger, 700);
    assert_eq!(ledger.reader().checkpoint(), checkpoint);
    append(&mut ledger, 700..710, 3);
    assert_holds(&ledger, 710);
    for index in [0, 1, 63, 64, 65, 255, 256, 699, 700, 709] {
        assert_eq!(ledger.reader().entry(index).unwrap(), entry(index));
    }
    let beyond = ledger.reader().entry(710);
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })));
}

#[test]
fn proofs_hold_over_tiles_and_edge() {
    let scratch = Scratch::new();
    let (ledger, checkpoint) = scratch.filled(1300, 100);
    let reader = ledger.reader();
    for index in (0..1300).step_by(37) {
        let proof = reader.inclusion_proof(index, 1300).unwrap();
        let root = inclusion_root(&leaf_hash(&entry(index)), index, 1300, &proof);
        assert_eq!(root.as_ref(), Some(checkpoint.root()));
    }
    for old in [0, 1, 255, 256, 257, 512, 1000, 1299, 1300] {
        let proof = reader.consistency_proof(old, 1300).unwrap();
        let old_root = reader.root_at(old).unwrap();
        assert_eq!(old_root, root_of(old));
        assert!(consistency_holds(
            (old, &old_root),
            (1300, checkpoint.root()),
            &proof
        ));
    }
}

#[test]
fn entries_that_do_not_fit_are_refused_and_nothing_of_their_batch_is_kept() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let largest = vec![b'x'; ENTRY_BYTES_MAX];
    let larger = vec![b'x'; ENTRY_BYTES_MAX + 1];
    let refused = ledger.append_batch(&[b"1", &larger], Priority::Normal);
    assert!(matches!(
        refused,
        Err(Error::EntryTooLarge { bytes: 65_536 })
    ));
    let refused = ledger.append_batch(&[b"1", b""], Priority::Normal);
    assert!(matches!(refused, Err(Error::EmptyEntry)));
    let many = vec![largest.as_slice(); 600];
    let refused = ledger.append_batch(&many, Priority::Normal);
    assert!(matches!(refused, Err(Error::BatchTooLarge { .. })));
    assert_eq!(ledger.append_batch(&[], Priority::Normal).unwrap(), 0..0);
    assert_eq!(
        ledger.append_batch(&[&largest], Priority::Normal).unwrap(),
        0..1
    );
    assert_eq!(ledger.reader().entry(0).unwrap(), largest);
}

#[test]
fn one_sync_per_batch_comes_before_the_answer() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let before = scratch.disk.syncs();
    append(&mut ledger, 0..100, 10);
    assert_eq!(scratch.disk.syncs() - before, 10);
}

#[test]
fn a_second_opener_is_refused() {
    let scratch = Scratch::new();
    let _ledger = scratch.open();
    let refused = scratch.open_with(Damage::Refuse);
    assert!(matches!(refused, Err(Error::Locked { .. })));
}

#[test]
fn a_short_write_leaves_nothing_behind() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    append(&mut ledger, 0..3, 3);
    let length = fs::metadata(scratch.first_segment()).unwrap().len();
    for taken in [0, 1, 15, 16, 40, 90] {
        scratch.disk.cut_write_short(taken);
        let failed = ledger.append_batch(&[&entry(3), &entry(4)], Priority::Normal);
        assert!(
            matches!(failed, Err(Error::Io { .. })),
            "{taken}: {failed:?}"
        );
        assert_eq!(fs::metadata(scratch.first_segment()).unwrap().len(), length);
    }
    append(&mut ledger, 3..6, 3);
    assert_holds(&ledger, 6);
    drop(ledger);
    assert_holds(&scratch.open(), 6);
}

#[test]
fn after_a_failed_sync_nothing_is_taken_until_opened_again() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    append(&mut ledger, 0..3, 3);
    scratch.disk.fail_syncs(1);
    let failed = ledger.append_batch(&[&entry(3)], Priority::Normal);
    assert!(matches!(failed, Err(Error::Io { .. })), "{failed:?}");
    let refused = ledger.append_batch(&[&entry(3)], Priority::Reserved);
    assert!(matches!(refused, Err(Error::Poisoned { .. })));
    assert_holds(&ledger, 3);
    drop(ledger);
    let mut ledger = scratch.open();
    append(&mut ledger, 3..4, 1);
    assert_holds(&ledger, 4);
}

#[test]
fn a_failed_write_that_cannot_be_undone_poisons() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    scratch.disk.cut_write_short(20);
    scratch.disk.fail_cuts(1);
    let failed = ledger.append_batch(&[&entry(0)], Priority::Normal);
    assert!(matches!(failed, Err(Error::Io { .. })));
    let refused = ledger.append_batch(&[&entry(0)], Priority::Normal);
    assert!(matches!(refused, Err(Error::Poisoned { .. })));
    drop(ledger);
    let (ledger, report) = scratch.open_with(Damage::Refuse).unwrap();
    assert_eq!(report.torn.unwrap().bytes, 20);
    assert_holds(&ledger, 0);
}

#[test]
fn a_full_disk_stops_issuing_and_not_revoking() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let large = vec![b'1'; 60_000];
    let batch = vec![large.as_slice(); 16];
    scratch.disk.set_free(Some(5_000_000));
    let mut size = 0;
    let full = loop {
        match ledger.append_batch(&batch, Priority::Normal) {
            Ok(range) => size = range.end,
            Err(error) => break error,
        }
    };
    assert!(full.is_disk_full(), "{full:?}");
    assert!(size > 0);
    // The whole reserve is there for revocations, on a disk without a free byte.
    scratch.disk.set_free(Some(0));
    for _ in 0..8 {
        size = ledger.append_batch(&batch, Priority::Reserved).unwrap().end;
        assert!(
            ledger
                .append_batch(&[b"1"], Priority::Normal)
                .unwrap_err()
                .is_disk_full()
        );
    }
    let end = loop {
        match ledger.append_batch(&batch, Priority::Reserved) {
            Ok(range) => size = range.end,
            Err(error) => break error,
        }
    };
    assert!(end.is_disk_full(), "{end:?}");
    assert_eq!(ledger.reader().size(), size);
    scratch.disk.set_free(None);
    assert_eq!(
        ledger.append_batch(&[b"1"], Priority::Normal).unwrap(),
        size..size + 1
    );
    ledger.checkpoint_now().unwrap();
    drop(ledger);
    let (ledger, report) = scratch.open_with(Damage::Refuse).unwrap();
    assert_eq!((report.size, report.torn), (size + 1, None));
    assert_eq!(ledger.reader().entry(size - 1).unwrap(), large);
}

/// Reading goes on for a while on a full disk, and leaves the rest of the reserve to revocations.
#[test]
fn readers_do_not_use_up_the_reserve_for_revocations() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let entry = vec![b'1'; 60_000];
    let batch = [entry.as_slice()];
    scratch.disk.set_free(Some(0));
    let until_full = |ledger: &mut Ledger, priority| {
        let mut appended = 0_u64;
        loop {
            match ledger.append_batch(&batch, priority) {
                Ok(_) => appended += 60_000,
                Err(error) => {
                    assert!(error.is_disk_full(), "{error:?}");
                    return appended;
                }
            }
        }
    };
    until_full(&mut ledger, Priority::Normal);
    let read = until_full(&mut ledger, Priority::Reading);
    let one_more = 60_000;
    assert!((500_000..=(1 << 20) + one_more).contains(&read), "{read}");
    let revoked = until_full(&mut ledger, Priority::Reserved);
    assert!(revoked > 6 << 20, "{revoked}");
}

#[test]
fn a_checkpoint_can_be_written_on_a_full_disk() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    append(&mut ledger, 0..10, 10);
    ledger.checkpoint_now().unwrap();
    scratch.disk.set_free(Some(0));
    ledger
        .append_batch(&[&entry(10)], Priority::Reserved)
        .unwrap();
    assert_eq!(ledger.checkpoint_now().unwrap().size(), 11);
}

#[test]
fn segments_roll_and_reading_crosses_them() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let large = vec![b'1'; 65_000];
    let batch = vec![large.as_slice(); 500];
    let mut size = 0;
    while fs::read_dir(scratch.path.join("segments")).unwrap().count() < 3 {
        size = ledger.append_batch(&batch, Priority::Normal).unwrap().end;
    }
    ledger.append_batch(&[b"2"], Priority::Normal).unwrap();
    ledger.checkpoint_now().unwrap();
    drop(ledger);
    let ledger = scratch.open();
    let reader = ledger.reader();
    let last = reader
        .entries(size - 600..size + 1)
        .unwrap()
        .last()
        .unwrap()
        .unwrap();
    assert_eq!(last, (size, b"2".to_vec()));
    assert_eq!(reader.entry(size - 1).unwrap(), large);
    drop(ledger);
    // Without the middle segment there is a gap.
    let firsts = crate::scan::list(&scratch.path).unwrap();
    let middle = Segment::empty(firsts[1]).path(&scratch.path);
    fs::remove_file(middle).unwrap();
    match scratch.open_with(Damage::Refuse) {
        Err(Error::Damaged { index, .. }) => assert_eq!(index, firsts[1]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_disk_at_a_segments_end_keeps_revoking() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let large = vec![b'1'; 65_000];
    let batch = vec![large.as_slice(); 500];
    while ledger.tail.end() < SEGMENT_BYTES {
        ledger.append_batch(&batch, Priority::Normal).unwrap();
    }
    scratch.disk.set_free(Some(0));
    let size = ledger.reader().size();
    assert!(
        ledger
            .append_batch(&[b"1"], Priority::Normal)
            .unwrap_err()
            .is_disk_full()
    );
    ledger.append_batch(&[b"1"], Priority::Reserved).unwrap();
    scratch.disk.set_free(None);
    ledger.append_batch(&[b"2"], Priority::Normal).unwrap();
    drop(ledger);
    let ledger = scratch.open();
    let tail: Vec<_> = ledger
        .reader()
        .entries(size..size + 2)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(tail, [(size, b"1".to_vec()), (size + 1, b"2".to_vec())]);
}

#[test]
fn a_write_torn_at_any_byte_is_cut_back() {
    let scratch = Scratch::new();
    let (mut ledger, _) = scratch.filled(5, 5);
    let whole = fs::metadata(scratch.first_segment()).unwrap().len();
    append(&mut ledger, 5..6, 1);
    drop(ledger);
    let complete = fs::read(scratch.first_segment()).unwrap();
    for length in usize::try_from(whole).unwrap() + 1..complete.len() {
        for zeroes in [0, 100] {
            let mut torn = complete[..length].to_vec();
            torn.resize(length + zeroes, 0);
            fs::write(scratch.first_segment(), &torn).unwrap();
            let (ledger, report) = scratch.open_with(Damage::Refuse).unwrap();
            let found = report.torn.unwrap();
            assert_eq!(
                (found.offset, found.bytes),
                (whole, torn.len() as u64 - whole)
            );
            assert_eq!(ledger.reader().size(), 5);
            assert_eq!(fs::metadata(scratch.first_segment()).unwrap().len(), whole);
        }
    }
}

#[test]
fn a_hole_in_the_last_unsigned_batch_is_torn_and_before_a_later_batch_is_damage() {
    let scratch = Scratch::new();
    let (mut ledger, _) = scratch.filled(5, 5);
    let whole = fs::metadata(scratch.first_segment()).unwrap().len();
    append(&mut ledger, 5..8, 3);
    drop(ledger);
    let one_batch = fs::read(scratch.first_segment()).unwrap();
    flip(&scratch, whole + 20);
    let (mut ledger, report) = scratch.open_with(Damage::Refuse).unwrap();
    assert_eq!((report.size, report.torn.is_some()), (5, true));
    append(&mut ledger, 5..8, 3);
    append(&mut ledger, 8..9, 1);
    drop(ledger);
    assert!(
        fs::read(scratch.first_segment())
            .unwrap()
            .starts_with(&one_batch)
    );
    flip(&scratch, whole + 20);
    match scratch.open_with(Damage::Refuse) {
        Err(Error::Damaged { offset, index, .. }) => assert_eq!((offset, index), (whole, 5)),
        other => panic!("{other:?}"),
    }
}

fn flip(scratch: &Scratch, offset: u64) {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(scratch.first_segment())
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[test]
fn every_flipped_byte_of_a_signed_segment_is_damage_with_its_place() {
    let scratch = Scratch::new();
    let (ledger, _) = scratch.filled(6, 2);
    drop(ledger);
    let length = fs::metadata(scratch.first_segment()).unwrap().len();
    for offset in 0..length {
        flip(&scratch, offset);
        match scratch.open_with(Damage::Refuse) {
            Err(Error::Damaged { offset: at, .. }) => assert!(at <= offset, "{at} {offset}"),
            other => panic!("{offset}: {other:?}"),
        }
        assert!(verify_dir(&scratch.path, &verifying(), None, &mut |_| ()).is_err());
        flip(&scratch, offset);
    }
    assert!(scratch.open_with(Damage::Refuse).is_ok());
}

#[test]
fn a_ledger_shorter_than_its_checkpoint_is_damaged() {
    let scratch = Scratch::new();
    let (ledger, _) = scratch.filled(6, 2);
    drop(ledger);
    let complete = fs::read(scratch.first_segment()).unwrap();
    for length in 0..complete.len() {
        fs::write(scratch.first_segment(), &complete[..length]).unwrap();
        let refused = scratch.open_with(Damage::Refuse);
        assert!(
            matches!(refused, Err(Error::Damaged { .. })),
            "{length}: {refused:?}"
        );
        assert!(verify_dir(&scratch.path, &verifying(), None, &mut |_| ()).is_err());
    }
    fs::remove_file(scratch.first_segment()).unwrap();
    let refused = scratch.open_with(Damage::Refuse);
    assert!(
        matches!(refused, Err(Error::Damaged { index: 0, .. })),
        "{refused:?}"
    );
}

#[test]
fn accepted_damage_is_moved_aside_and_the_rest_goes_on() {
    let scratch = Scratch::new();
    let (ledger, old) = scratch.filled(6, 2);
    drop(ledger);
    let complete = fs::read(scratch.first_segment()).unwrap();
    let entry_bytes = (complete.len() as u64 - segment::HEADER_BYTES) / 6;
    let third = segment::HEADER_BYTES + 3 * entry_bytes;
    flip(&scratch, third + 30);
    let (mut ledger, report) = scratch.open_with(Damage::Accept).unwrap();
    let accepted = &report.accepted[0];
    assert_eq!((accepted.at.index, accepted.at.offset), (3, third));
    assert_eq!((report.size, report.signed), (3, 6));
    assert!(accepted.moved.iter().all(|path| path.exists()));
    let rest = fs::read(&accepted.moved[0]).unwrap();
    assert_eq!(rest.len(), complete.len() - usize::try_from(third).unwrap());
    assert_eq!(ledger.reader().checkpoint().size(), 3);
    append(&mut ledger, 3..9, 3);
    ledger.checkpoint_now().unwrap();
    assert_holds(&ledger, 9);
    drop(ledger);
    assert!(scratch.open_with(Damage::Refuse).is_ok());
    let replaced = verify_dir(&scratch.path, &verifying(), Some(&old), &mut |_| ());
    // The same entries were appended again, so that history is the old one's continuation.
    assert_eq!(replaced.unwrap().continues, Some(6));
}

#[test]
fn a_changed_entry_with_a_good_checksum_is_found_by_the_tree() {
    let scratch = Scratch::new();
    let (ledger, _) = scratch.filled(300, 100);
    drop(ledger);
    let mut bytes = segment::header(0);
    for n in 0..300 {
        let content = if n == 260 { entry(999) } else { entry(n) };
        segment::encode(n, n % 100 == 0, &content, &mut bytes);
    }
    fs::write(scratch.first_segment(), bytes).unwrap();
    let refused = scratch.open_with(Damage::Refuse);
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    let (ledger, report) = scratch.open_with(Damage::Accept).unwrap();
    assert_eq!((report.size, report.accepted.len()), (300, 1));
    assert_eq!(ledger.reader().entry(260).unwrap(), entry(999));
}

#[test]
fn missing_and_wrong_tiles_are_made_again() {
    let scratch = Scratch::new();
    let (ledger, _) = scratch.filled(66_000, 1000);
    drop(ledger);
    let first = scratch.path.join("tile/0/000");
    let top = scratch.path.join("tile/1/000");
    let good = (fs::read(&first).unwrap(), fs::read(&top).unwrap());
    // A wrong tile under a full one is noticed when it is used, a wrong full one on opening.
    fs::write(&first, vec![1; 8192]).unwrap();
    let ledger = scratch.open();
    let proof = ledger.reader().inclusion_proof(5, 66_000).unwrap();
    let root = inclusion_root(&leaf_hash(&entry(5)), 5, 66_000, &proof);
    assert_eq!(root, Some(ledger.reader().root().unwrap()));
    drop(ledger);
    for (path, content) in [
        (&first, None),
        (&top, Some(vec![1; 8192])),
        (&top, None),
        (&top, Some(vec![0; 8192])),
    ] {
        match content {
            Some(content) => fs::write(path, content).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        let (ledger, _) = scratch.open_with(Damage::Refuse).unwrap();
        assert!(ledger.reader().inclusion_proof(5, 66_000).is_ok());
        drop(ledger);
        assert_eq!((fs::read(&first).unwrap(), fs::read(&top).unwrap()), good);
    }
}

#[test]
fn the_checkpoint_must_be_there_and_genuine() {
    let scratch = Scratch::new();
    let (ledger, _) = scratch.filled(6, 2);
    drop(ledger);
    let path = scratch.path.join("checkpoint");
    let good = fs::read(&path).unwrap();
    for place in 0..good.len() {
        let mut bad = good.clone();
        bad[place] ^= 1;
        fs::write(&path, &bad).unwrap();
        let refused = scratch.open_with(Damage::Refuse);
        assert!(
            matches!(refused, Err(Error::Checkpoint { .. })),
            "{place}: {refused:?}"
        );
    }
    fs::remove_file(&path).unwrap();
    let refused = scratch.open_with(Damage::Refuse);
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    let (ledger, _) = scratch.open_with(Damage::Accept).unwrap();
    assert_holds(&ledger, 6);
    assert_eq!(fs::read(&path).unwrap(), good);
}

#[test]
fn readers_see_only_whole_batches_while_the_writer_appends() {
    let scratch = Scratch::new();
    let mut ledger = scratch.open();
    let reader = ledger.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::SeqCst) || seen < reader.size() {
                let size = reader.size();
                assert_eq!(size % 50, 0);
                for (n, found) in (seen..).zip(reader.entries(seen..size).unwrap()) {
                    assert_eq!(found.unwrap(), (n, entry(n)));
                }
                if size > 0 {
                    let root = reader.root_at(size).unwrap();
                    let proof = reader.inclusion_proof(size / 2, size).unwrap();
                    let leaf = leaf_hash(&entry(size / 2));
                    assert_eq!(inclusion_root(&leaf, size / 2, size, &proof), Some(root));
                }
                seen = size;
            }
            seen
        });
        append(&mut ledger, 0..5000, 50);
        done.store(true, Ordering::SeqCst);
        assert_eq!(watch.join().unwrap(), 5000);
    });
}
