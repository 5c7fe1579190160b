//! Reads all segments of a ledger and tells whole entries, a torn tail and damage apart. Changes
//! nothing.
//!
//! A torn tail is the remains, after a power cut, of the one batch that was being written. It is at
//! the end of the last segment, beyond the last checkpoint, and no later batch follows it. Every
//! other place that holds no whole entry was durable once, so it is damage.

use std::{
    fs,
    io::{self, Read, Seek},
    path::{Path, PathBuf},
};

use crate::{
    Error,
    segment::{self, Bad, Frame, FrameReader, Next, Segment},
};

/// The content of the segment files.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The readable segments, up to the damage if there is any.
    pub(crate) segments: Vec<Segment>,
    pub(crate) torn: Option<Torn>,
    pub(crate) damage: Option<DamageAt>,
}

/// The remains of an unacknowledged write after a power cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment file.
    pub segment: PathBuf,
    /// Where the last whole entry ends.
    pub offset: u64,
    /// How many bytes behind it were cut off.
    pub bytes: u64,
}

/// Where a ledger is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamageAt {
    /// The file.
    pub segment: PathBuf,
    /// The byte in it where the damage begins.
    pub offset: u64,
    /// The first damaged entry.
    pub index: u64,
    /// The damage.
    pub reason: String,
}

impl DamageAt {
    pub(crate) fn new(
        segment: impl Into<PathBuf>,
        offset: u64,
        index: u64,
        reason: impl Into<String>,
    ) -> Self {
        Self {
            segment: segment.into(),
            offset,
            index,
            reason: reason.into(),
        }
    }

    /// The damage of an entry that the segments have.
    pub(crate) fn of_entry(
        ledger: &Path,
        segments: &[Segment],
        index: u64,
        reason: impl Into<String>,
    ) -> Self {
        match Segment::holding(segments, index) {
            Some(segment) => {
                Self::new(segment.path(ledger), segment.before(index).1, index, reason)
            }
            None => Self::new(segment::directory(ledger), 0, index, reason),
        }
    }
}

impl From<DamageAt> for Error {
    fn from(at: DamageAt) -> Self {
        Self::Damaged {
            segment: at.segment,
            offset: at.offset,
            index: at.index,
            reason: at.reason,
        }
    }
}

impl Scan {
    /// How many entries can be read.
    pub(crate) fn size(&self) -> u64 {
        self.segments.last().map_or(0, Segment::next)
    }
}

/// Reads everything and calls `entry` with each whole entry in order. `signed` is the last
/// checkpoint's size.
pub(crate) fn scan(
    ledger: &Path,
    signed: u64,
    entry: &mut dyn FnMut(&Frame<'_>),
) -> Result<Scan, Error> {
    let firsts = list(ledger)?;
    let mut scan = Scan {
        segments: Vec::new(),
        torn: None,
        damage: None,
    };
    for (number, first) in firsts.iter().enumerate() {
        let expected = scan.size();
        let path = Segment::empty(*first).path(ledger);
        if *first != expected {
            let reason = format!("the segment with entry {expected} is missing or incomplete");
            scan.damage = Some(DamageAt::new(path, 0, expected, reason));
            return Ok(scan);
        }
        let last = number + 1 == firsts.len();
        read_segment(&path, last, signed, &mut scan, entry)?;
        if scan.damage.is_some() {
            return Ok(scan);
        }
    }
    if scan.size() < signed {
        let end = scan.segments.last().map_or(0, |s| s.end);
        let place = scan.segments.last().map_or(0, |s| s.first);
        let path = Segment::empty(place).path(ledger);
        let reason = format!("it ends here, but a checkpoint signed {signed} entries");
        scan.damage = Some(DamageAt::new(path, end, scan.size(), reason));
        scan.torn = None;
    }
    Ok(scan)
}

/// The first indexes of the segment files, in order.
pub(crate) fn list(ledger: &Path) -> Result<Vec<u64>, Error> {
    let directory = segment::directory(ledger);
    let mut firsts = Vec::new();
    let entries = match fs::read_dir(&directory) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(firsts),
        entries => entries.map_err(Error::io("read", &directory))?,
    };
    for entry in entries {
        let entry = entry.map_err(Error::io("read", &directory))?;
        let name = entry.file_name();
        firsts.extend(name.to_str().and_then(segment::parse_file_name));
    }
    firsts.sort_unstable();
    Ok(firsts)
}

fn read_segment(
    path: &Path,
    last: bool,
    signed: u64,
    scan: &mut Scan,
    entry: &mut dyn FnMut(&Frame<'_>),
) -> Result<(), Error> {
    let first = scan.size();
    let read = |e| Error::io("read", path)(e);
    let length = fs::metadata(path).map_err(read)?.len();
    let mut reader = FrameReader::open(path, 0, length).map_err(read)?;
    if !reader.header_is(first).map_err(read)? {
        // A segment gets its name only after its header is durable, so this is no torn write.
        let damage = DamageAt::new(path, 0, first, "the segment's header is wrong");
        scan.damage = Some(damage);
        return Ok(());
    }
    let mut segment = Segment::empty(first);
    let bad = loop {
        match reader.next(segment.next()).map_err(read)? {
            Next::Entry(frame) => {
                segment.push(frame.disk_bytes());
                entry(&frame);
            }
            Next::Bad(bad) => break Some(bad),
            Next::End => break None,
        }
    };
    let (index, offset) = (segment.next(), segment.end);
    scan.segments.push(segment);
    let Some(bad) = bad else {
        return Ok(());
    };
    let torn =
        last && index >= signed && !later_batch(path, offset..length, index).map_err(read)?;
    if torn {
        scan.torn = Some(Torn {
            segment: path.to_owned(),
            offset,
            bytes: length - offset,
        });
    } else {
        scan.damage = Some(DamageAt::new(path, offset, index, bad.reason()));
    }
    Ok(())
}

/// Whether behind the bad entry `index` at `offset` there is a whole entry of a later batch.
fn later_batch(path: &Path, range: std::ops::Range<u64>, index: u64) -> io::Result<bool> {
    let bytes = read_range(path, range)?;
    let mut rest = bytes.as_slice();
    while let Some((_, behind)) = rest.split_first() {
        rest = behind;
        match segment::decode(rest) {
            Ok(frame) if frame.index > index && frame.starts_batch => return Ok(true),
            _ => {}
        }
    }
    Ok(false)
}

/// Stops where the file ended when it was measured: a writer may be appending.
fn read_range(path: &Path, range: std::ops::Range<u64>) -> io::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    file.seek(io::SeekFrom::Start(range.start))?;
    let mut bytes = Vec::new();
    file.take(range.end - range.start).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A bad entry in a part that was whole when the ledger was opened.
pub(crate) fn damaged_since(path: &Path, offset: u64, index: u64, bad: Option<Bad>) -> Error {
    let reason = bad.map_or("the file ends here", Bad::reason);
    DamageAt::new(path, offset, index, reason).into()
}
