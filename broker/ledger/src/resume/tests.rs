use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{
    Damage, Ledger, OpenReport, Options, Priority,
    segment::{self, Segment},
    testing::{Scratch, append, entry, key},
    tree::Frontier,
};

/// Opens a ledger of small segments as if it were large.
fn open(scratch: &Scratch) -> Result<(Ledger, OpenReport), Error> {
    let options = Options {
        segment_bytes: 20_000,
        hash_first_bytes: 0,
        ..Options::new(key())
    };
    Ledger::open(&scratch.path, options)
}

/// A ledger of which `signed` entries are signed, and some more are not.
fn filled(signed: u64, more: u64) -> Scratch {
    let scratch = Scratch::new();
    let mut ledger = open(&scratch).unwrap().0;
    append(&mut ledger, 0..signed, 50);
    ledger.checkpoint_now().unwrap();
    append(&mut ledger, signed..signed + more, 50);
    scratch
}

/// How many entries were not hashed.
fn left(ledger: &Ledger) -> u64 {
    ledger.unhashed().left()
}

/// Writes the segment of an entry again, with good checksums around other entries.
fn rewrite(scratch: &Scratch, holding: u64, content: impl Fn(u64) -> Vec<u8>) {
    let firsts = scan::list(&scratch.path).unwrap();
    let place = firsts.partition_point(|first| *first <= holding) - 1;
    let path = Segment::empty(firsts[place]).path(&scratch.path);
    let file = fs::File::open(&path).unwrap();
    let mut reader = FrameReader::over(file, 0, u64::MAX);
    assert!(reader.header_is(firsts[place]).unwrap());
    let mut bytes = segment::header(firsts[place]);
    for n in firsts[place].. {
        let segment::Next::Entry(frame) = reader.next(n).unwrap() else {
            break;
        };
        segment::encode(n, frame.starts_batch, &content(n), &mut bytes);
    }
    fs::write(path, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_ledger_of_any_size_opens_with_the_tree_of_its_entries(
        signed in 0_u64..1500,
        more in 0_u64..700,
    ) {
        let scratch = filled(signed, more);
        let (mut ledger, report) = open(&scratch).unwrap();
        let size = signed + more;
        prop_assert_eq!((report.size, report.signed, report.tiles_rebuilt), (size, signed, 0));
        prop_assert_eq!(left(&ledger), signed / TILE_WIDTH * TILE_WIDTH);
        append(&mut ledger, size..size + 60, 20);
        let mut tree = Frontier::default();
        (0..size + 60).for_each(|n| tree.push(leaf_hash(&entry(n))));
        let reader = ledger.reader();
        prop_assert_eq!(reader.root().unwrap(), tree.root());
        let mut genuine = reader.genuine_entries(0..size + 60).unwrap();
        for n in 0..size + 60 {
            prop_assert_eq!(&reader.entry(n).unwrap(), &entry(n));
            let next = genuine.next_entry().unwrap().map(|(n, found)| (n, found.to_vec()));
            prop_assert_eq!(next, Some((n, entry(n))));
        }
        prop_assert_eq!(genuine.next_entry().unwrap(), None);
    }
}

#[test]
fn the_entries_behind_the_last_signed_tile_are_hashed_before_the_ledger_opens() {
    let scratch = filled(1300, 0);
    for changed in [1280, 1299] {
        rewrite(&scratch, changed, |n| {
            entry(if n == changed { 9_999 } else { n })
        });
        let refused = open(&scratch);
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
        rewrite(&scratch, changed, entry);
    }
    open(&scratch).unwrap();
}

#[test]
fn tiles_that_do_not_lead_to_the_signed_root_bring_the_survey() {
    let scratch = filled(1300, 0);
    for index in 0..5 {
        let path = forest::file(&scratch.path, 0, index);
        let good = fs::read(&path).unwrap();
        let mut wrong = good.clone();
        wrong[33] ^= 1;
        for content in [Some(wrong), Some(vec![0; 8192]), Some(Vec::new()), None] {
            match content {
                Some(content) => fs::write(&path, content).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let (ledger, report) = open(&scratch).unwrap();
            assert_eq!((left(&ledger), report.tiles_rebuilt), (0, 1));
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }
    assert_eq!(left(&open(&scratch).unwrap().0), 1280);
}

#[test]
fn an_entry_and_a_tile_that_were_changed_together_are_found() {
    let scratch = filled(1300, 0);
    rewrite(&scratch, 7, |n| entry(if n == 7 { 9_999 } else { n }));
    let path = forest::file(&scratch.path, 0, 0);
    let mut tile = fs::read(&path).unwrap();
    tile[7 * 32..8 * 32].copy_from_slice(&leaf_hash(&entry(9_999)));
    fs::write(&path, tile).unwrap();
    let refused = open(&scratch);
    assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
}

#[test]
fn segments_that_are_missing_or_none_bring_the_survey() {
    let scratch = filled(1300, 0);
    let firsts = scan::list(&scratch.path).unwrap();
    assert!(firsts.len() > 4, "{firsts:?}");
    for first in &firsts {
        let path = Segment::empty(*first).path(&scratch.path);
        let good = fs::read(&path).unwrap();
        for content in [
            &[][..],
            &good[..10],
            &[7; 100],
            &good[..20],
            &good[..good.len() - 5],
        ] {
            fs::write(&path, content).unwrap();
            let refused = open(&scratch);
            assert!(
                matches!(refused, Err(Error::Damaged { .. })),
                "{first}: {refused:?}"
            );
        }
        fs::write(&path, good).unwrap();
    }
    for first in &firsts {
        let (path, aside) = (
            Segment::empty(*first).path(&scratch.path),
            scratch.path.join("aside"),
        );
        fs::rename(&path, &aside).unwrap();
        let refused = open(&scratch);
        assert!(matches!(refused, Err(Error::Damaged { index, .. }) if index == *first));
        fs::rename(&aside, &path).unwrap();
    }
}

#[test]
fn a_small_ledger_and_accepted_damage_are_hashed_whole() {
    let scratch = filled(1300, 0);
    let bytes: u64 = scan::list(&scratch.path)
        .unwrap()
        .iter()
        .map(|first| Segment::empty(*first).path(&scratch.path))
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    for (hash_first_bytes, damage, expected) in [
        (bytes, Damage::Refuse, 0),
        (bytes - 1, Damage::Refuse, 1280),
        (0, Damage::Accept, 0),
    ] {
        let options = Options {
            hash_first_bytes,
            damage,
            ..Options::new(key())
        };
        let ledger = Ledger::open(&scratch.path, options).unwrap().0;
        assert_eq!(left(&ledger), expected);
    }
}

/// The archived entries are not here to make it again while the ledger is in use.
#[test]
fn a_wrong_tile_across_the_beginning_brings_the_survey() {
    let scratch = filled(1300, 0);
    let archive = scratch.path.with_file_name("archive");
    let ledger = open(&scratch).unwrap().0;
    let archiver = ledger.archiver();
    let cut = archiver.cuts()[1];
    assert!(cut > 256 && !cut.is_multiple_of(256), "{cut}");
    archiver.begin(&archive).unwrap();
    let copied = archiver.copy(cut, &archive, &mut |_| ()).unwrap().unwrap();
    archiver.forget(&copied).unwrap();
    drop((archiver, ledger));
    assert_eq!(left(&open(&scratch).unwrap().0), 1280 - cut);
    let path = forest::file(&scratch.path, 0, cut / 256);
    let good = fs::read(&path).unwrap();
    for content in [None, Some(vec![7; 8192])] {
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let (ledger, report) = open(&scratch).unwrap();
        assert_eq!((left(&ledger), report.tiles_rebuilt), (0, 1));
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[test]
fn a_torn_batch_behind_the_checkpoint_is_cut_off() {
    let scratch = filled(1300, 0);
    let last = *scan::list(&scratch.path).unwrap().last().unwrap();
    let path = Segment::empty(last).path(&scratch.path);
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"half of a batch");
    fs::write(&path, bytes).unwrap();
    let (mut ledger, report) = open(&scratch).unwrap();
    assert_eq!(report.torn.unwrap().bytes, 15);
    assert_eq!(left(&ledger), 1280);
    ledger
        .append_batch(&[&entry(1300)], Priority::Normal)
        .unwrap();
    drop(ledger);
    assert_eq!(open(&scratch).unwrap().1.size, 1301);
}
