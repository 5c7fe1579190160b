//! Opening a ledger: its entries, the remains of a power cut, and damage.
//!
//! Every entry is hashed, and the hashes must lead to the signed root. A checksum finds a bad disk;
//! a writer of the files mends the checksum, but has no key to sign another root. Entries that are
//! younger than the checkpoint, of the last second before a crash, have only their checksums.
//!
//! The entries of a large ledger are hashed while it is in use already (`resume.rs`).

use std::{
    fs::{self, File, TryLockError},
    io::{self, Seek},
    path::{Path, PathBuf},
    sync::Arc,
};

use taskpass_files::create_dir_all;

use crate::{
    Checkpoint, DamageAt, Error, Ledger, SEGMENT_BYTES, SigningKey, Torn, VerifyingKey,
    attached::Attached,
    base::Base,
    checkpoint::{self, checkpoint_path},
    disk::{Disk, SystemDisk},
    forest::{self, Forest},
    genuine,
    resume::resume,
    scan::{self, Scan, SegmentFile},
    segment::{self, HEADER_BYTES, Segment},
    shared::{Shared, State},
    survey::{self, Survey},
    tail::{Failure, Tail},
    tiles::Edge,
    tree::empty_root,
};

/// Hashing so many bytes takes some 50 ms on one core without SHA-256 instructions.
const HASH_FIRST_BYTES: u64 = 8 * 1024 * 1024;

/// The treatment of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// Do not open; the error names the place.
    Refuse,
    /// Move the unreadable parts to `*.damaged`, go on with the entries before them, and sign these
    /// entries.
    ///
    /// An auditor with an older checkpoint sees that the history was cut.
    Accept,
}

/// How to open a ledger.
#[derive(Debug)]
pub struct Options {
    /// Signs the checkpoints; its name is the ledger's origin.
    pub key: SigningKey,
    /// The treatment of damage.
    pub damage: Damage,
    /// The disk; any other than [`SystemDisk`] is for tests.
    pub disk: Arc<dyn Disk>,
    /// The archive of old segments, to read them from. It is looked at when one of its entries is
    /// asked for.
    pub archive: Option<PathBuf>,
    /// Once a segment has grown to this, the next batch begins a new one.
    pub segment_bytes: u64,
    /// A ledger with more bytes than this opens before all its entries are hashed; see
    /// [`Ledger::unhashed`].
    pub hash_first_bytes: u64,
}

impl Options {
    /// The machine's file system, and damage is refused.
    pub fn new(key: SigningKey) -> Self {
        Self {
            key,
            damage: Damage::Refuse,
            disk: Arc::new(SystemDisk),
            archive: None,
            segment_bytes: SEGMENT_BYTES,
            hash_first_bytes: HASH_FIRST_BYTES,
        }
    }
}

/// The findings of opening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// Whether the ledger was made now.
    pub created: bool,
    /// How many entries it has.
    pub size: u64,
    /// The first of them that this machine keeps; the others are in an archive.
    pub first: u64,
    /// How many of them the checkpoint on disk had signed.
    pub signed: u64,
    /// The unfinished write that was cut off.
    pub torn: Option<Torn>,
    /// Damage that was accepted, in the order it was found.
    pub accepted: Vec<Accepted>,
    /// Tile files that were made again.
    pub tiles_rebuilt: u64,
}

/// Damage that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accepted {
    /// The damage.
    pub at: DamageAt,
    /// The files with the unreadable parts.
    pub moved: Vec<PathBuf>,
}

impl Ledger {
    /// Opens the ledger in `directory`, or makes a new one there. Repairs the remains of a power
    /// cut, and reports them.
    ///
    /// A damaged ledger is not opened, unless [`Options::damage`] accepts the damage.
    pub fn open(directory: &Path, options: Options) -> Result<(Self, OpenReport), Error> {
        let lock = prepare(directory)?;
        let Options {
            key,
            damage,
            disk,
            archive,
            segment_bytes,
            hash_first_bytes,
        } = options;
        let mut opening = Opening {
            ledger: directory,
            disk,
            damage,
            hash_first_bytes,
            accepted: Vec::new(),
        };
        let created = opening.is_new()?;
        if created {
            let empty = Checkpoint::sign(0, empty_root(), &key);
            checkpoint::store(opening.disk.as_ref(), directory, &empty)?;
        }
        let base = opening.base(key.verifying_key())?;
        let first = base.size();
        let mut checkpoint = opening.checkpoint(key.verifying_key(), first)?;
        let signed = checkpoint.as_ref().map_or(0, Checkpoint::size);
        let survey = opening.survey(&mut checkpoint, base)?;
        let tiles_rebuilt = opening.compare(&mut checkpoint, &survey)?;
        opening.remove_mark()?;
        let Survey {
            scan,
            edge,
            hashed_from,
            ..
        } = survey;
        let mut segments = scan.segments;
        if segments.is_empty() {
            segments.push(Segment::empty(first));
        }
        let tail = opening.tail(&segments)?;
        let checkpoint = match checkpoint {
            Some(checkpoint) => checkpoint,
            None => {
                let checkpoint = Checkpoint::sign(edge.size(), edge.root(), &key);
                checkpoint::store(opening.disk.as_ref(), directory, &checkpoint)?;
                checkpoint
            }
        };
        let report = OpenReport {
            created,
            first,
            size: edge.size(),
            signed,
            torn: scan.torn,
            accepted: opening.accepted,
            tiles_rebuilt,
        };
        let state = State {
            first,
            segments,
            leaving: Vec::new(),
            edge,
            checkpoint: Arc::new(checkpoint),
        };
        let shared = Shared::new(directory.to_owned(), archive.map(Attached::new), state);
        let mut ledger = Ledger::assemble(shared, key, opening.disk, tail, segment_bytes, lock);
        ledger.leave_unhashed(first..hashed_from);
        Ok((ledger, report))
    }
}

/// Makes the directories, readable by their owner only, and takes the lock.
fn prepare(ledger: &Path) -> Result<File, Error> {
    let segments = segment::directory(ledger);
    create_dir_all(&segments).map_err(|e| Error::io(e.action, e.path)(e.source))?;
    let path = ledger.join("lock");
    let lock = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            path: ledger.to_owned(),
        }),
        Err(TryLockError::Error(e)) => Err(Error::io("lock", path)(e)),
    }
}

struct Opening<'a> {
    ledger: &'a Path,
    disk: Arc<dyn Disk>,
    damage: Damage,
    hash_first_bytes: u64,
    accepted: Vec<Accepted>,
}

impl Opening<'_> {
    fn is_new(&self) -> Result<bool, Error> {
        let checkpoint = checkpoint_path(self.ledger);
        let exists = checkpoint
            .try_exists()
            .map_err(Error::io("read", &checkpoint))?;
        let has_base = Base::path(self.ledger).symlink_metadata().is_ok();
        Ok(!exists && !has_base && scan::list(self.ledger)?.is_empty())
    }

    /// The edge over the archived entries. Segments of them that are here are not read and not
    /// deleted: a person may have put them back, and the archive may have none any more. Deleting
    /// belongs to archiving, which looks into the archive first.
    fn base(&self, key: &VerifyingKey) -> Result<Edge, Error> {
        let Some(base) = Base::read(self.ledger, key)? else {
            return Ok(Edge::default());
        };
        let firsts = scan::list(self.ledger)?;
        let ignored = firsts.iter().filter(|it| **it < base.size()).count();
        if ignored > 0 {
            tracing::info!(
                ignored,
                "segments before the ledger's beginning are not read; `taskpassd ledger archive` deletes those that are in the archive"
            );
        }
        Ok(base.into_edge())
    }

    /// The checkpoint; none if it is unusable and that is accepted.
    fn checkpoint(&mut self, key: &VerifyingKey, begins: u64) -> Result<Option<Checkpoint>, Error> {
        let path = checkpoint_path(self.ledger);
        let problem = match checkpoint::read(&path, key) {
            // Before any change: an older backup may lie over a newer ledger.
            Ok(checkpoint) if checkpoint.size() < begins => Error::BaseAhead {
                path: Base::path(self.ledger),
                begins,
                signed: checkpoint.size(),
            },
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            Err(error @ (Error::Damaged { .. } | Error::Checkpoint { .. })) => error,
            Err(error) => return Err(error),
        };
        if self.damage == Damage::Refuse {
            return Err(problem);
        }
        let at = DamageAt::new(path, 0, 0, problem.to_string());
        let moved = self.set_checkpoint_aside()?;
        self.accepted.push(Accepted { at, moved });
        Ok(None)
    }

    /// Reads and hashes the segments; cuts a torn tail, and sets damage aside where that is
    /// accepted.
    fn survey(&mut self, checkpoint: &mut Option<Checkpoint>, base: Edge) -> Result<Survey, Error> {
        let signed = checkpoint.as_ref().map_or(0, Checkpoint::size);
        let resumed = match checkpoint {
            // Who accepts damage wants to know all of it.
            Some(signed) if self.damage == Damage::Refuse && !self.is_marked() => {
                resume(self.ledger, signed, base.size(), self.hash_first_bytes)?
            }
            _ => None,
        };
        let survey = match resumed {
            Some(resumed) => resumed,
            None => survey::survey(self.ledger, signed, base)?,
        };
        let scan = &survey.scan;
        if let Some(torn) = &scan.torn {
            tracing::warn!(segment = %torn.segment.display(), offset = torn.offset, bytes = torn.bytes, "an unfinished write was cut off the ledger");
            self.cut(&torn.segment, torn.offset)?;
        }
        if let Some(at) = &scan.damage {
            if self.damage == Damage::Refuse {
                return Err(at.clone().into());
            }
            let mut moved = self.set_segments_aside(at, scan)?;
            if scan.size() < signed {
                moved.extend(self.set_checkpoint_aside()?);
                *checkpoint = None;
            }
            self.accepted.push(Accepted {
                at: at.clone(),
                moved,
            });
        }
        Ok(survey)
    }

    /// Whether damage was found while the ledger was in use.
    fn is_marked(&self) -> bool {
        genuine::mark(self.ledger).symlink_metadata().is_ok()
    }

    /// Takes the mark away: every entry was hashed, or damage was accepted.
    fn remove_mark(&self) -> Result<(), Error> {
        let path = genuine::mark(self.ledger);
        match self.disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
            _ => Ok(()),
        }
    }

    /// Compares the hashed entries with the signed root, and makes wrong tiles again from them.
    /// Returns how many.
    fn compare(
        &mut self,
        checkpoint: &mut Option<Checkpoint>,
        survey: &Survey,
    ) -> Result<u64, Error> {
        let signed = checkpoint
            .as_ref()
            .map(|signed| (signed.size(), *signed.root()));
        if let Some((size, root)) = signed
            && survey.signed_root != Some(root)
        {
            let index = survey.differs.unwrap_or(0);
            let reason =
                format!("the entries up to {size} are not those that the checkpoint signed");
            let segments = &survey.scan.segments;
            let at = DamageAt::of_entry(self.ledger, segments, index, reason);
            if self.damage == Damage::Refuse {
                return Err(at.into());
            }
            let moved = self.set_checkpoint_aside()?;
            self.accepted.push(Accepted { at, moved });
            *checkpoint = None;
        }
        // From here on the entries decide: a person or the signed root vouches for them.
        for across in &survey.wrong_across {
            forest::write(self.ledger, across);
        }
        let mut forest = Forest {
            ledger: self.ledger,
            segments: &survey.scan.segments,
            trusted: survey.edge.size(),
            keeps: true,
            rebuilt: 0,
        };
        for (level, index) in &survey.wrong_tiles {
            forest.remake(*level, *index)?;
        }
        Ok(forest.rebuilt + survey.wrong_across.len() as u64)
    }

    fn tail(&self, segments: &[Segment]) -> Result<Tail, Error> {
        match segments.last() {
            Some(last) if last.path(self.ledger).exists() => {
                Tail::open(&self.disk, self.ledger, last)
            }
            last => Tail::create(&self.disk, self.ledger, last.map_or(0, |it| it.first)).map_err(
                |failure| match failure {
                    Failure::Clean(error) | Failure::Unknown(error) => error,
                },
            ),
        }
    }

    fn cut(&self, path: &Path, length: u64) -> Result<(), Error> {
        let file = self.disk.open(path).map_err(Error::io("open", path))?;
        file.set_len(length)
            .and_then(|()| file.sync_data())
            .map_err(Error::io("cut", path))
    }

    fn set_checkpoint_aside(&self) -> Result<Vec<PathBuf>, Error> {
        let path = checkpoint_path(self.ledger);
        if path.symlink_metadata().is_err() {
            return Ok(Vec::new());
        }
        let aside = free_name(&path);
        self.disk
            .rename(&path, &aside)
            .map_err(Error::io("move aside", &path))?;
        Ok(vec![aside])
    }

    /// Moves everything from the damage on out of the way. The readable part keeps its place.
    fn set_segments_aside(&self, at: &DamageAt, scan: &Scan) -> Result<Vec<PathBuf>, Error> {
        let mut moved = Vec::new();
        let readable = scan.segments.last().map(|segment| segment.first);
        for SegmentFile { first, .. } in SegmentFile::from(self.ledger, scan.first)? {
            let path = Segment::empty(first).path(self.ledger);
            let aside = free_name(&path);
            if readable.is_none_or(|readable| first > readable) {
                self.disk
                    .rename(&path, &aside)
                    .map_err(Error::io("move aside", &path))?;
                moved.push(aside);
            } else if path == at.segment && copy_rest(&path, at.offset, &aside)? {
                self.cut(&path, at.offset)?;
                moved.push(aside);
            }
        }
        let directory = segment::directory(self.ledger);
        self.disk
            .sync_dir(&directory)
            .map_err(Error::io("sync", &directory))?;
        Ok(moved)
    }
}

/// The first unused name of the form `<path>.damaged`, `<path>.damaged.1`, …
fn free_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".damaged");
    let base = PathBuf::from(name);
    let mut candidate = base.clone();
    for number in 1_u32.. {
        if candidate.symlink_metadata().is_err() {
            break;
        }
        let mut name = base.as_os_str().to_owned();
        name.push(format!(".{number}"));
        candidate = PathBuf::from(name);
    }
    candidate
}

/// Copies the bytes behind `offset` durably; returns whether there were any.
fn copy_rest(path: &Path, offset: u64, aside: &Path) -> Result<bool, Error> {
    let copy = || {
        let mut from = File::open(path)?;
        from.seek(io::SeekFrom::Start(offset.max(HEADER_BYTES)))?;
        if from.metadata()?.len() <= offset {
            return Ok(false);
        }
        let mut to = File::create_new(aside)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        Ok(true)
    };
    copy().map_err(Error::io("copy aside", path))
}
