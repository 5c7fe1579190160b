//! Archives that are not what they seem, and files that return to a place that they had left.

use std::os::unix::fs::symlink;

use super::*;

type Disguise = fn(&Place);

/// The originals under another name, which a comparison by content takes for copies.
const DISGUISES: [(&str, Disguise); 3] = [
    ("a link to the directory", |place| {
        let own = segment::directory(&place.scratch.path);
        symlink(own, segment::directory(&place.archive)).unwrap();
    }),
    ("a link for each file", |place| {
        each_original(place, |from, to| symlink(from, to).unwrap());
    }),
    ("hard links", |place| {
        each_original(place, |from, to| fs::hard_link(from, to).unwrap());
    }),
];

fn each_original(place: &Place, make: fn(&Path, &Path)) {
    fs::create_dir_all(segment::directory(&place.archive)).unwrap();
    for first in place.segments() {
        let own = Segment::empty(first).path(&place.scratch.path);
        drop(fs::remove_file(place.in_archive(first)));
        make(&own, &place.in_archive(first));
    }
}

fn assert_whole(place: &Place, segments: &[u64], what: &str) {
    assert_eq!(place.segments(), segments, "{what}");
    let found = verify_dir(&place.scratch.path, &verifying(), None, &mut |_| ()).unwrap();
    assert_eq!(found.extent, Extent::Full, "{what}");
}

#[test]
fn the_originals_under_another_name_are_no_copies() {
    for (what, disguise) in DISGUISES {
        let (place, ledger) = Place::filled();
        let before = place.segments();
        fs::create_dir(&place.archive).unwrap();
        disguise(&place);
        let archiver = ledger.archiver();
        let copied = begin_and_copy(&archiver, archiver.cuts()[4], &place.archive, &mut |_| ());
        let done = copied.and_then(|copied| archiver.forget(&copied.unwrap()));
        assert!(done.is_err(), "{what}: {done:?}");
        assert_whole(&place, &before, what);
    }
}

#[test]
fn copies_that_become_the_originals_before_these_go_are_noticed() {
    for (what, disguise) in DISGUISES {
        let (place, ledger) = Place::filled();
        let before = place.segments();
        let archiver = ledger.archiver();
        let copied = begin_and_copy(&archiver, archiver.cuts()[4], &place.archive, &mut |_| ());
        let copied = copied.unwrap().unwrap();
        let segments = segment::directory(&place.archive);
        fs::rename(&segments, segments.with_file_name("aside")).unwrap();
        disguise(&place);
        assert!(archiver.forget(&copied).is_err(), "{what}");
        assert_whole(&place, &before, what);
    }
}

/// Moves the segments of the archive back to where they came from.
fn bring_back(place: &Place) {
    for first in scan::list(&place.archive).unwrap() {
        let own = Segment::empty(first).path(&place.scratch.path);
        fs::rename(place.in_archive(first), own).unwrap();
    }
}

#[test]
fn a_start_deletes_no_segment() {
    let (place, ledger) = Place::filled();
    let all = place.segments();
    let cut = archive_half(&ledger, &place.archive);
    drop(ledger);
    bring_back(&place);
    let ledger = place.open();
    assert_eq!(ledger.reader().first(), cut);
    assert_eq!(place.segments(), all);
    let found = verify_dir(&place.scratch.path, &verifying(), None, &mut |_| ()).unwrap();
    assert_eq!(found.extent, Extent::From(cut));
    drop(ledger);
    // Without the base they are the ledger's own again.
    fs::remove_file(Base::path(&place.scratch.path)).unwrap();
    assert_eq!(place.open().reader().entry(0).unwrap(), entry(0));
}

#[test]
fn a_base_that_is_newer_than_the_checkpoint_is_refused_before_any_change() {
    let (place, mut ledger) = Place::filled();
    drop(ledger);
    let backup = place.scratch.path.with_file_name("backup");
    copy_all(&place.scratch.path, &backup);
    ledger = place.open();
    append(&mut ledger, ENTRIES..ENTRIES + 700, 10);
    ledger.checkpoint_now().unwrap();
    let cut = ledger.archiver().cuts().pop().unwrap();
    assert!(cut > ENTRIES);
    let copied = begin_and_copy(&ledger.archiver(), cut, &place.archive, &mut |_| ());
    ledger.archiver().forget(&copied.unwrap().unwrap()).unwrap();
    drop(ledger);
    // The backup comes over what is there, and the backup has no base.
    copy_all(&backup, &place.scratch.path);
    let before = (
        place.segments(),
        fs::read(checkpoint_path(&place.scratch.path)).unwrap(),
    );
    let refused = Ledger::open(&place.scratch.path, place.options()).unwrap_err();
    assert!(
        refused.to_string().contains("`base`") || refused.to_string().contains("/base`"),
        "{refused}"
    );
    let after = (
        place.segments(),
        fs::read(checkpoint_path(&place.scratch.path)).unwrap(),
    );
    assert_eq!(before, after);
    assert!(verify_dir(&place.scratch.path, &verifying(), None, &mut |_| ()).is_err());
}

#[test]
fn what_a_run_left_goes_once_its_copy_was_compared_again() {
    for reopened in [true, false] {
        let (place, mut ledger) = Place::filled();
        let all = place.segments();
        let cut = archive_half(&ledger, &place.archive);
        let kept = place.segments();
        let archived = scan::list(&place.archive).unwrap();
        for first in &archived[1..] {
            let own = Segment::empty(*first).path(&place.scratch.path);
            fs::copy(place.in_archive(*first), own).unwrap();
        }
        if reopened {
            drop(ledger);
            ledger = place.open();
        }
        let archiver = ledger.archiver();
        // The original of a wrong copy stays, and so does everything else.
        let wrong = place.in_archive(archived[2]);
        let right = fs::read(&wrong).unwrap();
        let mut bytes = right.clone();
        bytes[40] ^= 1;
        fs::write(&wrong, bytes).unwrap();
        let refused = archiver.clean_up(&place.archive);
        assert!(
            matches!(refused, Err(ArchiveError::Foreign { .. })),
            "{refused:?}"
        );
        assert_eq!(place.segments(), &all[1..]);
        // So does one without a copy there.
        fs::remove_file(&wrong).unwrap();
        let done = archiver.clean_up(&place.archive);
        assert!(
            matches!(done, Err(ArchiveError::Foreign { .. })),
            "the one before ends early: {done:?}"
        );
        fs::write(&wrong, right).unwrap();
        let done = archiver.clean_up(&place.archive).unwrap();
        assert_eq!(done.deleted, archived.len() as u64 - 1);
        assert_eq!(place.segments(), kept);
        assert_eq!(place.verify().unwrap().entries, ENTRIES);
        // Another archive has no copies: what came back stays.
        bring_back(&place);
        let other = place.archive.with_file_name("other");
        assert_eq!(archiver.begin(&other).unwrap(), Begun::Now);
        assert_eq!(archiver.clean_up(&other).unwrap(), Forgotten::default());
        assert_eq!(place.segments(), all);
        assert_eq!(ledger.reader().first(), cut);
    }
}

/// The directory is there and the volume with the archive is not.
#[test]
fn only_a_person_begins_an_archive() {
    let (place, mut ledger) = Place::filled();
    let archiver = ledger.archiver();
    fs::create_dir(&place.archive).unwrap();
    let cut = archiver.cuts()[3];
    let refused = archiver.copy(cut, &place.archive, &mut |_| ());
    assert!(
        matches!(refused, Err(ArchiveError::NotBegun { .. })),
        "{refused:?}"
    );
    assert_eq!(archiver.begin(&place.archive).unwrap(), Begun::Now);
    assert_eq!(archiver.begin(&place.archive).unwrap(), Begun::Before);
    archiver.require_begun(&place.archive).unwrap();
    archive_half(&ledger, &place.archive);
    append(&mut ledger, ENTRIES..ENTRIES + 300, 10);
    ledger.checkpoint_now().unwrap();
    let mounted = place.archive.with_file_name("mounted");
    fs::rename(&place.archive, &mounted).unwrap();
    for _ in ["no directory", "an empty one"] {
        let refused = archiver.require_begun(&place.archive);
        assert!(
            matches!(refused, Err(ArchiveError::NotBegun { .. })),
            "{refused:?}"
        );
        let refused = archiver.copy(archiver.cuts()[2], &place.archive, &mut |_| ());
        assert!(
            matches!(refused, Err(ArchiveError::NotBegun { .. })),
            "{refused:?}"
        );
        drop(fs::create_dir(&place.archive));
    }
    assert!(fs::read_dir(&place.archive).unwrap().next().is_none());
    // An empty archive of a person's is whole by itself.
    assert_eq!(archiver.begin(&place.archive).unwrap(), Begun::Now);
    archiver.require_begun(&place.archive).unwrap();
    let empty = verify_dir(&place.archive, &verifying(), None, &mut |_| ()).unwrap();
    assert_eq!(empty.entries, 0);
}

#[test]
fn an_export_that_began_before_reads_to_its_end() {
    let (place, ledger) = Place::filled();
    let (reader, archiver) = (ledger.reader(), ledger.archiver());
    let cuts = archiver.cuts();
    let pinned = cuts[1];
    let pin = reader.pin(pinned).unwrap();
    let copied = begin_and_copy(&archiver, cuts[4], &place.archive, &mut |_| ());
    let forgotten = archiver.forget(&copied.unwrap().unwrap()).unwrap();
    assert_eq!((forgotten.deleted, forgotten.held), (2, 3));
    // Later readers are refused before they begin.
    assert_eq!(reader.first(), cuts[4]);
    assert!(matches!(reader.pin(pinned), Err(Error::Archived { .. })));
    assert!(reader.require(pinned).is_err());
    for (n, read) in (pinned..).zip(reader.entries(pinned..ENTRIES).unwrap()) {
        assert_eq!(read.unwrap(), (n, entry(n)));
    }
    assert_eq!(archiver.clean_up(&place.archive).unwrap().held, 3);
    drop(pin);
    assert_eq!(archiver.clean_up(&place.archive).unwrap().deleted, 3);
    assert_eq!(place.segments()[0], cuts[4]);
    assert!(matches!(reader.entry(pinned), Err(Error::Archived { .. })));
}

#[test]
fn an_archive_that_lost_segments_is_not_gone_on_with() {
    for lost in 0..3 {
        let (place, mut ledger) = Place::filled();
        archive_half(&ledger, &place.archive);
        append(&mut ledger, ENTRIES..ENTRIES + 300, 10);
        ledger.checkpoint_now().unwrap();
        let before = place.segments();
        let firsts = scan::list(&place.archive).unwrap();
        match lost {
            0 => fs::remove_file(place.in_archive(firsts[1])).unwrap(),
            1 => fs::remove_file(place.in_archive(*firsts.last().unwrap())).unwrap(),
            _ => bring_back(&place),
        }
        let before = match lost {
            2 => place.segments(),
            _ => before,
        };
        let archiver = ledger.archiver();
        let cut = archiver.cuts().pop().unwrap();
        let copied = begin_and_copy(&archiver, cut, &place.archive, &mut |_| ());
        assert!(copied.is_err(), "{lost}: {copied:?}");
        assert_eq!(place.segments(), before, "{lost}");
    }
}
