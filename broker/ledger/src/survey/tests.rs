use std::fs;

use proptest::prelude::*;

use super::*;
use crate::{
    Damage, Error,
    segment::{self, Segment},
    testing::{Scratch, entry},
    tree::Frontier,
};

/// Writes one segment with good checksums around whatever the entries are.
fn write_segment(ledger: &Path, entries: std::ops::Range<u64>, content: impl Fn(u64) -> Vec<u8>) {
    let mut bytes = segment::header(entries.start);
    let path = Segment::empty(entries.start).path(ledger);
    for n in entries {
        segment::encode(n, n % 7 == 0, &content(n), &mut bytes);
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn root_of(size: u64) -> Hash {
    let mut tree = Frontier::default();
    (0..size).for_each(|n| tree.push(leaf_hash(&entry(n))));
    tree.root()
}

const SIZE: u64 = 1300;

fn damaged_at(scratch: &Scratch) -> u64 {
    match scratch.open_with(Damage::Refuse) {
        Err(Error::Damaged { index, .. }) => index,
        other => panic!("it was opened: {other:?}"),
    }
}

#[test]
fn a_changed_entry_with_a_mended_checksum_is_refused_wherever_it_stands() {
    for changed in [0, 5, 255, 256, 700, 1023, 1279, 1280, 1299] {
        let scratch = Scratch::new();
        drop(scratch.filled(SIZE, 100));
        write_segment(&scratch.path, 0..SIZE, |n| {
            entry(if n == changed { 9_999 } else { n })
        });
        // The last tile is not full and has no file, so nothing tells which of its entries it is.
        let named = if changed < 1280 { changed } else { 0 };
        assert_eq!(damaged_at(&scratch), named);

        // The writer of the files changes the cached hash, too.
        let path = crate::forest::file(&scratch.path, 0, changed / TILE_WIDTH);
        if let Ok(mut tile) = fs::read(&path) {
            let place = usize::try_from(changed % TILE_WIDTH).unwrap() * 32;
            tile[place..place + 32].copy_from_slice(&leaf_hash(&entry(9_999)));
            fs::write(&path, tile).unwrap();
            damaged_at(&scratch);
        }
    }
}

#[test]
fn entries_that_change_places_or_are_left_out_are_refused() {
    let orders: [fn(u64) -> u64; 3] = [
        |n| match n {
            10 => 11,
            11 => 10,
            n => n,
        },
        |n| if n < 300 { n } else { n + 1 },
        |n| if n == SIZE - 1 { 0 } else { n },
    ];
    for order in orders {
        let scratch = Scratch::new();
        drop(scratch.filled(SIZE, 100));
        write_segment(&scratch.path, 0..SIZE, |n| entry(order(n)));
        damaged_at(&scratch);
    }
}

#[test]
fn every_tile_file_is_compared_with_the_entries_and_made_again() {
    let scratch = Scratch::new();
    drop(scratch.filled(66_000, 1000));
    for (level, index) in [(0, 0), (0, 100), (0, 255), (0, 256), (1, 0)] {
        let path = crate::forest::file(&scratch.path, level, index);
        let good = fs::read(&path).unwrap();
        for place in [0, 4096, 8191] {
            let mut wrong = good.clone();
            wrong[place] ^= 1;
            fs::write(&path, wrong).unwrap();
            let (_, report) = scratch.open_with(Damage::Refuse).unwrap();
            assert_eq!(report.tiles_rebuilt, 1, "{level}/{index} at {place}");
            assert_eq!(fs::read(&path).unwrap(), good);
        }
    }
    // All at once, as in a backup without the cache.
    fs::remove_dir_all(scratch.path.join("tile")).unwrap();
    let (_, report) = scratch.open_with(Damage::Refuse).unwrap();
    assert_eq!(report.tiles_rebuilt, 257 + 1);
    let (_, report) = scratch.open_with(Damage::Refuse).unwrap();
    assert_eq!(report.tiles_rebuilt, 0);
}

#[test]
fn an_error_of_one_segment_is_the_error_of_all() {
    let scratch = tempfile::tempdir().unwrap();
    write_segment(scratch.path(), 0..100, entry);
    // A directory where a segment is expected cannot be read.
    let second = Segment::empty(100).path(scratch.path());
    fs::create_dir(second).unwrap();
    assert!(survey(scratch.path(), 100, Edge::default()).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn segments_of_any_length_make_the_same_tree(
        lengths in prop::collection::vec(1_u64..600, 1..7),
        signed in 0.0_f64..=1.0,
    ) {
        let scratch = tempfile::tempdir().unwrap();
        let mut size = 0;
        for length in &lengths {
            write_segment(scratch.path(), size..size + length, entry);
            size += length;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "small numbers")]
        let signed = (size as f64 * signed) as u64;
        let found = survey(scratch.path(), signed, Edge::default()).unwrap();
        prop_assert_eq!(found.scan.size(), size);
        prop_assert_eq!(found.edge.root(), root_of(size));
        prop_assert_eq!(found.signed_root, Some(root_of(signed)));
        prop_assert_eq!(found.wrong_tiles.len() as u64, size / TILE_WIDTH);
        let beyond = survey(scratch.path(), size + 1, Edge::default()).unwrap();
        prop_assert_eq!(beyond.signed_root, None);
        prop_assert!(beyond.scan.damage.is_some());
    }
}
