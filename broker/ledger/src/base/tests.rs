use super::*;
use crate::testing::{ORIGIN, key, verifying};

/// The edge over `size` made-up leaves.
fn edge(size: u64) -> Edge {
    let mut edge = Edge::default();
    let mut full = Vec::new();
    for n in 0..size {
        edge.push(crate::tree::leaf_hash(&n.to_le_bytes()), &mut full);
    }
    edge
}

fn signed(text: &str) -> String {
    key().sign(text)
}

#[test]
fn a_base_is_read_as_it_was_signed() {
    for size in [1, 255, 256, 257, 512, 65_536, 70_000] {
        let base = Base::sign(edge(size), &key());
        let read = Base::parse(&base.note, &verifying()).unwrap();
        assert_eq!(read.size(), size);
        assert_eq!(read.edge().root(), base.edge().root());
        // The tree goes on from it as from the leaves themselves.
        let (mut own, mut other) = (read.into_edge(), edge(size));
        for n in 0..600_u64 {
            let leaf = crate::tree::leaf_hash(&n.to_be_bytes());
            own.push(leaf, &mut Vec::new());
            other.push(leaf, &mut Vec::new());
            assert_eq!(own.root(), other.root(), "{size} and {n}");
        }
    }
}

#[test]
fn a_base_is_no_checkpoint_and_a_checkpoint_no_base() {
    let base = Base::sign(edge(300), &key());
    assert!(crate::Checkpoint::open(&base.note, &verifying()).is_err());
    let checkpoint = crate::Checkpoint::sign(300, edge(300).root(), &key());
    assert!(Base::parse(checkpoint.note(), &verifying()).is_err());
}

#[test]
fn other_texts_are_refused() {
    let base = Base::sign(edge(300), &key());
    let text = base.note.split("\n\n").next().unwrap().to_owned() + "\n";
    assert!(Base::parse(&signed(&text), &verifying()).is_ok());
    let lines: Vec<&str> = text.lines().collect();
    let hashes = lines[3].strip_prefix("0 ").unwrap();
    let with = |place: usize, line: &str| {
        let mut lines = lines.clone();
        lines[place] = line;
        lines.join("\n") + "\n"
    };
    let zero = format!("{FIRST_LINE}\n{ORIGIN}\n0\n");
    let short = format!("0 {}", STANDARD.encode([1; 31]));
    let table = [
        with(0, "taskpass ledger base v2"),
        with(1, "taskpass/other.test"),
        with(2, "301"),
        with(2, "0300"),
        with(2, "18446744073709551616"),
        with(3, "0 "),
        with(3, &short),
        with(3, &format!("1 {hashes}")),
        with(3, &format!("9 {hashes}")),
        with(3, &format!("0 {hashes} ")),
        text.clone() + lines[3] + "\n",
        text.clone() + "7 \n",
        lines[..4].join("\n") + "\n",
        zero,
        "\n".to_owned(),
    ];
    for text in table {
        assert!(Base::parse(&signed(&text), &verifying()).is_err(), "{text}");
    }
    let other = SigningKey::from_seed(ORIGIN, &[8; 32]).unwrap();
    assert!(Base::parse(&other.sign(&text), &verifying()).is_err());
    for place in (0..base.note.len()).step_by(97) {
        let mut bytes = base.note.clone().into_bytes();
        bytes[place] ^= 1;
        if let Ok(changed) = String::from_utf8(bytes) {
            assert!(Base::parse(&changed, &verifying()).is_err(), "{place}");
        }
    }
}
