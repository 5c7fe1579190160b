use std::{fs, os::unix::fs::PermissionsExt};

use taskpass_files::power_cut::Fuse;

use super::*;
use crate::{
    Ledger, Options, Priority, export,
    testing::{Scratch, append, entry, key, verifying},
    tree::{consistency_holds, inclusion_root, leaf_hash},
    verify::{Directory, Extent, verify_dir, verify_export},
};

mod hostile;

const ENTRIES: u64 = 700;

/// A ledger of small segments, and a place for its archive.
struct Place {
    scratch: Scratch,
    archive: PathBuf,
}

impl Place {
    fn new() -> Self {
        let scratch = Scratch::new();
        let archive = scratch.path.with_file_name("archive");
        Self { scratch, archive }
    }

    fn filled() -> (Self, Ledger) {
        let place = Self::new();
        let mut ledger = place.open();
        append(&mut ledger, 0..ENTRIES, 10);
        ledger.checkpoint_now().unwrap();
        (place, ledger)
    }

    fn options(&self) -> Options {
        Options {
            segment_bytes: 4096,
            ..Options::new(key())
        }
    }

    fn open(&self) -> Ledger {
        Ledger::open(&self.scratch.path, self.options()).unwrap().0
    }

    fn open_with_archive(&self) -> Ledger {
        let options = Options {
            archive: Some(self.archive.clone()),
            ..self.options()
        };
        Ledger::open(&self.scratch.path, options).unwrap().0
    }

    fn segments(&self) -> Vec<u64> {
        scan::list(&self.scratch.path).unwrap()
    }

    fn in_archive(&self, first: u64) -> PathBuf {
        segment::directory(&self.archive).join(segment::file_name(first))
    }

    fn verify(&self) -> Result<crate::verify::Verified, crate::verify::VerifyError> {
        let archives = [self.archive.clone()];
        let directory = Directory {
            ledger: &self.scratch.path,
            archives: &archives,
        };
        directory.verify(&verifying(), None, &mut |_| ())
    }
}

/// Copies as a person's command does, which may begin an archive.
fn begin_and_copy(
    archiver: &Archiver,
    cut: u64,
    archive: &Path,
    progress: &mut dyn FnMut(Copying),
) -> Result<Option<Copied>, ArchiveError> {
    archiver.begin(archive)?;
    archiver.copy(cut, archive, progress)
}

/// Archives about half of the ledger; returns where it begins then.
fn archive_half(ledger: &Ledger, archive: &Path) -> u64 {
    let archiver = ledger.archiver();
    let cuts = archiver.cuts();
    let cut = cuts[cuts.len() / 2];
    let copied = begin_and_copy(&archiver, cut, archive, &mut |_| ())
        .unwrap()
        .unwrap();
    assert_eq!(copied.next(), cut);
    assert!(archiver.forget(&copied).unwrap().deleted > 0);
    cut
}

fn assert_proves(ledger: &Ledger, size: u64) {
    let reader = ledger.reader();
    let root = reader.root_at(size).unwrap();
    for index in (0..size).step_by(29) {
        let proof = reader.inclusion_proof(index, size).unwrap();
        let found = inclusion_root(&leaf_hash(&entry(index)), index, size, &proof);
        assert_eq!(found, Some(root), "{index}");
    }
    for old in [1, 255, 256, 300, 512, size - 1] {
        let proof = reader.consistency_proof(old, size).unwrap();
        let old_root = reader.root_at(old).unwrap();
        assert!(consistency_holds((old, &old_root), (size, &root), &proof));
    }
}

#[test]
fn old_segments_leave_and_the_rest_goes_on() {
    let (place, mut ledger) = Place::filled();
    let root = ledger.reader().root().unwrap();
    let cut = archive_half(&ledger, &place.archive);
    assert!(cut > 256 && !cut.is_multiple_of(256), "{cut}");
    for first_run in [true, false] {
        let reader = ledger.reader();
        assert_eq!((reader.first(), reader.first_readable()), (cut, cut));
        assert_eq!(reader.root().unwrap(), root);
        assert_eq!(reader.entry(cut).unwrap(), entry(cut));
        let gone = reader.entry(cut - 1);
        assert!(matches!(gone, Err(Error::Archived { first, .. }) if first == cut));
        assert!(reader.require(cut - 1).is_err() && reader.require(cut).is_ok());
        assert_proves(&ledger, ENTRIES);
        if first_run {
            drop((reader, ledger));
            let opened = Ledger::open(&place.scratch.path, place.options()).unwrap();
            assert_eq!((opened.1.first, opened.1.size), (cut, ENTRIES));
            assert_eq!(opened.1.tiles_rebuilt, 0);
            ledger = opened.0;
        }
    }
    append(&mut ledger, ENTRIES..ENTRIES + 900, 10);
    assert_proves(&ledger, ENTRIES + 900);
    drop(ledger);
    let ledger = place.open();
    assert_proves(&ledger, ENTRIES + 900);
}

#[test]
fn archive_and_rest_verify_each_alone_and_together() {
    let (place, mut ledger) = Place::filled();
    let first = archive_half(&ledger, &place.archive);
    append(&mut ledger, ENTRIES..ENTRIES + 300, 10);
    ledger.checkpoint_now().unwrap();
    // A second time into the same archive.
    let cut = archive_half(&ledger, &place.archive);
    assert!(cut > first);
    let size = ENTRIES + 300;
    let alone = |path: &Path| {
        let found = verify_dir(path, &verifying(), None, &mut |_| ()).unwrap();
        (found.entries, found.extent)
    };
    assert_eq!(alone(&place.archive), (cut, Extent::Full));
    assert_eq!(alone(&place.scratch.path), (size - cut, Extent::From(cut)));
    let both = place.verify().unwrap();
    assert_eq!((both.entries, both.extent), (size, Extent::Full));
    let vkey = fs::read_to_string(place.archive.join("ledger.vkey")).unwrap();
    assert_eq!(vkey.trim().parse(), Ok(verifying()));
    // A third time into another one, which begins where the first one ends.
    let other = place.archive.with_file_name("other");
    let last = archive_half(&ledger, &other);
    assert_eq!(alone(&other), (last - cut, Extent::From(cut)));
    let missing = place.verify().unwrap_err().to_string();
    assert!(
        missing.contains(&format!("entry {cut} is missing")),
        "{missing}"
    );
    let archives = [other.clone(), place.archive.clone()];
    let directory = Directory {
        ledger: &place.scratch.path,
        archives: &archives,
    };
    let all = directory.verify(&verifying(), None, &mut |_| ()).unwrap();
    assert_eq!((all.entries, all.extent), (size, Extent::Full));
    // The first archive has nothing that would follow it.
    let again = archive_half(&ledger, &other);
    append(&mut ledger, size..size + 300, 10);
    ledger.checkpoint_now().unwrap();
    let cut = ledger.archiver().cuts().pop().unwrap();
    assert!(cut > again);
    let refused = begin_and_copy(&ledger.archiver(), cut, &place.archive, &mut |_| ());
    assert!(
        matches!(refused, Err(ArchiveError::Gap { .. })),
        "{refused:?}"
    );
}

#[test]
fn an_older_checkpoint_is_compared_where_its_entries_are() {
    let (place, mut ledger) = Place::filled();
    let older = ledger.checkpoint_now().unwrap();
    append(&mut ledger, ENTRIES..ENTRIES + 500, 10);
    ledger.checkpoint_now().unwrap();
    let cut = ledger.archiver().cuts().pop().unwrap();
    assert!(cut > older.size());
    let archiver = ledger.archiver();
    let copied = begin_and_copy(&archiver, cut, &place.archive, &mut |_| ()).unwrap();
    archiver.forget(&copied.unwrap()).unwrap();
    let rest = verify_dir(&place.scratch.path, &verifying(), Some(&older), &mut |_| ());
    assert!(rest.unwrap_err().to_string().contains("--archive DIR"));
    let archives = [place.archive.clone()];
    let both = Directory {
        ledger: &place.scratch.path,
        archives: &archives,
    };
    let found = both
        .verify(&verifying(), Some(&older), &mut |_| ())
        .unwrap();
    assert_eq!(found.continues, Some(older.size()));
}

#[test]
fn an_attached_archive_is_read_and_hashed() {
    let (place, ledger) = Place::filled();
    let cut = archive_half(&ledger, &place.archive);
    drop(ledger);
    let ledger = place.open_with_archive();
    let reader = ledger.reader();
    assert_eq!((reader.first(), reader.first_readable()), (cut, 0));
    for index in [0, 1, 63, 64, cut - 1, cut, ENTRIES - 1] {
        assert_eq!(reader.entry(index).unwrap(), entry(index));
    }
    let mut lines = Vec::new();
    export::write_full(&reader, &reader.checkpoint(), &mut lines).unwrap();
    let verified = verify_export(lines.as_slice(), &verifying(), None, &mut |_| ()).unwrap();
    assert_eq!((verified.entries, verified.extent), (ENTRIES, Extent::Full));
    // Tiles over archived entries are made again from the archive.
    fs::remove_dir_all(place.scratch.path.join("tile")).unwrap();
    drop((reader, ledger));
    assert_proves(&place.open_with_archive(), ENTRIES);
    // The archive is not mounted.
    let elsewhere = place.archive.with_file_name("elsewhere");
    fs::rename(&place.archive, &elsewhere).unwrap();
    let ledger = place.open_with_archive();
    let gone = ledger.reader().entry(0);
    assert!(matches!(gone, Err(Error::NotInArchive { .. })), "{gone:?}");
}

/// Changes the first entry of a segment in the archive, and mends its checksum.
fn change_first_entry(place: &Place, first: u64) {
    let path = place.in_archive(first);
    let length = fs::metadata(&path).unwrap().len();
    let file = scan::SegmentFile {
        ledger: &place.archive,
        first,
        is_last: false,
    };
    let mut bytes = segment::header(first);
    scan::read_segment(&file, 0, &mut |frame| {
        let mut entry = frame.bytes.to_vec();
        if frame.index == first {
            entry[12] ^= 1;
        }
        segment::encode(frame.index, frame.starts_batch, &entry, &mut bytes);
    })
    .unwrap();
    assert_eq!(bytes.len() as u64, length);
    fs::write(path, bytes).unwrap();
}

/// Each way in which the archive can be other than it was written, and the entry that is named.
#[test]
fn a_changed_missing_or_foreign_segment_is_noticed_with_its_place() {
    type Change = fn(&Place, &[u64]);
    let table: &[(&str, usize, Change)] = &[
        ("a byte flips", 1, |place, firsts| {
            let path = place.in_archive(firsts[1]);
            let mut bytes = fs::read(&path).unwrap();
            bytes[30] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        (
            "an entry is changed with its checksum",
            2,
            |place, firsts| {
                change_first_entry(place, firsts[2]);
            },
        ),
        ("a segment is missing", 1, |place, firsts| {
            fs::remove_file(place.in_archive(firsts[1])).unwrap();
        }),
        ("the first segment is missing", 1, |place, firsts| {
            fs::remove_file(place.in_archive(firsts[0])).unwrap();
        }),
        (
            "a segment stands in the place of another",
            1,
            |place, firsts| {
                fs::copy(place.in_archive(firsts[2]), place.in_archive(firsts[1])).unwrap();
            },
        ),
        ("a segment is cut off", 2, |place, firsts| {
            let path = place.in_archive(firsts[1]);
            let length = fs::metadata(&path).unwrap().len();
            fs::File::options()
                .write(true)
                .open(path)
                .unwrap()
                .set_len(length - 75)
                .unwrap();
        }),
    ];
    for (what, named, change) in table {
        let (place, ledger) = Place::filled();
        archive_half(&ledger, &place.archive);
        let firsts = scan::list(&place.archive).unwrap();
        drop(ledger);
        change(&place, &firsts);
        let error = place.verify().unwrap_err();
        let text = taskpass_core::with_sources(&error);
        let from = firsts[*named].saturating_sub(2);
        let near = (from..firsts[*named] + 2).any(|index| text.contains(&format!("entry {index}")));
        assert!(near, "{what}: {text}");
        // A broker that reads the archive believes it as little.
        let ledger = place.open_with_archive();
        let read = ledger.reader().entries(0..ENTRIES).unwrap();
        let read: Result<Vec<_>, _> = read.collect();
        assert!(
            matches!(
                read,
                Err(Error::DamagedArchive { .. } | Error::NotInArchive { .. })
            ),
            "{what}: {read:?}"
        );
    }
}

#[test]
fn a_copy_that_is_not_what_was_signed_keeps_the_segments() {
    let (place, ledger) = Place::filled();
    let before = place.segments();
    // The disk of the ledger lost a byte after the start.
    let path = segment::directory(&place.scratch.path).join(segment::file_name(before[1]));
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let archiver = ledger.archiver();
    let cut = archiver.cuts()[4];
    let refused = begin_and_copy(&archiver, cut, &place.archive, &mut |_| ());
    assert!(
        matches!(refused, Err(ArchiveError::NotCopied { .. })),
        "{refused:?}"
    );
    assert_eq!(place.segments(), before);
}

#[test]
fn an_archive_with_some_of_the_segments_is_gone_on_with_and_others_are_refused() {
    let (place, ledger) = Place::filled();
    let archiver = ledger.archiver();
    let cuts = archiver.cuts();
    let copied = begin_and_copy(&archiver, cuts[2], &place.archive, &mut |_| ()).unwrap();
    assert_eq!(copied.unwrap().segments().len(), 3);
    // The broker was killed here; a file with another content lies in the archive as well.
    let foreign = place.in_archive(cuts[3]);
    fs::write(&foreign, b"not a segment").unwrap();
    let refused = begin_and_copy(&archiver, cuts[5], &place.archive, &mut |_| ());
    assert!(
        matches!(refused, Err(ArchiveError::Foreign { .. })),
        "{refused:?}"
    );
    fs::remove_file(foreign).unwrap();
    let mut last = None;
    let copied = begin_and_copy(&archiver, cuts[5], &place.archive, &mut |it| {
        last = Some(it)
    });
    let copied = copied.unwrap().unwrap();
    assert_eq!(
        last.map(|it| (it.done, it.total)),
        Some((copied.bytes(), copied.bytes()))
    );
    archiver.forget(&copied).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.archive), 0o700);
    for file in [
        "checkpoint",
        "ledger.vkey",
        "segments/00000000000000000000.seg",
    ] {
        assert_eq!(mode(&place.archive.join(file)), 0o600, "{file}");
    }
    // Nothing is left to be copied, and the last segment always stays.
    assert_eq!(
        begin_and_copy(&archiver, cuts[5], &place.archive, &mut |_| ()).unwrap(),
        None
    );
    assert!(!archiver.cuts().contains(&ledger.reader().size()));
    fs::write(place.archive.join("ledger.vkey"), b"another").unwrap();
    let refused = begin_and_copy(&archiver, cuts[6], &place.archive, &mut |_| ());
    assert!(matches!(refused, Err(ArchiveError::OtherLedger { .. })));
}

#[test]
fn the_ledgers_own_place_is_no_archive() {
    let (place, ledger) = Place::filled();
    let own = &place.scratch.path;
    let link = own.with_file_name("link");
    std::os::unix::fs::symlink(own, &link).unwrap();
    let archiver = ledger.archiver();
    let cut = archiver.cuts()[2];
    for target in [
        own.clone(),
        own.join("deep"),
        own.parent().unwrap().to_owned(),
        link,
    ] {
        let refused = begin_and_copy(&archiver, cut, &target, &mut |_| ());
        assert!(
            matches!(refused, Err(ArchiveError::OwnPlace { .. })),
            "{target:?}: {refused:?}"
        );
    }
    let before = archiver.cuts();
    drop(ledger);
    let closed = begin_and_copy(&archiver, cut, &place.archive, &mut |_| ());
    assert!(matches!(closed, Err(ArchiveError::Closed)));
    assert_eq!(place.open().archiver().cuts(), before);
}

/// The power goes at each change of the disk, one after the other. The history is whole each time,
/// and archiving again completes it.
#[test]
fn killed_at_any_step_it_loses_nothing_and_can_be_repeated() {
    let template = Place::new();
    let mut ledger = template.open();
    append(&mut ledger, 0..300, 10);
    ledger.checkpoint_now().unwrap();
    let root = ledger.reader().root().unwrap();
    drop(ledger);
    for steps in 0.. {
        let place = Place::new();
        copy_all(&template.scratch.path, &place.scratch.path);
        let ledger = place.open();
        let archiver = ledger.archiver();
        let cut = archiver.cuts()[1];
        let fuse = Fuse::set(steps);
        let copied = begin_and_copy(&archiver, cut, &place.archive, &mut |_| ());
        let done = copied.and_then(|copied| archiver.forget(&copied.unwrap()));
        let survived = !fuse.blown();
        Fuse::clear();
        assert_eq!(done.is_ok(), survived, "{steps}: {done:?}");
        drop((archiver, ledger));
        let ledger = place.open_with_archive();
        let reader = ledger.reader();
        assert_eq!(reader.root().unwrap(), root, "{steps}");
        for (n, read) in (0..).zip(reader.entries(0..300).unwrap()) {
            assert_eq!(read.unwrap(), (n, entry(n)), "{steps}");
        }
        let archiver = ledger.archiver();
        archiver.begin(&place.archive).unwrap();
        archiver.clean_up(&place.archive).unwrap();
        if let Some(copied) = begin_and_copy(&archiver, cut, &place.archive, &mut |_| ()).unwrap() {
            archiver.forget(&copied).unwrap();
        }
        assert_eq!(reader.first(), cut, "{steps}");
        assert_eq!(place.segments().first(), Some(&cut), "{steps}");
        assert_eq!(place.verify().unwrap().entries, 300, "{steps}");
        if survived {
            assert!(steps > 15, "{steps} steps are too few to be all");
            return;
        }
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for found in fs::read_dir(from).unwrap() {
        let found = found.unwrap();
        match found.file_type().unwrap().is_dir() {
            true => copy_all(&found.path(), &to.join(found.file_name())),
            false => drop(fs::copy(found.path(), to.join(found.file_name())).unwrap()),
        }
    }
}

#[test]
fn segments_that_are_only_called_archived_are_missed() {
    let (place, ledger) = Place::filled();
    archive_half(&ledger, &place.archive);
    drop(ledger);
    let base = Base::path(&place.scratch.path);
    let original = fs::read(&base).unwrap();
    let refused = || Ledger::open(&place.scratch.path, place.options()).unwrap_err();
    // One more segment goes.
    let first = place.segments()[0];
    let path = segment::directory(&place.scratch.path).join(segment::file_name(first));
    let content = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(matches!(refused(), Error::Damaged { .. }));
    // The edge behind it is made without the ledger's key.
    let whole = place.whole();
    let edge = whole
        .archiver()
        .shared
        .edge_at(place.segments()[0])
        .unwrap();
    let other = SigningKey::from_seed("taskpass/acme.test", &[9; 32]).unwrap();
    Base::sign(edge, &other).store(&place.scratch.path).unwrap();
    assert!(matches!(refused(), Error::Base { .. }));
    // Without any base the ledger begins too late.
    fs::remove_file(&base).unwrap();
    assert!(matches!(refused(), Error::Damaged { .. }));
    fs::write(&base, original).unwrap();
    fs::write(&path, content).unwrap();
    place.open();
}

impl Place {
    /// A whole ledger with the same entries, elsewhere.
    fn whole(&self) -> Ledger {
        let path = self.scratch.path.with_file_name("whole");
        let mut ledger = Ledger::open(&path, self.options()).unwrap().0;
        let entries: Vec<Vec<u8>> = (0..ENTRIES).map(entry).collect();
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        ledger.append_batch(&entries, Priority::Normal).unwrap();
        ledger
    }
}
