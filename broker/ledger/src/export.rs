//! Writing the history for others to verify: JSON Lines for people and scripts, C2SP tlog-tiles for
//! logs.
//!
//! A full export has all entries of a checkpoint. A selection has some of them, each with a proof:
//!
//! ```text
//! {"index":0,"entry":…}
//! {"checkpoint":"…"}
//!
//! {"index":7,"size":42,"proof":["…"],"entry":…}
//! {"consistency":{"from":12,"root":"…","proof":["…"]}}   if an older checkpoint was named
//! {"checkpoint":"…","selected":1}
//! ```
//!
//! `entry` is the entry's own bytes, so its hash covers exactly the text in the line. An entry that
//! is not one JSON value without line breaks stands as `"entry_base64":"…"` instead. Lines are
//! written in one form only, without spaces; the verifier accepts no other.

use std::{
    fs,
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use crate::{
    Checkpoint, Error, Hash, Reader,
    tiles::{self, Edge, TILE_WIDTH},
    tree::leaf_hash,
};

/// Lines are gathered to this size before they are written.
const WRITE_BYTES: usize = 128 * 1024;

/// Writes all entries of a checkpoint, and the checkpoint. Returns the number of entries.
pub fn write_full(
    reader: &Reader,
    checkpoint: &Checkpoint,
    out: &mut dyn Write,
) -> Result<u64, Error> {
    belongs(reader, checkpoint)?;
    let mut entries = reader.entries(0..checkpoint.size())?;
    let mut lines = Vec::with_capacity(WRITE_BYTES * 2);
    while let Some((index, entry)) = entries.next_entry()? {
        entry_line(index, entry, &mut lines);
        if lines.len() >= WRITE_BYTES {
            flush(&mut lines, out)?;
        }
    }
    checkpoint_line(checkpoint, None, &mut lines);
    flush(&mut lines, out)?;
    Ok(checkpoint.size())
}

/// Writes the entries of a range for which `keep` is true, each with its proof, and the checkpoint.
///
/// `older` is the size of an earlier checkpoint that the receiver has. The export then proves that
/// this history continues that one. Returns the number of entries written.
pub fn write_selection(
    reader: &Reader,
    checkpoint: &Checkpoint,
    range: Range<u64>,
    keep: &mut dyn FnMut(u64, &[u8]) -> bool,
    older: Option<u64>,
    out: &mut dyn Write,
) -> Result<u64, Error> {
    belongs(reader, checkpoint)?;
    let size = checkpoint.size();
    let mut entries = reader.entries(range.start..range.end.min(size))?;
    let mut lines = Vec::with_capacity(WRITE_BYTES * 2);
    let mut selected = 0;
    while let Some((index, entry)) = entries.next_entry()? {
        if !keep(index, entry) {
            continue;
        }
        let proof = reader.inclusion_proof(index, size)?;
        proven_entry_line(index, size, &proof, entry, &mut lines);
        selected += 1;
        if lines.len() >= WRITE_BYTES {
            flush(&mut lines, out)?;
        }
    }
    last_lines(reader, checkpoint, selected, older, &mut lines)?;
    flush(&mut lines, out)?;
    Ok(selected)
}

/// Writes the entries with these indexes, each with its proof, and the checkpoint. Otherwise as
/// [`write_selection`], which is faster for a range.
pub fn write_indexes(
    reader: &Reader,
    checkpoint: &Checkpoint,
    indexes: impl IntoIterator<Item = u64>,
    older: Option<u64>,
    out: &mut dyn Write,
) -> Result<u64, Error> {
    belongs(reader, checkpoint)?;
    let size = checkpoint.size();
    let mut lines = Vec::with_capacity(WRITE_BYTES * 2);
    let mut selected = 0;
    for index in indexes {
        let proof = reader.inclusion_proof(index, size)?;
        proven_entry_line(index, size, &proof, &reader.entry(index)?, &mut lines);
        selected += 1;
        if lines.len() >= WRITE_BYTES {
            flush(&mut lines, out)?;
        }
    }
    last_lines(reader, checkpoint, selected, older, &mut lines)?;
    flush(&mut lines, out)?;
    Ok(selected)
}

/// Adds the lines after the entries of a selection.
fn last_lines(
    reader: &Reader,
    checkpoint: &Checkpoint,
    selected: u64,
    older: Option<u64>,
    lines: &mut Vec<u8>,
) -> Result<(), Error> {
    if let Some(older) = older {
        let root = reader.root_at(older)?;
        let proof = reader.consistency_proof(older, checkpoint.size())?;
        consistency_line(older, &root, &proof, lines);
    }
    checkpoint_line(checkpoint, Some(selected), lines);
    Ok(())
}

/// Adds the line of an entry in a full export.
pub fn entry_line(index: u64, entry: &[u8], out: &mut Vec<u8>) {
    push(out, &["{\"index\":", &index.to_string()]);
    content(entry, out);
}

/// Adds the line of an entry in a selection; `proof` is its inclusion proof in the tree of `size`
/// entries.
fn proven_entry_line(index: u64, size: u64, proof: &[Hash], entry: &[u8], out: &mut Vec<u8>) {
    let (index, size) = (index.to_string(), size.to_string());
    push(out, &["{\"index\":", &index, ",\"size\":", &size]);
    hashes(proof, out);
    content(entry, out);
}

/// Adds the line that proves that the history continues the first `from` entries with the root
/// `root`.
fn consistency_line(from: u64, root: &Hash, proof: &[Hash], out: &mut Vec<u8>) {
    let (from, root) = (from.to_string(), STANDARD.encode(root));
    push(out, &["{\"consistency\":{\"from\":", &from]);
    push(out, &[",\"root\":\"", &root, "\""]);
    hashes(proof, out);
    push(out, &["}}\n"]);
}

/// Adds the last line. `selected` is the number of entries of a selection; a full export has none.
pub fn checkpoint_line(checkpoint: &Checkpoint, selected: Option<u64>, out: &mut Vec<u8>) {
    let note = serde_json::Value::from(checkpoint.note()).to_string();
    push(out, &["{\"checkpoint\":", &note]);
    if let Some(selected) = selected {
        push(out, &[",\"selected\":", &selected.to_string()]);
    }
    push(out, &["}\n"]);
}

fn content(entry: &[u8], out: &mut Vec<u8>) {
    if is_json_line(entry) {
        push(out, &[",\"entry\":"]);
        out.extend_from_slice(entry);
        push(out, &["}\n"]);
    } else {
        let encoded = STANDARD.encode(entry);
        push(out, &[",\"entry_base64\":\"", &encoded, "\"}\n"]);
    }
}

/// Whether the bytes are exactly one JSON value on one line.
pub(crate) fn is_json_line(entry: &[u8]) -> bool {
    let value: Result<&RawValue, _> = serde_json::from_slice(entry);
    value.is_ok_and(|value| value.get().len() == entry.len()) && !entry.contains(&b'\n')
}

fn hashes(proof: &[Hash], out: &mut Vec<u8>) {
    push(out, &[",\"proof\":["]);
    for (place, hash) in proof.iter().enumerate() {
        let comma = if place == 0 { "\"" } else { ",\"" };
        push(out, &[comma, &STANDARD.encode(hash), "\""]);
    }
    push(out, &["]"]);
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn flush(lines: &mut Vec<u8>, out: &mut dyn Write) -> Result<(), Error> {
    out.write_all(lines).map_err(Error::io("write", "export"))?;
    lines.clear();
    Ok(())
}

/// Refuses a checkpoint of another ledger, or of this one from before damage was accepted: it does
/// not sign these entries.
fn belongs(reader: &Reader, checkpoint: &Checkpoint) -> Result<(), Error> {
    if reader.root_at(checkpoint.size())? == *checkpoint.root() {
        Ok(())
    } else {
        Err(Error::RootMismatch {
            size: checkpoint.size(),
        })
    }
}

/// Writes `checkpoint`, `tile/…` and `tile/entries/…` as of C2SP tlog-tiles.
///
/// Computes all hashes anew from the entries. Writes the checkpoint last, and only if the entries
/// lead to its root.
pub fn write_tiles(
    reader: &Reader,
    checkpoint: &Checkpoint,
    directory: &Path,
) -> Result<(), Error> {
    let mut entries = reader.entries(0..checkpoint.size())?;
    let mut edge = Edge::default();
    let mut full = Vec::new();
    let mut bundle = Vec::new();
    while let Some((index, entry)) = entries.next_entry()? {
        // INVARIANT: no entry is longer than 65,535 bytes.
        let length = u16::try_from(entry.len()).unwrap_or(u16::MAX);
        bundle.extend_from_slice(&length.to_be_bytes());
        bundle.extend_from_slice(entry);
        edge.push(leaf_hash(entry), &mut full);
        for tile in full.drain(..) {
            let level = tile.level.to_string();
            let path = tiles::path(directory, &level, tile.index, TILE_WIDTH);
            write_file(&path, &tile.tile.bytes())?;
        }
        if (index + 1).is_multiple_of(TILE_WIDTH) {
            let path = tiles::path(directory, "entries", index / TILE_WIDTH, TILE_WIDTH);
            write_file(&path, &bundle)?;
            bundle.clear();
        }
    }
    if edge.root() != *checkpoint.root() {
        return Err(Error::RootMismatch {
            size: checkpoint.size(),
        });
    }
    let size = edge.size();
    if !bundle.is_empty() {
        let path = tiles::path(directory, "entries", size / TILE_WIDTH, size % TILE_WIDTH);
        write_file(&path, &bundle)?;
    }
    for (level, index, tile) in edge.partial() {
        let path = tiles::path(directory, &level.to_string(), index, tile.width());
        write_file(&path, &tile.bytes())?;
    }
    write_file(&directory.join("checkpoint"), checkpoint.note().as_bytes())
}

fn write_file(path: &PathBuf, content: &[u8]) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(path, content)
    };
    write().map_err(Error::io("write", path))
}

#[cfg(test)]
mod tests;
