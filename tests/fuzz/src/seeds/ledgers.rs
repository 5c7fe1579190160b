//! Seeds of the ledger's files and of its exports.

use crate::{fixtures, input::joined};

use super::{Seeds, choosing};

/// A signature of another party, which a note may carry.
const WITNESS: &str = "\u{2014} witness.test x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

/// A list of roots, as it is signed.
const ROOTS: &str = "taskpass roots v1\ntaskpass/acme.test\n2026-11-22T10:00:00.000Z\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n";

pub(super) fn all() -> Vec<(&'static str, Seeds)> {
    vec![
        ("ledger_export", exports()),
        ("ledger_directory", directories()),
        ("checkpoint", checkpoints()),
        ("proof", proofs()),
    ]
}

fn exports() -> Seeds {
    let history = fixtures::history();
    let (half, _) = history.export.split_at(history.export.len() / 2);
    vec![
        choosing(0, "full", &history.export),
        choosing(0, "selection", &history.selection),
        choosing(0, "halved", half),
        choosing(1, "entries", b"{\"a\":1}\nnot JSON\n\xff\xfe\n[1,2]\n\"x\""),
    ]
}

fn directories() -> Seeds {
    let history = fixtures::history();
    let (segment, note) = (
        history.segment.as_slice(),
        history.checkpoint.note().as_bytes(),
    );
    let frame = |(index, entry): (usize, &Vec<u8>)| {
        let flag = if index == 0 || index == 4 { 0x80 } else { 0 };
        let length = u16::try_from(entry.len()).unwrap_or(0).to_be_bytes();
        [&[flag], length.as_slice(), entry].concat()
    };
    let frames: Vec<u8> = history.entries.iter().enumerate().flat_map(frame).collect();
    let (torn, _) = segment.split_at(segment.len() - 9);
    let older = history.older.note().as_bytes();
    vec![
        choosing(0, "whole", joined(&[segment, note])),
        choosing(1, "made-here", joined(&[frames.as_slice(), note])),
        choosing(0, "torn", joined(&[torn, older])),
        choosing(2, "torn-and-signed", joined(&[torn, note])),
        choosing(2, "no-checkpoint", joined(&[segment])),
        choosing(
            3,
            "second-segment",
            joined(&[frames.as_slice(), older, segment]),
        ),
        choosing(2, "nothing", joined::<&[u8]>(&[])),
    ]
}

fn checkpoints() -> Seeds {
    let history = fixtures::history();
    let note = history.checkpoint.note();
    let text = note.split_once("\n\n").map_or(note, |(text, _)| text);
    vec![
        choosing(0, "signed", note),
        choosing(0, "witnessed", format!("{note}{WITNESS}")),
        choosing(1, "signed-here", format!("{text}\n")),
        choosing(1, "with-extension", format!("{text}\nextension\n")),
        choosing(1, "roots", ROOTS),
        choosing(2, "vkey", history.key.to_string()),
    ]
}

fn proofs() -> Seeds {
    let history = fixtures::history();
    let with_extra = history.proof.replacen("\nindex", "\nextra QUJD\nindex", 1);
    let mut numbers = [5_u64.to_be_bytes(), 12_u64.to_be_bytes()].concat();
    numbers.extend([[1; 32], [2; 32], [3; 32], [4; 32]].concat());
    vec![
        choosing(0, "whole", &history.proof),
        choosing(0, "with-extra", with_extra),
        choosing(1, "numbers", numbers),
        choosing(1, "large-numbers", [0xff; 16 + 65 * 32]),
    ]
}
