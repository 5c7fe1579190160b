//! The lines of an export, read back. Only the exact form that [`crate::export`] writes is
//! accepted, so each changed byte is noticed.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::STANDARD};
use taskpass_ledger_verify::checkpoint::{parse_decimal, parse_hash};

use crate::{Hash, export::is_json_line, tree::PROOF_HASHES_MAX};

/// One line of an export.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    Entry {
        index: u64,
        content: Content<'a>,
    },
    Proven {
        index: u64,
        size: u64,
        proof: Vec<Hash>,
        content: Content<'a>,
    },
    Consistency {
        from: u64,
        root: Hash,
        proof: Vec<Hash>,
    },
    Checkpoint {
        note: String,
        selected: Option<u64>,
    },
}

/// The bytes of an entry.
#[derive(Debug)]
pub(crate) struct Content<'a>(Cow<'a, [u8]>);

impl Content<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reads a line without its newline, or returns the mistake in it.
pub(crate) fn parse(line: &str) -> Result<Line<'_>, &'static str> {
    if let Some(rest) = line.strip_prefix("{\"index\":") {
        return entry(rest);
    }
    if let Some(rest) = line.strip_prefix("{\"checkpoint\":") {
        return checkpoint(rest).ok_or("the checkpoint is not written as an export has it");
    }
    if let Some(rest) = line.strip_prefix("{\"consistency\":{\"from\":") {
        return consistency(rest).ok_or("the consistency proof is malformed");
    }
    Err("it is neither an entry nor a checkpoint nor a consistency proof")
}

fn entry(rest: &str) -> Result<Line<'_>, &'static str> {
    let (index, rest) = number(rest).ok_or("the index is not a number")?;
    let Some(rest) = rest.strip_prefix("\"size\":") else {
        let content = content(rest)?;
        return Ok(Line::Entry { index, content });
    };
    let (size, rest) = number(rest).ok_or("the size is not a number")?;
    let (proof, rest) = hashes(rest).ok_or("the proof is malformed")?;
    let rest = rest.strip_prefix(',').ok_or("the entry is missing")?;
    Ok(Line::Proven {
        index,
        size,
        proof,
        content: content(rest)?,
    })
}

/// A number and the text after its comma.
fn number(text: &str) -> Option<(u64, &str)> {
    let (digits, rest) = text.split_once(',')?;
    let number = parse_decimal(digits)?;
    Some((number, rest))
}

fn content(text: &str) -> Result<Content<'_>, &'static str> {
    if let Some(rest) = text.strip_prefix("\"entry\":") {
        let json = rest.strip_suffix('}').map(str::as_bytes);
        let json = json.filter(|json| is_json_line(json));
        let json = json.ok_or("the entry is not one JSON value")?;
        return Ok(Content(Cow::Borrowed(json)));
    }
    let bytes = text
        .strip_prefix("\"entry_base64\":\"")
        .and_then(|rest| rest.strip_suffix("\"}"))
        .and_then(|encoded| STANDARD.decode(encoded).ok())
        // An entry that could stand as JSON must: each entry has one form only.
        .filter(|bytes| !is_json_line(bytes))
        .ok_or("the entry is malformed")?;
    Ok(Content(Cow::Owned(bytes)))
}

/// The list behind `"proof":` and the text after it.
fn hashes(text: &str) -> Option<(Vec<Hash>, &str)> {
    let (list, rest) = text.strip_prefix("\"proof\":[")?.split_once(']')?;
    let mut hashes = Vec::new();
    if list.is_empty() {
        return Some((hashes, rest));
    }
    for item in list.split(',') {
        let encoded = item.strip_prefix('"')?.strip_suffix('"')?;
        hashes.push(parse_hash(encoded)?);
        if hashes.len() > PROOF_HASHES_MAX {
            return None;
        }
    }
    Some((hashes, rest))
}

fn consistency(rest: &str) -> Option<Line<'_>> {
    let (from, rest) = number(rest)?;
    let (root, rest) = rest.strip_prefix("\"root\":\"")?.split_once("\",")?;
    let root = parse_hash(root)?;
    let (proof, rest) = hashes(rest)?;
    (rest == "}}").then_some(Line::Consistency { from, root, proof })
}

fn checkpoint(rest: &str) -> Option<Line<'_>> {
    let rest = rest.strip_suffix('}')?;
    // A quotation mark inside the note is escaped, so this cannot be part of it.
    let (text, selected) = match rest.rsplit_once("\",\"selected\":") {
        Some((open, digits)) => {
            let text = rest.get(..=open.len())?;
            (text, Some(parse_decimal(digits)?))
        }
        None => (rest, None),
    };
    let note: String = serde_json::from_str(text).ok()?;
    // JSON has many spellings of one text; only ours is accepted.
    let ours = serde_json::to_string(&note).ok()?;
    (ours == text).then_some(Line::Checkpoint { note, selected })
}
