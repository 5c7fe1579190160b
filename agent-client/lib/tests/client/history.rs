//! The ledger's key is pinned at the first login, and the newest checkpoint only moves forward. A
//! broker with another history is refused, and nothing of it is stored.

use std::{collections::BTreeMap, fs, path::Path};

use taskpass_client::{Client, Error, IdentityDirectory, Login};
use taskpass_client_testing::{fake::Fake, ledger::FakeLedger};

/// All files of a directory.
pub(crate) fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    });
    entries.collect()
}

fn kept_size(fake: &Fake) -> u64 {
    let pinned = IdentityDirectory::new(fake.identity()).pinned().unwrap();
    pinned.newest.unwrap().size()
}

fn grow(fake: &Fake, entry: &[u8]) {
    fake.state().ledger.as_mut().unwrap().grow(entry);
}

/// Puts another ledger in the place of the broker's.
fn replace(fake: &Fake, ledger: FakeLedger) {
    fake.state().ledger = Some(ledger);
}

#[tokio::test]
async fn the_newest_checkpoint_is_kept_and_moves_forward_with_each_renewal() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    assert_eq!(kept_size(&fake), 2);
    for size in 3..=20 {
        grow(&fake, b"\"more\"");
        client.renew_svid().await.unwrap();
        assert_eq!(kept_size(&fake), size);
    }
    client.renew_svid().await.unwrap();
    assert_eq!(kept_size(&fake), 20, "the same checkpoint again");
    let mode = {
        use std::os::unix::fs::PermissionsExt;
        let path = fake.identity().join("ledger.checkpoint");
        fs::metadata(path).unwrap().permissions().mode()
    };
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn another_ledger_key_is_refused_at_a_renewal_and_nothing_is_stored() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let (before, serial) = (files(&fake.identity()), client.svid().serial);
    let other = tempfile::tempdir().unwrap();
    let stranger = FakeLedger::create(other.path());
    let vkey = stranger.vkey.clone();
    replace(&fake, stranger);

    let error = client.renew_svid().await.unwrap_err();
    assert!(matches!(error, Error::LedgerKeyChanged { .. }), "{error}");
    assert_eq!(error.reason(), Some("LEDGER_KEY_CHANGED"));
    assert!(error.to_string().contains(&vkey), "{error}");
    assert_eq!(files(&fake.identity()), before);
    // The identity in use counts on: the new one was never used.
    client.whoami().await.unwrap();
    assert_eq!(client.svid().serial, serial);

    // A person has compared the key.
    let directory = IdentityDirectory::new(fake.identity());
    directory.accept_ledger_key(&vkey.parse().unwrap()).unwrap();
    assert_ne!(client.renew_svid().await.unwrap().serial, serial);
    assert_eq!(directory.ledger_vkey().unwrap(), vkey);
    let after = files(&fake.identity());
    assert_eq!(after["ledger.vkey.old"], before["ledger.vkey"]);
    assert_eq!(after["ledger.checkpoint.old"], before["ledger.checkpoint"]);
}

#[tokio::test]
async fn a_history_that_does_not_continue_the_kept_checkpoint_is_refused() {
    // Under the same key: entries before the kept end are others, in a longer, an equally long and
    // a shorter ledger.
    for (entries, why) in [
        (vec!["a", "b", "c", "d", "e"], "begin otherwise"),
        (vec!["a", "b", "c"], "another root"),
        (vec!["a"], "has only 1 entries"),
    ] {
        let fake = Fake::start().await;
        let client = fake.client().await;
        grow(&fake, b"\"more\"");
        client.renew_svid().await.unwrap();
        let before = files(&fake.identity());
        let other = tempfile::tempdir().unwrap();
        replace(
            &fake,
            FakeLedger::rewritten(fake.dir.path(), other.path(), &entries),
        );

        let error = client.renew_svid().await.unwrap_err();
        assert!(matches!(error, Error::LedgerRewritten { size: 3, .. }));
        assert_eq!(error.reason(), Some("LEDGER_REWRITTEN"));
        assert!(error.to_string().contains(why), "{error}");
        assert_eq!(files(&fake.identity()), before, "{why}");

        // Restored from a backup, and a person says so: the same key begins anew.
        let directory = IdentityDirectory::new(fake.identity());
        let key = directory.pinned().unwrap().key.unwrap();
        directory.accept_ledger_key(&key).unwrap();
        client.renew_svid().await.unwrap();
    }
}

#[tokio::test]
async fn a_broker_that_shows_no_checkpoint_any_more_is_refused() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let before = files(&fake.identity());
    fake.state().shows_no_head = true;
    let error = client.renew_svid().await.unwrap_err();
    assert_eq!(error.reason(), Some("LEDGER_REWRITTEN"), "{error}");
    assert_eq!(files(&fake.identity()), before);

    // A directory from before checkpoints were kept has only the key, and goes on.
    fs::remove_file(fake.identity().join("ledger.checkpoint")).unwrap();
    client.renew_svid().await.unwrap();
    fake.state().shows_no_head = false;
    client.renew_svid().await.unwrap();
    assert_eq!(kept_size(&fake), 2);
}

#[tokio::test]
async fn an_older_checkpoint_never_replaces_a_newer_one() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let directory = IdentityDirectory::new(fake.identity());
    let older = directory.pinned().unwrap();
    grow(&fake, b"\"more\"");
    client.renew_svid().await.unwrap();
    let (key, checkpoint) = (older.key.unwrap(), older.newest.unwrap());
    let error = directory.keep_proven(&checkpoint, &key, &[]).unwrap_err();
    assert!(matches!(error, Error::LedgerRewritten { size: 3, .. }));
    assert_eq!(kept_size(&fake), 3);
}

#[tokio::test]
async fn files_that_are_no_key_and_no_checkpoint_are_named_and_left_alone() {
    let fake = Fake::start().await;
    let client = fake.client().await;
    let good = files(&fake.identity());
    let note = String::from_utf8(good["ledger.checkpoint"].clone()).unwrap();
    let flipped = note.replacen('2', "3", 1);
    let long = "x".repeat(2 * 1024 * 1024);
    for (name, content) in [
        ("ledger.vkey", ""),
        ("ledger.vkey", "not-a-key"),
        ("ledger.vkey", "taskpass/acme.test+00000000+AAAA"),
        ("ledger.vkey", long.as_str()),
        ("ledger.checkpoint", ""),
        ("ledger.checkpoint", "taskpass/acme.test\n2\n"),
        ("ledger.checkpoint", flipped.as_str()),
        ("ledger.checkpoint", long.as_str()),
    ] {
        let path = fake.identity().join(name);
        fs::write(&path, content).unwrap();
        let before = files(&fake.identity());
        let error = client.renew_svid().await.unwrap_err();
        assert!(
            matches!(error, Error::IdentityFile { .. }),
            "{name}: {error}"
        );
        assert!(error.to_string().contains(name), "{error}");
        assert_eq!(files(&fake.identity()), before, "{name} {content:.40}");
        fs::write(&path, &good[name]).unwrap();
    }
    client.renew_svid().await.unwrap();
}

#[tokio::test]
async fn a_login_with_another_ledger_key_is_refused_before_the_token_is_sent() {
    let fake = Fake::start().await;
    drop(fake.client().await);
    let before = files(&fake.identity());
    let other = tempfile::tempdir().unwrap();
    let stranger = FakeLedger::create(other.path());
    let vkey = stranger.vkey.clone();
    replace(&fake, stranger);
    fake.state().token_used = false;

    let config = fake.config();
    let error = Client::login(&config, &fake.token()).await.unwrap_err();
    assert!(matches!(error, Error::LedgerKeyChanged { .. }), "{error}");
    assert_eq!(files(&fake.identity()), before);
    // Giving up the identity does not give up the history of the same installation.
    let replacing = Client::login_replacing(&config, &fake.token()).await;
    assert!(matches!(replacing, Err(Error::LedgerKeyChanged { .. })));
    // A key that the person did not compare well.
    let wrong = Login {
        accepted_ledger_key: IdentityDirectory::new(fake.identity())
            .pinned()
            .unwrap()
            .key,
        ..Login::default()
    };
    let wrong = Client::login_with(&config, &fake.token(), &wrong).await;
    assert!(matches!(wrong, Err(Error::LedgerKeyChanged { .. })));
    assert!(!fake.state().token_used, "the token was sent");

    let accepted = Login {
        accepted_ledger_key: Some(vkey.parse().unwrap()),
        ..Login::default()
    };
    Client::login_with(&config, &fake.token(), &accepted)
        .await
        .unwrap();
    let directory = IdentityDirectory::new(fake.identity());
    assert_eq!(directory.ledger_vkey().unwrap(), vkey);
    assert_eq!(kept_size(&fake), 2);
}

#[tokio::test]
async fn a_second_installation_with_the_same_names_does_not_replace_the_identity() {
    let (first, second) = (Fake::start().await, Fake::start().await);
    drop(first.client().await);
    let before = files(&first.identity());
    let mut config = second.config();
    config.directory = IdentityDirectory::new(first.identity());

    let error = Client::login(&config, &second.token()).await.unwrap_err();
    assert!(matches!(error, Error::OtherInstallation { .. }), "{error}");
    assert!(!second.state().token_used, "the token was sent");
    assert_eq!(files(&first.identity()), before);

    Client::login_replacing(&config, &second.token())
        .await
        .unwrap();
    let vkey = second.state().ledger.as_ref().unwrap().vkey.clone();
    assert_eq!(config.directory.ledger_vkey().unwrap(), vkey);
    let after = files(&first.identity());
    assert_eq!(after["ledger.vkey.old"], before["ledger.vkey"]);
    Client::connect(config)
        .await
        .unwrap()
        .renew_svid()
        .await
        .unwrap();
}
