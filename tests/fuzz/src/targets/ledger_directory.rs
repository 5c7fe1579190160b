//! The files of a ledger. The first byte chooses: the first segment as it is, or its entries with
//! valid checksums. Then come the first segment, the checkpoint, a second segment, and the base
//! of a ledger with an archive. No input can sign a base.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use taskpass_ledger::{
    Damage, Ledger, Options,
    disk::{Disk, DiskFile, SystemDisk},
    verify::verify_dir,
};

use crate::{fixtures, input, wording};

pub(crate) fn run(data: &[u8]) {
    let (how, rest) = input::choice(data);
    let parts = input::parts(rest);
    let mut parts = parts.iter();
    let segment = parts.next().copied().unwrap_or_default();
    let (segment, next_index) = if how & 1 == 0 {
        (segment.to_vec(), fixtures::ENTRIES)
    } else {
        frames(segment)
    };
    let ledger = empty_directory();
    write(ledger, &format!("segments/{:020}.seg", 0), &segment);
    if let Some(checkpoint) = parts.next() {
        write(ledger, "checkpoint", checkpoint);
    }
    if let Some(second) = parts.next() {
        write(ledger, &format!("segments/{next_index:020}.seg"), second);
    }
    let is_whole = parts.next().is_none_or(|base| {
        write(ledger, "base", base);
        false
    });
    verify(ledger);
    let damage = if how & 2 == 0 {
        Damage::Refuse
    } else {
        Damage::Accept
    };
    open(ledger, damage, is_whole);
}

/// A segment of these entries. In the input an entry is a byte with a top bit that begins a batch,
/// the length in two bytes, and the content.
fn frames(mut data: &[u8]) -> (Vec<u8>, u64) {
    let mut segment = b"tpledgr1".to_vec();
    segment.extend_from_slice(&0_u64.to_le_bytes());
    segment.extend_from_slice(&crc32fast::hash(&segment).to_le_bytes());
    let mut index = 0_u64;
    while let Some(([flags, high, low], rest)) = data.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (content, rest) = rest.split_at(length);
        let length = u32::try_from(length).expect("two bytes") | u32::from(flags >> 7) << 31;
        let checked = [
            &length.to_le_bytes(),
            index.to_le_bytes().as_slice(),
            content,
        ]
        .concat();
        segment.extend_from_slice(&crc32fast::hash(&checked).to_le_bytes());
        segment.extend_from_slice(&checked);
        index += 1;
        data = rest;
    }
    (segment, index)
}

/// Asserts that only the signed history, or a beginning of it, verifies.
fn verify(ledger: &Path) {
    let history = fixtures::history();
    match verify_dir(ledger, &history.key, Some(&history.older), &mut |_| ()) {
        Ok(verified) => assert!(verified.entries >= history.older.size()),
        Err(error) => wording::one_line_each(&error, 1000),
    }
}

/// Asserts that a ledger which opens can be read to its end, also the next time, and that a ledger
/// opens after its damage was accepted.
fn open(directory: &Path, damage: Damage, is_whole: bool) {
    let (ledger, report) = match Ledger::open(directory, options(directory, damage)) {
        Ok(opened) => opened,
        Err(error) => {
            wording::one_line_each(&error, 1000);
            assert!(damage == Damage::Refuse || !is_whole, "{error}");
            return;
        }
    };
    let reader = ledger.reader();
    let mut entries = reader.entries(0..report.size).expect("what is there");
    let mut count = 0;
    while entries.next_entry().expect("a whole entry").is_some() {
        count += 1;
    }
    assert_eq!(count, report.size);
    assert_eq!(reader.root().ok(), reader.root_at(report.size).ok());
    drop(ledger);
    let (_ledger, again) =
        Ledger::open(directory, options(directory, Damage::Refuse)).expect("it was mended");
    assert_eq!(again.size, report.size);
    assert_eq!((again.torn, again.accepted), (None, Vec::new()));
}

fn options(directory: &Path, damage: Damage) -> Options {
    let key_directory = directory.parent().expect("the scratch directory");
    drop(fs::remove_file(key_directory.join("ledger.key")));
    Options {
        damage,
        disk: Arc::new(WithoutSync),
        ..Options::new(fixtures::ledger_key(key_directory))
    }
}

fn empty_directory() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let ledger = MADE.get_or_init(|| {
        tempfile::tempdir()
            .expect("a directory")
            .keep()
            .join("ledger")
    });
    drop(fs::remove_dir_all(ledger));
    fs::create_dir_all(ledger.join("segments")).expect("a directory");
    ledger
}

fn write(directory: &Path, name: &str, content: &[u8]) {
    fs::write(directory.join(name), content).expect("a file");
}

/// The system's disk without `fdatasync`, so that inputs run fast.
#[derive(Debug)]
struct WithoutSync;

#[derive(Debug)]
struct HastyFile(Box<dyn DiskFile>);

impl Disk for WithoutSync {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HastyFile(SystemDisk.create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(HastyFile(SystemDisk.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        SystemDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        SystemDisk.remove(path)
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for HastyFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, end: u64) -> io::Result<()> {
        self.0.allocate(end)
    }

    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }
}
