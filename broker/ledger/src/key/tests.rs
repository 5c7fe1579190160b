use std::os::unix::fs::PermissionsExt;

use taskpass_core::SeededEntropy;

use super::*;

/// The key pair that the tests of Go's `sumdb/note` publish.
const GO_PUBLIC: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const GO_PRIVATE: &str =
    "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz";

#[test]
fn keys_are_read_and_printed_as_other_tools_have_them() {
    let public: VerifyingKey = GO_PUBLIC.parse().unwrap();
    assert_eq!(public.to_string(), GO_PUBLIC);
    assert_eq!(public.name(), "PeterNeumann");
    let private = SigningKey::parse(GO_PRIVATE).unwrap();
    assert_eq!(private.verifying_key(), &public);
}

#[test]
fn every_changed_character_of_a_key_is_noticed() {
    for (place, c) in GO_PUBLIC.char_indices() {
        let changed = if c == 'A' { 'B' } else { 'A' };
        let mut text = GO_PUBLIC.to_owned();
        text.replace_range(place..place + 1, &changed.to_string());
        assert!(text.parse::<VerifyingKey>().is_err(), "{text}");
    }
    for text in [
        "",
        "a",
        "a+b",
        "a+00000000+",
        "a b+00000000+AQ==",
        "+c74f20a3+AQ==",
    ] {
        assert!(text.parse::<VerifyingKey>().is_err(), "{text}");
    }
}

#[test]
fn a_key_file_is_private_and_never_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.key");
    let entropy = SeededEntropy::new(1);
    let made = SigningKey::generate("taskpass/acme.test", &path, &entropy).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = fs::read(&path).unwrap();
    let again = SigningKey::generate("taskpass/acme.test", &path, &entropy);
    assert!(matches!(again, Err(KeyError::Exists(_))));
    assert_eq!(fs::read(&path).unwrap(), before);
    let loaded = SigningKey::load("taskpass/acme.test", &path).unwrap();
    assert_eq!(loaded.verifying_key(), made.verifying_key());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_key_that_others_can_read_or_of_another_ledger_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.key");
    SigningKey::generate("taskpass/acme.test", &path, &SeededEntropy::new(1)).unwrap();
    let other = SigningKey::load("taskpass/other.test", &path);
    assert!(matches!(other, Err(KeyError::Origin { .. })));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let open = SigningKey::load("taskpass/acme.test", &path);
    assert!(matches!(open, Err(KeyError::Permissions(_))));
    let name = SigningKey::generate("two words", &dir.path().join("k"), &SeededEntropy::new(1));
    assert!(matches!(name, Err(KeyError::Name(_))));
}

#[test]
fn debug_shows_no_seed() {
    let key = SigningKey::parse(GO_PRIVATE).unwrap();
    assert_eq!(format!("{key:?}"), "SigningKey(PeterNeumann+c74f20a3)");
}
