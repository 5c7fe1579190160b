//! The form of segment files, and reading them from front to back.
//!
//! ```text
//! segment = header entry*
//! header  = "tpledgr1"  first index u64  crc32 of both u32
//! entry   = crc32 of the rest u32  length u32  index u64  bytes
//! ```
//!
//! All numbers are little-endian. The top bit of an entry's length marks the first entry of a
//! batch. If a later batch follows a bad entry, the entry was durable once: its damage is never
//! mistaken for a torn write.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The longest entry, the limit of C2SP tlog-tiles.
pub const ENTRY_BYTES_MAX: usize = 65_535;

pub(crate) const HEADER_BYTES: u64 = 20;
pub(crate) const FRAME_BYTES: usize = 16;
/// After this many entries, the offset of one is kept in memory.
pub(crate) const OFFSETS_EVERY: u64 = 64;

const MAGIC: &[u8; 8] = b"tpledgr1";
const BATCH_FLAG: u32 = 1 << 31;
const READ_BYTES: usize = 256 * 1024;

pub(crate) fn file_name(first: u64) -> String {
    format!("{first:020}.seg")
}

pub(crate) fn directory(ledger: &Path) -> PathBuf {
    ledger.join("segments")
}

/// The first index of a segment file, from its name.
pub(crate) fn parse_file_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg")?;
    let well_formed = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    well_formed.then(|| digits.parse().ok()).flatten()
}

pub(crate) fn header(first: u64) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&first.to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// Adds an entry to the buffer that is about to be written.
pub(crate) fn encode(index: u64, starts_batch: bool, bytes: &[u8], out: &mut Vec<u8>) {
    // INVARIANT: callers refuse entries above ENTRY_BYTES_MAX.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let length = if starts_batch {
        length | BATCH_FLAG
    } else {
        length
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&length.to_le_bytes());
    crc.update(&index.to_le_bytes());
    crc.update(bytes);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// An entry in the read buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Frame<'a> {
    pub(crate) index: u64,
    pub(crate) starts_batch: bool,
    pub(crate) bytes: &'a [u8],
}

impl Frame<'_> {
    pub(crate) const fn disk_bytes(&self) -> usize {
        FRAME_BYTES + self.bytes.len()
    }
}

/// Why the bytes at a place are not an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bad {
    /// More bytes are needed, this many in all.
    Incomplete(usize),
    Length,
    Checksum,
    Index,
}

impl Bad {
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Incomplete(_) => "the entry is incomplete",
            Self::Length => "the entry's length is impossible",
            Self::Checksum => "the entry's checksum is wrong",
            Self::Index => "another entry is in its place",
        }
    }
}

/// Reads the entry at the beginning of `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<Frame<'_>, Bad> {
    let incomplete = Bad::Incomplete(FRAME_BYTES);
    let (crc, checked) = bytes.split_first_chunk::<4>().ok_or(incomplete)?;
    let (length, rest) = checked.split_first_chunk::<4>().ok_or(incomplete)?;
    let (index, rest) = rest.split_first_chunk::<8>().ok_or(incomplete)?;
    let flagged = u32::from_le_bytes(*length);
    let length = usize::try_from(flagged & !BATCH_FLAG).unwrap_or(usize::MAX);
    if length == 0 || length > ENTRY_BYTES_MAX {
        return Err(Bad::Length);
    }
    let content = rest
        .get(..length)
        .ok_or(Bad::Incomplete(FRAME_BYTES + length))?;
    let checked = checked.get(..12 + length).unwrap_or_default();
    if crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return Err(Bad::Checksum);
    }
    Ok(Frame {
        index: u64::from_le_bytes(*index),
        starts_batch: flagged & BATCH_FLAG != 0,
        bytes: content,
    })
}

/// The index of the one entry that fills exactly these bytes.
fn whole(bytes: &[u8]) -> Option<u64> {
    // The length is compared first: a checksum at each place of a file's end takes too long.
    let length = bytes.get(4..8)?.first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length) & !BATCH_FLAG).ok()?;
    let fits = FRAME_BYTES.checked_add(length) == Some(bytes.len());
    fits.then(|| decode(bytes).ok().map(|frame| frame.index))
        .flatten()
}

/// Whether the last entry of a segment's file is the one before `next`. Reads only the file's end,
/// since there may be very many segments.
pub(crate) fn ends_before(file: &fs::File, next: u64) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let longest = (FRAME_BYTES + ENTRY_BYTES_MAX) as u64;
    let from = length.saturating_sub(longest);
    let mut tail = vec![0; usize::try_from(length - from).unwrap_or_default()];
    file.read_exact_at(&mut tail, from)?;
    let mut rest = tail.as_slice();
    while !rest.is_empty() {
        if whole(rest).is_some_and(|index| index.checked_add(1) == Some(next)) {
            return Ok(true);
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    Ok(false)
}

/// The answers of a [`FrameReader`].
#[derive(Debug)]
pub(crate) enum Next<'a> {
    Entry(Frame<'a>),
    Bad(Bad),
    End,
}

/// Reads a segment's entries in order with one buffer.
#[derive(Debug)]
pub(crate) struct FrameReader {
    file: fs::File,
    buffer: Vec<u8>,
    /// The range of unread bytes in the buffer.
    unread: std::ops::Range<usize>,
    /// The offset of the unread bytes in the file.
    position: u64,
    /// The offset at which reading stops.
    end: u64,
}

impl FrameReader {
    /// Reads `path` from `position` to `end`.
    pub(crate) fn open(path: &Path, position: u64, end: u64) -> io::Result<Self> {
        Ok(Self::over(fs::File::open(path)?, position, end))
    }

    /// Reads an open file from `position` to `end`.
    pub(crate) const fn over(file: fs::File, position: u64, end: u64) -> Self {
        Self {
            file,
            buffer: Vec::new(),
            unread: 0..0,
            position,
            end,
        }
    }

    /// Where the next entry begins.
    pub(crate) const fn position(&self) -> u64 {
        self.position
    }

    /// Whether the file begins with the header of the segment of first entry `first`; stands behind
    /// the header then.
    pub(crate) fn header_is(&mut self, first: u64) -> io::Result<bool> {
        let expected = header(first);
        self.fill(expected.len())?;
        let fits = self.window().starts_with(&expected);
        if fits {
            self.consume(expected.len());
        }
        Ok(fits)
    }

    /// The entry at the current position, which must have the index `expected`; stands behind it
    /// then.
    pub(crate) fn next(&mut self, expected: u64) -> io::Result<Next<'_>> {
        let mut wanted = FRAME_BYTES;
        loop {
            self.fill(wanted)?;
            if self.unread.is_empty() {
                return Ok(Next::End);
            }
            let bytes = match decode(self.window()) {
                Ok(frame) if frame.index == expected => frame.disk_bytes(),
                Ok(_) => return Ok(Next::Bad(Bad::Index)),
                Err(Bad::Incomplete(all)) if all > wanted => {
                    wanted = all;
                    continue;
                }
                Err(bad) => return Ok(Next::Bad(bad)),
            };
            let start = self.unread.start;
            let header = start..start + FRAME_BYTES;
            let content = start + FRAME_BYTES..start + bytes;
            self.consume(bytes);
            let flags = self.buffer.get(header).and_then(|h| h.get(7)).copied();
            return Ok(Next::Entry(Frame {
                index: expected,
                starts_batch: flags.is_some_and(|byte| byte & 0x80 != 0),
                bytes: self.buffer.get(content).unwrap_or_default(),
            }));
        }
    }

    fn window(&self) -> &[u8] {
        self.buffer.get(self.unread.clone()).unwrap_or_default()
    }

    fn consume(&mut self, bytes: usize) {
        self.unread.start += bytes;
        self.position += bytes as u64;
    }

    /// Makes at least `wanted` bytes available, or all up to the end.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if self.unread.len() >= wanted {
            return Ok(());
        }
        if self.buffer.is_empty() {
            let all = usize::try_from(self.end.saturating_sub(self.position));
            self.buffer
                .resize(all.unwrap_or(usize::MAX).min(READ_BYTES), 0);
        }
        self.buffer.copy_within(self.unread.clone(), 0);
        self.unread = 0..self.unread.len();
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        while self.unread.len() < wanted {
            let at = self.position + self.unread.len() as u64;
            let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
            let free = self.buffer.get_mut(self.unread.end..).unwrap_or_default();
            let room = free.len().min(left);
            let free = free.get_mut(..room).unwrap_or_default();
            if free.is_empty() {
                break;
            }
            match self.file.read_at(free, at) {
                Ok(0) => break,
                Ok(read) => self.unread.end += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

/// The facts about a segment that are kept in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    pub(crate) count: u64,
    /// Where its last entry ends in the file.
    pub(crate) end: u64,
    /// Where every 64th entry begins.
    offsets: Vec<u64>,
    /// The archive that has it; none for the ledger's own directory.
    home: Option<Arc<Path>>,
}

impl Segment {
    pub(crate) const fn empty(first: u64) -> Self {
        Self {
            first,
            count: 0,
            end: HEADER_BYTES,
            offsets: Vec::new(),
            home: None,
        }
    }

    /// The same segment in an archive.
    pub(crate) fn in_archive(self, archive: &Arc<Path>) -> Self {
        Self {
            home: Some(Arc::clone(archive)),
            ..self
        }
    }

    /// A segment that was not read: its end is that of its file, and an entry is found from its
    /// beginning on.
    pub(crate) fn unread(first: u64, next: u64, end: u64) -> Self {
        Self {
            count: next.saturating_sub(first),
            end,
            ..Self::empty(first)
        }
    }

    /// Whether nothing but its ends is known.
    pub(crate) const fn is_unread(&self) -> bool {
        self.count > 0 && self.offsets.is_empty()
    }

    /// The segment of an entry among segments in order.
    pub(crate) fn holding(segments: &[Self], index: u64) -> Option<&Self> {
        let behind = segments.partition_point(|segment| segment.first <= index);
        segments.get(behind.checked_sub(1)?)
    }

    /// Notes one more entry of so many bytes on disk.
    pub(crate) fn push(&mut self, disk_bytes: usize) {
        if self.count.is_multiple_of(OFFSETS_EVERY) {
            self.offsets.push(self.end);
        }
        self.count += 1;
        self.end += disk_bytes as u64;
    }

    /// The index behind its last entry.
    pub(crate) const fn next(&self) -> u64 {
        self.first + self.count
    }

    /// A known entry at or before `index`: its index and offset.
    pub(crate) fn before(&self, index: u64) -> (u64, u64) {
        let block = index.saturating_sub(self.first) / OFFSETS_EVERY;
        let offset = usize::try_from(block)
            .ok()
            .and_then(|b| self.offsets.get(b));
        match offset {
            Some(offset) => (self.first + block * OFFSETS_EVERY, *offset),
            None => (self.first, HEADER_BYTES),
        }
    }

    /// Where the block of entries that `index` is in ends.
    pub(crate) fn block_end(&self, index: u64) -> u64 {
        let block = index.saturating_sub(self.first) / OFFSETS_EVERY + 1;
        let offset = usize::try_from(block)
            .ok()
            .and_then(|b| self.offsets.get(b));
        offset.copied().unwrap_or(self.end)
    }

    pub(crate) fn path(&self, ledger: &Path) -> PathBuf {
        directory(self.home.as_deref().unwrap_or(ledger)).join(file_name(self.first))
    }
}
