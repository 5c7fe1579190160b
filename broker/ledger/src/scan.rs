//! Reads all segments of a ledger and tells whole entries, a torn tail and damage apart. Changes
//! nothing.
//!
//! A torn tail is the remains, after a power cut, of the one batch that was being written. It is at
//! the end of the last segment, beyond the last checkpoint, and no later batch follows it. Every
//! other place that holds no whole entry was durable once, so it is damage.

use std::{
    fs,
    io::{self, Read, Seek},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use crate::{
    Error,
    segment::{self, Bad, Frame, FrameReader, Next, Segment},
};

/// The content of the segment files.
#[derive(Debug)]
pub(crate) struct Scan {
    /// The first entry that is expected.
    pub(crate) first: u64,
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

impl DamageAt {
    /// The same damage, of an archive.
    pub(crate) fn in_archive(self) -> Error {
        Error::DamagedArchive {
            segment: self.segment,
            offset: self.offset,
            index: self.index,
            reason: self.reason,
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

/// The content of one segment file.
#[derive(Debug)]
pub(crate) enum Content {
    /// Its header is wrong.
    Headless,
    /// Whole entries, and the bad place behind them if there is one.
    Entries(Segment, Option<BadPlace>),
}

/// A place in a segment that holds no whole entry.
#[derive(Debug)]
pub(crate) struct BadPlace {
    bad: Bad,
    /// How many bytes there are from the place on.
    bytes: u64,
    /// Whether a whole entry of a later batch stands behind it.
    before_later_batch: bool,
}

impl Scan {
    /// Nothing was read yet; the entries before `first` are elsewhere.
    pub(crate) const fn from(first: u64) -> Self {
        Self {
            first,
            segments: Vec::new(),
            torn: None,
            damage: None,
        }
    }

    /// How many entries can be read.
    pub(crate) fn size(&self) -> u64 {
        self.segments.last().map_or(self.first, Segment::next)
    }

    /// Adds the next segment file. Returns whether the ledger can be read beyond it.
    pub(crate) fn add(
        &mut self,
        content: Content,
        at: &SegmentFile<'_>,
        signed: u64,
    ) -> ControlFlow<()> {
        let expected = self.size();
        let damage = |offset, index, reason: &str| DamageAt::new(at.path(), offset, index, reason);
        if at.first != expected {
            let reason = format!("the segment with entry {expected} is missing or incomplete");
            self.damage = Some(damage(0, expected, &reason));
            return ControlFlow::Break(());
        }
        let Content::Entries(segment, bad) = content else {
            // A segment gets its name only after its header is durable, so this is no torn write.
            self.damage = Some(damage(0, expected, "the segment's header is wrong"));
            return ControlFlow::Break(());
        };
        let (index, offset) = (segment.next(), segment.end);
        self.segments.push(segment);
        let Some(place) = bad else {
            return ControlFlow::Continue(());
        };
        if at.is_last && index >= signed && !place.before_later_batch {
            self.torn = Some(Torn {
                segment: at.path(),
                offset,
                bytes: place.bytes,
            });
            return ControlFlow::Continue(());
        }
        self.damage = Some(damage(offset, index, place.bad.reason()));
        ControlFlow::Break(())
    }

    /// Compares the entries with the size that a checkpoint signed, once all segments were added.
    pub(crate) fn finish(mut self, ledger: &Path, signed: u64) -> Self {
        if self.damage.is_none() && self.size() < signed {
            let end = self.segments.last().map_or(0, |s| s.end);
            let place = self.segments.last().map_or(self.first, |s| s.first);
            let path = Segment::empty(place).path(ledger);
            let reason = format!("it ends here, but a checkpoint signed {signed} entries");
            self.damage = Some(DamageAt::new(path, end, self.size(), reason));
            self.torn = None;
        }
        self
    }
}

/// A segment file by the index of its first entry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentFile<'a> {
    pub(crate) ledger: &'a Path,
    pub(crate) first: u64,
    pub(crate) is_last: bool,
}

impl BadPlace {
    pub(crate) const fn reason(&self) -> &'static str {
        self.bad.reason()
    }
}

impl<'a> SegmentFile<'a> {
    /// The segment files from the entry `first` on. Earlier segments are in an archive, and their
    /// files were not deleted yet or came back: nothing reads them.
    pub(crate) fn from(ledger: &'a Path, first: u64) -> Result<Vec<Self>, Error> {
        let mut files = Self::all(ledger)?;
        files.retain(|file| file.first >= first);
        Ok(files)
    }

    /// All segment files in order.
    pub(crate) fn all(ledger: &'a Path) -> Result<Vec<Self>, Error> {
        let firsts = list(ledger)?;
        let last = firsts.last().copied();
        let place = |first| Self {
            ledger,
            first,
            is_last: Some(first) == last,
        };
        Ok(firsts.into_iter().map(place).collect())
    }

    pub(crate) fn path(&self) -> PathBuf {
        Segment::empty(self.first).path(self.ledger)
    }
}

/// Reads `files`, which begin with the entry `first`, and calls `entry` with each whole entry in
/// order. `signed` is the last checkpoint's size.
pub(crate) fn scan(
    ledger: &Path,
    files: &[SegmentFile<'_>],
    first: u64,
    signed: u64,
    entry: &mut dyn FnMut(&Frame<'_>),
) -> Result<Scan, Error> {
    let mut scan = Scan::from(first);
    for place in files {
        let content = read_segment(place, signed, entry)?;
        if scan.add(content, place, signed).is_break() {
            break;
        }
    }
    Ok(scan.finish(ledger, signed))
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

/// Reads one segment file and calls `entry` with each whole entry in order.
pub(crate) fn read_segment(
    place: &SegmentFile<'_>,
    signed: u64,
    entry: &mut dyn FnMut(&Frame<'_>),
) -> Result<Content, Error> {
    let path = place.path();
    let file = fs::File::open(&path).map_err(Error::io("read", path))?;
    read_open_segment(file, place, signed, entry)
}

/// Reads a segment file that is open already. `place` says which one it is.
pub(crate) fn read_open_segment(
    file: fs::File,
    place: &SegmentFile<'_>,
    signed: u64,
    entry: &mut dyn FnMut(&Frame<'_>),
) -> Result<Content, Error> {
    let path = place.path();
    let read = |e| Error::io("read", path.as_path())(e);
    let length = file.metadata().map_err(read)?.len();
    let mut reader = FrameReader::over(file, 0, length);
    if !reader.header_is(place.first).map_err(read)? {
        return Ok(Content::Headless);
    }
    let mut segment = Segment::empty(place.first);
    let bad = loop {
        match reader.next(segment.next()).map_err(read)? {
            Next::Entry(frame) => {
                segment.push(frame.disk_bytes());
                entry(&frame);
            }
            Next::Bad(bad) => break bad,
            Next::End => return Ok(Content::Entries(segment, None)),
        }
    };
    let (index, offset) = (segment.next(), segment.end);
    // Only a place that may be torn is worth the search: it reads all that is behind.
    let may_be_torn = place.is_last && index >= signed;
    let place = BadPlace {
        bad,
        bytes: length - offset,
        before_later_batch: may_be_torn
            && later_batch(&path, offset..length, index).map_err(read)?,
    };
    Ok(Content::Entries(segment, Some(place)))
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
