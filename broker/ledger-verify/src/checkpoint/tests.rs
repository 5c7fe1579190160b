use super::*;
use crate::testing::SigningKey;

fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(name, &[7; 32])
}

#[test]
fn a_checkpoint_reads_back_as_it_was_signed() {
    let key = key("taskpass/acme.test");
    let signed = Checkpoint::sign(42, [5; 32], &key);
    let text = "taskpass/acme.test\n42\nBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQU=\n\n\u{2014} taskpass/acme.test ";
    assert!(signed.note().starts_with(text), "{}", signed.note());
    let opened = Checkpoint::open(signed.note(), key.verifying_key()).unwrap();
    assert_eq!(opened, signed);
    assert_eq!((opened.size(), opened.root()), (42, &[5; 32]));
}

#[test]
fn the_origin_must_be_the_keys_name() {
    let key = key("taskpass/acme.test");
    let root = STANDARD.encode([5; 32]);
    let note = key.sign(&format!("taskpass/other.test\n1\n{root}\n"));
    let refused = Checkpoint::open(&note, key.verifying_key());
    assert!(matches!(refused, Err(NoteError::WrongOrigin { .. })));
}

#[test]
fn malformed_checkpoints_are_refused_even_when_signed() {
    let key = key("taskpass/acme.test");
    let root = STANDARD.encode([5; 32]);
    let origin = "taskpass/acme.test";
    for text in [
        format!("{origin}\n"),
        format!("{origin}\n1\n"),
        format!("{origin}\n01\n{root}\n"),
        format!("{origin}\n-1\n{root}\n"),
        format!("{origin}\n+1\n{root}\n"),
        format!("{origin}\n18446744073709551616\n{root}\n"),
        format!("{origin}\n1\n{}\n", STANDARD.encode([5; 31])),
        format!("{origin}\n1\n{root}\n\nextension\n"),
        format!("\n1\n{root}\n"),
    ] {
        let note = key.sign(&text);
        let refused = Checkpoint::open(&note, key.verifying_key());
        assert!(
            matches!(refused, Err(NoteError::Malformed { .. })),
            "{text:?} {refused:?}"
        );
    }
    let extended = key.sign(&format!("{origin}\n1\n{root}\nextension\n"));
    assert!(Checkpoint::open(&extended, key.verifying_key()).is_ok());
}
