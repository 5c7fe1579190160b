use std::fs;

use super::*;
use crate::{
    Ledger, Options, forest, scan,
    segment::{self, HEADER_BYTES},
    testing::{Scratch, append, entry, key},
};

const SIZE: u64 = 1300;
/// The end of the last full tile.
const FLOOR: u64 = 1280;

fn options() -> Options {
    Options {
        segment_bytes: 20_000,
        hash_first_bytes: 0,
        ..Options::new(key())
    }
}

fn filled() -> Scratch {
    let scratch = Scratch::new();
    let mut ledger = Ledger::open(&scratch.path, options()).unwrap().0;
    append(&mut ledger, 0..SIZE, 50);
    ledger.checkpoint_now().unwrap();
    scratch
}

fn open(scratch: &Scratch) -> Ledger {
    Ledger::open(&scratch.path, options()).unwrap().0
}

/// Steps until nothing is left, or an error comes.
fn hash_all(ledger: &Ledger) -> Result<(), Error> {
    let mut unhashed = ledger.unhashed();
    while unhashed.left() > 0 {
        unhashed.step()?;
    }
    Ok(())
}

/// The bytes of the segment of an entry, and where the entry begins in them.
fn segment_of(scratch: &Scratch, index: u64) -> (std::path::PathBuf, Vec<u8>, usize) {
    let firsts = scan::list(&scratch.path).unwrap();
    let first = firsts[firsts.partition_point(|first| *first <= index) - 1];
    let path = Segment::empty(first).path(&scratch.path);
    let bytes = fs::read(&path).unwrap();
    let header = usize::try_from(HEADER_BYTES).unwrap();
    let offset: usize = (first..index).map(|n| FRAME_BYTES + entry(n).len()).sum();
    (path, bytes, header + offset)
}

#[test]
fn every_entry_is_hashed_and_then_found_without_reading_its_segment() {
    let scratch = filled();
    let mut ledger = open(&scratch);
    let reader = ledger.reader();
    let unread = |reader: &Reader| {
        let state = reader.shared.state();
        state.segments.iter().filter(|it| it.is_unread()).count()
    };
    let before = unread(&reader);
    assert!(before > 3, "{before}");
    let mut unhashed = ledger.unhashed();
    while unhashed.left() > 0 {
        // The writer begins new segments meanwhile.
        let size = reader.size();
        append(&mut ledger, size..size + 100, 50);
        unhashed.step().unwrap();
    }
    assert_eq!((unread(&reader), reader.damage()), (0, None));
    unhashed.step().unwrap();
    for n in 0..reader.size() {
        assert_eq!(reader.entry(n).unwrap(), entry(n));
    }
}

#[test]
fn a_changed_entry_is_found_where_it_stands() {
    for changed in [0, 255, 256, 700, FLOOR - 1] {
        let scratch = filled();
        let (path, mut bytes, offset) = segment_of(&scratch, changed);
        let mut frame = Vec::new();
        let other = entry(changed + 1);
        let same_length = other.len() == entry(changed).len();
        assert!(same_length, "{changed}");
        segment::encode(changed, changed % 50 == 0, &other, &mut frame);
        bytes[offset..offset + frame.len()].copy_from_slice(&frame);
        fs::write(&path, &bytes).unwrap();

        let ledger = open(&scratch);
        let reader = ledger.reader();
        let mut replay = reader.genuine_entries(changed..changed + 1).unwrap();
        let refused = replay.next_entry().map(drop);
        assert!(matches!(refused, Err(Error::Damaged { index, .. }) if index == changed));
        assert_eq!(reader.damage(), None, "a replay refuses to start anyway");
        hash_all(&ledger).unwrap_err();
        let at = reader.damage().unwrap();
        assert_eq!((at.index, at.segment.clone()), (changed, path));
        assert_eq!(at.reason, NOT_SIGNED);
    }
}

#[test]
fn a_segment_with_more_than_its_entries_is_found() {
    let scratch = filled();
    let (path, good, _) = segment_of(&scratch, 300);
    let firsts = scan::list(&scratch.path).unwrap();
    let next = firsts[firsts.partition_point(|first| *first <= 300)];
    let mut more = good.clone();
    segment::encode(next - 1, true, &entry(1), &mut more);
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    for wrong in [more, flipped] {
        fs::write(&path, &wrong).unwrap();
        let ledger = open(&scratch);
        hash_all(&ledger).unwrap_err();
        assert_eq!(ledger.reader().damage().unwrap().segment, path);
        fs::remove_file(mark(&scratch.path)).unwrap();
    }
    fs::write(&path, good).unwrap();
    hash_all(&open(&scratch)).unwrap();
}

#[test]
fn segments_that_go_to_an_archive_meanwhile_are_passed_over() {
    let scratch = filled();
    let archive = scratch.path.with_file_name("archive");
    let ledger = open(&scratch);
    let mut unhashed = ledger.unhashed();
    unhashed.step().unwrap();
    let archiver = ledger.archiver();
    let cut = archiver.cuts()[2];
    archiver.begin(&archive).unwrap();
    let copied = archiver.copy(cut, &archive, &mut |_| ()).unwrap().unwrap();
    archiver.forget(&copied).unwrap();
    while unhashed.left() > 0 {
        unhashed.step().unwrap();
    }
    assert_eq!(ledger.reader().damage(), None);
}

#[test]
fn after_damage_was_found_the_next_start_hashes_everything_first() {
    let scratch = filled();
    let (path, good, offset) = segment_of(&scratch, 300);
    let mut wrong = good.clone();
    wrong[offset + FRAME_BYTES + 3] ^= 1;
    fs::write(&path, wrong).unwrap();
    hash_all(&open(&scratch)).unwrap_err();
    for _ in 0..2 {
        let refused = Ledger::open(&scratch.path, options());
        assert!(matches!(refused, Err(Error::Damaged { index: 300, .. })));
    }
    fs::write(&path, good).unwrap();
    assert_eq!(open(&scratch).unhashed().left(), 0);
    assert_eq!(open(&scratch).unhashed().left(), FLOOR);
}

#[test]
fn an_error_of_the_disk_is_no_damage_and_passes() {
    let scratch = filled();
    let ledger = open(&scratch);
    let hidden = scratch.path.with_file_name("hidden");
    fs::rename(scratch.path.join("segments"), &hidden).unwrap();
    let mut unhashed = ledger.unhashed();
    assert!(matches!(unhashed.step(), Err(Error::Io { .. })));
    assert_eq!(ledger.reader().damage(), None);
    fs::rename(&hidden, scratch.path.join("segments")).unwrap();
    while unhashed.left() > 0 {
        unhashed.step().unwrap();
    }
}

#[test]
fn a_segment_that_cannot_be_read_keeps_no_other_from_being_hashed() {
    let scratch = filled();
    let (path, _, _) = segment_of(&scratch, 300);
    let (wrong, mut bytes, offset) = segment_of(&scratch, 900);
    bytes[offset + FRAME_BYTES + 3] ^= 1;
    let ledger = open(&scratch);
    let aside = scratch.path.with_file_name("aside");
    fs::rename(&path, &aside).unwrap();
    let mut unhashed = ledger.unhashed();
    let mut failed = 0;
    for _ in 0..20 {
        failed += u32::from(unhashed.step().is_err());
    }
    assert!(failed > 1, "it comes back");
    assert!(unhashed.left() >= FLOOR - 300);
    fs::write(&wrong, bytes).unwrap();
    while ledger.reader().damage().is_none() {
        drop(unhashed.step());
    }
    assert_eq!(ledger.reader().damage().unwrap().index, 900);
    fs::rename(&aside, &path).unwrap();
}

#[test]
fn a_wrong_tile_below_the_edge_is_made_again() {
    let scratch = Scratch::new();
    let mut ledger = Ledger::open(&scratch.path, options()).unwrap().0;
    append(&mut ledger, 0..66_000, 1000);
    ledger.checkpoint_now().unwrap();
    drop(ledger);
    let path = forest::file(&scratch.path, 0, 3);
    let good = fs::read(&path).unwrap();
    fs::write(&path, vec![1; 8192]).unwrap();
    let ledger = open(&scratch);
    assert!(ledger.unhashed().left() > 65_000);
    hash_all(&ledger).unwrap();
    assert_eq!(fs::read(&path).unwrap(), good);
}
