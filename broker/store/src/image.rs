//! An image of the live records in a file, from which a start gets them faster than from the rows
//! of the index. A start without an image, or with an image that does not fit, reads the rows.
//!
//! Another program that writes the file could give an agent another class or hide a credential from
//! revoking, as it could in the index. So each part is sealed with a key that only the holder of
//! the ledger's key can make. An older image of the same index is genuine, too: the start replays
//! the entries behind it. A start that does not use an image removes it.
//!
//! ```text
//! "taskpass image v1\n"  salt: 32 bytes  parts: u32  length of each part: u32 …
//! part …                 MessagePack, sealed by AES-256-GCM
//! ```
//!
//! The first part says where the image stands and covers the header, the others hold the records.
//! The salt is a code over all parts. The key of the file follows from the salt, so two images with
//! one key have the same content, and a nonce never seals two texts.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use ring::{aead, hmac};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use taskpass_core::{Timestamp, TrustDomain};
use taskpass_files::{Access, Draft};

use crate::{
    index::loading_threads,
    state::{Change, Names},
};

const MAGIC: &[u8] = b"taskpass image v1\n";
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// Records in one part; a core takes a part at a time.
const PART_RECORDS: usize = 1024;
/// No part is longer: a wrong length must not take all memory.
const PART_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// No header is longer: it has the lengths of the parts of more than a billion records.
const HEADER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Where an image stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The ledger it belongs to.
    pub(crate) origin: String,
    /// The index it is a copy of: its layout, and how many entries the ledger had when it was begun.
    /// An index that is built anew may have records that the one before had forgotten.
    pub(crate) index: (u32, u64),
    /// How many entries it has seen.
    pub(crate) position: u64,
    /// SHA-256 of the last of them.
    pub(crate) entry_sha256: String,
    /// The time of the last of them.
    pub(crate) time: Timestamp,
    pub(crate) trust_domain: Option<TrustDomain>,
    /// How many records it holds.
    pub(crate) records: u64,
}

/// Why an image is not used or was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Files(#[from] taskpass_files::Error),
    /// Another program wrote it, or a disk changed it.
    #[error("it is not as this broker wrote it")]
    Changed,
    #[error("a record cannot be written: {0}")]
    Encode(#[from] rmp_serde::encode::Error),
    #[error("a record cannot be read: {0}")]
    Decode(#[from] rmp_serde::decode::Error),
}

/// The keys of all images of one ledger.
#[derive(Debug)]
pub(crate) struct ImageKey {
    salts: hmac::Key,
    files: hmac::Key,
}

impl ImageKey {
    pub(crate) fn new(key: &hmac::Key) -> Self {
        let derived = |purpose: &[u8]| {
            let tag = hmac::sign(key, purpose);
            hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref())
        };
        Self {
            salts: derived(b"salts"),
            files: derived(b"files"),
        }
    }

    fn of_file(&self, salt: &[u8]) -> Result<aead::LessSafeKey, ImageError> {
        let secret = hmac::sign(&self.files, salt);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, secret.as_ref());
        let key = key.ok().ok_or(ImageError::Changed)?;
        Ok(aead::LessSafeKey::new(key))
    }
}

/// Binds a part to its place, and the first one to the header. The key follows from all parts.
fn place(part: u32, header: &[u8]) -> (aead::Nonce, aead::Aad<&[u8]>) {
    let mut nonce = [0; aead::NONCE_LEN];
    if let Some(last) = nonce.last_chunk_mut() {
        *last = part.to_be_bytes();
    }
    let aad = aead::Aad::from(if part == 0 { header } else { &[] });
    (aead::Nonce::assume_unique_for_key(nonce), aad)
}

/// Writes an image durably, and replaces an older one. `records` are in the order in which
/// they are set.
pub(crate) fn write(
    path: &Path,
    key: &ImageKey,
    standing: &Standing,
    records: &[Change],
) -> Result<(), ImageError> {
    // All parts at once could take as much memory as all records. So each is encoded twice.
    let mut salt = hmac::Context::with_key(&key.salts);
    let mut lengths = Vec::new();
    each_part(standing, records, &mut |text| {
        salt.update(&(text.len() as u64).to_be_bytes());
        salt.update(text);
        lengths.push(u32::try_from(text.len() + TAG_BYTES).unwrap_or(u32::MAX));
        Ok(())
    })?;
    let salt = salt.sign();
    let parts = u32::try_from(lengths.len()).unwrap_or(u32::MAX);
    let sealing = key.of_file(salt.as_ref())?;
    let mut draft = Draft::begin(path, Access::Private)?;
    let mut header = [MAGIC, salt.as_ref(), &parts.to_be_bytes()].concat();
    header.extend(lengths.iter().flat_map(|length| length.to_be_bytes()));
    draft.write_all(&header)?;
    let mut part = 0;
    each_part(standing, records, &mut |text| {
        let (nonce, aad) = place(part, &header);
        let sealed = sealing.seal_in_place_append_tag(nonce, aad, text);
        sealed.ok().ok_or(ImageError::Changed)?;
        part += 1;
        Ok(draft.write_all(text)?)
    })?;
    Ok(draft.replace()?)
}

fn each_part(
    standing: &Standing,
    records: &[Change],
    take: &mut dyn FnMut(&mut Vec<u8>) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    take(&mut rmp_serde::to_vec_named(standing)?)?;
    for part in records.chunks(PART_RECORDS) {
        take(&mut rmp_serde::to_vec_named(part)?)?;
    }
    Ok(())
}

/// An image that was opened; its records are not read yet.
#[derive(Debug)]
pub(crate) struct Image {
    parts: Parts,
    standing: Standing,
}

impl Image {
    /// Opens the image in `path`; `None` when there is none.
    pub(crate) fn open(path: &Path, key: &ImageKey) -> Result<Option<Self>, ImageError> {
        // A pipe in its place would hold the start without NONBLOCK.
        let opened = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        let file = match opened {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let parts = Parts::of(file, key)?;
        let standing = rmp_serde::from_slice(&parts.read(0)?)?;
        Ok(Some(Self { parts, standing }))
    }

    pub(crate) const fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Calls `take` with the records of each part, in order. Every core reads parts.
    pub(crate) fn each_part(&self, mut take: impl FnMut(Vec<Change>)) -> Result<(), ImageError> {
        let parts = &self.parts;
        let next = AtomicUsize::new(1);
        thread::scope(|scope| {
            let (done, inbox) = mpsc::channel();
            for _ in 0..loading_threads().min(parts.places.len()) {
                let (to, next) = (done.clone(), &next);
                let reader = thread::Builder::new().name("store-load".to_owned());
                let started = reader.spawn_scoped(scope, move || parts.send_each(next, &to));
                if started.is_err() {
                    // Without another thread this one reads: slow is better than not at all.
                    parts.send_each(next, &done);
                }
            }
            drop(done);
            let mut early = BTreeMap::new();
            let mut wanted = 1;
            for (number, records) in inbox {
                early.insert(number, records);
                while let Some(records) = early.remove(&wanted) {
                    take(records?);
                    wanted += 1;
                }
            }
            Ok(())
        })
    }
}

/// The parts of an image.
#[derive(Debug)]
struct Parts {
    file: File,
    opening: aead::LessSafeKey,
    header: Vec<u8>,
    /// Where each is, and how long.
    places: Vec<(u64, usize)>,
}

impl Parts {
    fn of(file: File, key: &ImageKey) -> Result<Self, ImageError> {
        const FIXED: usize = MAGIC.len() + SALT_BYTES + 4;
        let metadata = file.metadata()?;
        let mut header = vec![0; FIXED];
        file.read_exact_at(&mut header, 0)?;
        let count = header.last_chunk().map_or(0, |it| u32::from_be_bytes(*it));
        let mut at = FIXED as u64 + u64::from(count) * 4;
        // Before room is taken for so many lengths.
        let is_image = metadata.is_file() && header.starts_with(MAGIC);
        if !is_image || count == 0 || at > metadata.len().min(HEADER_BYTES_MAX) {
            return Err(ImageError::Changed);
        }
        header.resize(usize::try_from(at).unwrap_or(FIXED), 0);
        let (fixed, lengths) = header.split_at_mut(FIXED);
        file.read_exact_at(lengths, FIXED as u64)?;
        let mut places = Vec::new();
        for length in lengths.as_chunks().0 {
            let length = u32::from_be_bytes(*length);
            if length > PART_BYTES_MAX {
                return Err(ImageError::Changed);
            }
            places.push((at, usize::try_from(length).unwrap_or(0)));
            at += u64::from(length);
        }
        if at != metadata.len() {
            return Err(ImageError::Changed);
        }
        let salt = fixed.get(MAGIC.len()..FIXED - 4).unwrap_or_default();
        Ok(Self {
            opening: key.of_file(salt)?,
            file,
            places,
            header,
        })
    }

    /// Reads parts until none is left, one fails, or nothing listens any more.
    fn send_each(
        &self,
        next: &AtomicUsize,
        to: &mpsc::Sender<(usize, Result<Vec<Change>, ImageError>)>,
    ) {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= self.places.len() {
                return;
            }
            let records = self.records(number);
            let failed = records.is_err();
            if to.send((number, records)).is_err() || failed {
                return;
            }
        }
    }

    fn records(&self, number: usize) -> Result<Vec<Change>, ImageError> {
        let mut records: Vec<Change> = rmp_serde::from_slice(&self.read(number)?)?;
        let mut names = Names::default();
        for record in &mut records {
            if let Change::Credential(_, Some(credential)) = record {
                names.share(credential);
            }
        }
        Ok(records)
    }

    /// The text of one part.
    fn read(&self, number: usize) -> Result<Vec<u8>, ImageError> {
        let (at, length) = self.places.get(number).copied().unwrap_or_default();
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let (nonce, aad) = place(number, &self.header);
        let opened = self.opening.open_in_place(nonce, aad, &mut bytes);
        let length = opened.ok().ok_or(ImageError::Changed)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}
