//! From a full export to C2SP tlog-tiles.
//!
//! The export is verified first. Its entries are then appended to a ledger in a temporary
//! directory, which makes the tiles. The key of that ledger signs nothing that is kept: the tiles
//! carry the broker's checkpoint, and writing them fails if they do not lead to its root.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::Path,
};

use anyhow::Context as _;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::value::RawValue;
use taskpass_core::SystemEntropy;
use taskpass_ledger::{
    Ledger, Options, Priority, SigningKey, VerifyingKey, export::write_tiles, verify::verify_export,
};

/// Entries in one append.
const BATCH: usize = 4096;

#[derive(Deserialize)]
struct EntryLine<'a> {
    #[serde(borrow)]
    entry: Option<&'a RawValue>,
    entry_base64: Option<&'a str>,
}

/// Writes the entries of `export` to `directory` and returns their number. `scratch` holds the
/// ledger.
pub(super) fn write(
    export: &Path,
    key: &VerifyingKey,
    scratch: &Path,
    directory: &Path,
) -> anyhow::Result<u64> {
    let reader = || File::open(export).map(BufReader::new);
    let verified = verify_export(reader()?, key, None, &mut |_| ())?;
    let passing = SigningKey::generate(
        key.name(),
        &scratch.join("passing.key"),
        &SystemEntropy::new(),
    )?;
    let (mut ledger, _) = Ledger::open(&scratch.join("ledger"), Options::new(passing))?;
    let mut batch: Vec<Vec<u8>> = Vec::new();
    for line in reader()?.lines() {
        batch.extend(entry(&line?)?);
        if batch.len() >= BATCH {
            append(&mut ledger, &mut batch)?;
        }
    }
    append(&mut ledger, &mut batch)?;
    write_tiles(&ledger.reader(), &verified.checkpoint, directory)?;
    Ok(verified.entries)
}

/// Whether `directory` holds tlog-tiles. A ledger's own directory has tiles of hashes, but none of
/// entries.
pub(super) fn are_in(directory: &Path) -> bool {
    directory.join("tile/entries").is_dir()
}

/// The bytes of a line's entry; `None` for the checkpoint at the end.
fn entry(line: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let line: EntryLine<'_> = serde_json::from_str(line).context("a line is not as expected")?;
    Ok(match (line.entry, line.entry_base64) {
        (Some(json), _) => Some(json.get().as_bytes().to_vec()),
        (None, Some(text)) => Some(STANDARD.decode(text)?),
        (None, None) => None,
    })
}

fn append(ledger: &mut Ledger, batch: &mut Vec<Vec<u8>>) -> anyhow::Result<()> {
    if !batch.is_empty() {
        let entries: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        ledger.append_batch(&entries, Priority::Normal)?;
        batch.clear();
    }
    Ok(())
}
