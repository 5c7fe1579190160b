use taskpass_core::SeededEntropy;

use super::*;

const NAME: &str = "ca/root.key";
const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n";

fn entropy(seed: u64) -> Arc<dyn Entropy> {
    Arc::new(SeededEntropy::new(seed))
}

fn files(domain: &str, seed: u64) -> KeyFiles {
    let key = DataKey::generate(entropy(seed).as_ref()).unwrap();
    KeyFiles::sealed(domain, vec![key], PlainFiles::Refused, entropy(seed + 1))
}

fn contains(content: &[u8], part: &[u8]) -> bool {
    content.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_sealed_file_says_what_it_is_and_not_what_it_holds() {
    let files = files("acme.test", 1);
    let content = files.protect(NAME, KEY).unwrap();
    let text = str::from_utf8(&content).unwrap();
    assert!(text.starts_with("-----BEGIN TASKPASS SEALED KEY-----\nVersion: 1\nKey: "));
    assert!(text.contains("\nName: ca/root.key\n\n"), "{text}");
    assert!(text.lines().all(|line| line.len() <= 64), "{text}");
    for part in [&b"hunter2"[..], b"PRIVATE KEY"] {
        assert!(!contains(&content, part), "{text}");
    }
    assert_eq!(files.reveal(NAME, &content).unwrap().as_slice(), KEY);
    assert!(is_sealed(&content) && !is_sealed(KEY));
}

/// Every byte of a sealed file counts, whether header, body or frame; white space around it does
/// not.
#[test]
fn no_changed_byte_and_no_missing_end_goes_unnoticed() {
    let files = files("acme.test", 1);
    let content = files.protect(NAME, b"0123456789").unwrap();
    for at in 0..content.len() {
        let mut changed = content.to_vec();
        changed[at] ^= 1;
        let revealed = files.reveal(NAME, &changed);
        let is_white = content[at].is_ascii_whitespace() || changed[at].is_ascii_whitespace();
        assert!(revealed.is_err() || is_white, "byte {at}");
        if let Ok(key) = revealed {
            assert_eq!(key.as_slice(), b"0123456789", "byte {at}");
        }
    }
    for end in 0..content.len() - 1 {
        assert!(files.reveal(NAME, &content[..end]).is_err(), "{end} bytes");
    }
}

#[test]
fn files_cannot_be_swapped_between_names_installations_and_seals() {
    let ours = files("acme.test", 1);
    let content = ours.protect(NAME, KEY).unwrap();
    let says = |files: &KeyFiles, name: &str, content: &[u8]| {
        files.reveal(name, content).unwrap_err().to_string()
    };
    let message = says(&ours, "ledger.key", &content);
    assert!(
        message.contains("`ca/root.key`, not `ledger.key`"),
        "{message}"
    );
    let text = String::from_utf8(content.to_vec()).unwrap();
    let renamed = text.replace("Name: ca/root.key", "Name: ledger.key");
    let message = says(&ours, "ledger.key", renamed.as_bytes());
    assert!(
        message.contains("was changed after it was sealed"),
        "{message}"
    );
    // The same data key in another installation.
    let elsewhere = files("other.test", 1);
    let message = says(&elsewhere, NAME, &content);
    assert!(message.contains("another installation"), "{message}");
    let message = says(&files("acme.test", 7), NAME, &content);
    assert!(message.contains("`taskpassd keys reseal"), "{message}");
    let message = says(&KeyFiles::plain(), NAME, &content);
    assert!(message.contains("names no seal"), "{message}");
    let message = says(&ours, NAME, KEY);
    assert!(message.contains("`taskpassd keys seal"), "{message}");
    let later = text.replace("Version: 1", "Version: 2");
    let message = says(&ours, NAME, later.as_bytes());
    assert!(message.contains("version `2`"), "{message}");
}

#[test]
fn while_files_are_moved_both_forms_and_both_keys_open() {
    let (old, new) = (
        DataKey::generate(entropy(1).as_ref()),
        DataKey::generate(entropy(2).as_ref()),
    );
    let (old, new) = (old.unwrap(), new.unwrap());
    let copy = DataKey::from_secret(old.id(), &old.to_secret()).unwrap();
    let before = KeyFiles::sealed("acme.test", vec![old], PlainFiles::Refused, entropy(3));
    let both = KeyFiles::sealed(
        "acme.test",
        vec![new, copy],
        PlainFiles::Accepted,
        entropy(4),
    );
    let content = before.protect(NAME, KEY).unwrap();
    for content in [content.as_slice(), KEY] {
        assert_eq!(both.reveal(NAME, content).unwrap().as_slice(), KEY);
        assert!(!both.is_current(content));
    }
    let moved = both.protect(NAME, KEY).unwrap();
    assert!(both.is_current(&moved) && KeyFiles::plain().is_current(KEY));
    assert!(matches!(
        before.reveal(NAME, &moved),
        Err(Error::UnknownKey(_))
    ));
    assert!(!format!("{both:?}").contains("hunter2"));
}
