//! A login leaves the identity of another installation alone, also where the server shows that
//! installation's ledger.

use std::{fs, sync::Arc, time::Duration};

use taskpass_client::{Client, ClientConfig, Error, IdentityDirectory};
use taskpass_client_testing::{
    fake::Fake,
    ledger::{ENTRIES, FakeLedger},
    pki::Leaf,
};
use taskpass_core::{Clock, ManualClock, SystemClock};
use tempfile::TempDir;

use crate::history::files;

/// Another server with a root of its own, and the ledger of `first` as every agent of `first` sees
/// it: key, checkpoints and proofs.
struct Second {
    fake: Fake,
    /// Logs in at this server, to the directory of `first`.
    config: ClientConfig,
    _ledger: TempDir,
}

impl Second {
    async fn with_the_ledger_of(first: &Fake) -> Self {
        let hours = time::Duration::hours(4);
        let leaf = Leaf {
            until: hours,
            ..Leaf::named("/broker/one")
        };
        let fake = Fake::start_as(&leaf).await;
        fake.state().svid_life = hours;
        let ledger = tempfile::tempdir().unwrap();
        let entries = [&ENTRIES[..], &["later"]].concat();
        let shown = FakeLedger::rewritten(first.dir.path(), ledger.path(), &entries);
        fake.state().ledger = Some(shown);
        let mut config = fake.config();
        config.directory = IdentityDirectory::new(first.identity());
        Self {
            fake,
            config,
            _ledger: ledger,
        }
    }
}

/// The login is refused before the token is sent, and the directory is as it was.
async fn refused(first: &Fake, second: &Second, shown: &str) {
    let before = files(&first.identity());
    let token = second.fake.token();
    let error = Client::login(&second.config, &token).await.unwrap_err();
    let other = matches!(error, Error::OtherInstallation { .. });
    assert!(other, "{shown}: {error}");
    assert!(!second.fake.state().token_used, "{shown}: sent the token");
    assert_eq!(files(&first.identity()), before, "{shown}");
}

/// The config of a client whose clock is past the end of its identity.
fn later(config: &ClientConfig) -> ClientConfig {
    let two_hours = Duration::from_secs(2 * 3600);
    ClientConfig {
        clock: Arc::new(ManualClock::new(SystemClock::new().now().plus(two_hours))),
        ..config.clone()
    }
}

#[tokio::test]
async fn a_stranger_who_shows_our_ledger_does_not_move_the_identity() {
    let first = Fake::start().await;
    drop(first.client().await);
    let stranger = Second::with_the_ledger_of(&first).await;
    let now = SystemClock::new().now();
    let an_hour = Duration::from_secs(3600);
    let (own, stolen) = (first.state().pki.pin, stranger.fake.state().pki.pin);
    let elsewhere = tempfile::tempdir().unwrap();
    let by_another_key = FakeLedger::create(elsewhere.path()).signed_roots(&stolen, now);
    let notes = {
        let state = first.state();
        let ledger = state.ledger.as_ref().unwrap();
        [
            ("nothing", String::new()),
            ("no note", "taskpass roots v1\n".to_owned()),
            ("the list of our broker", ledger.signed_roots(&own, now)),
            ("a list of its own", by_another_key),
            ("a checkpoint", ledger.head(0).checkpoint),
            // Of a root that was retired since, and the key of which was stolen.
            (
                "an old list",
                ledger.signed_roots(&stolen, now.minus(an_hour)),
            ),
        ]
    };
    for (shown, note) in notes {
        stranger.fake.state().signed_roots = Some(note);
        refused(&first, &stranger, shown).await;
    }
    // The ledger alone proves nothing, also to a directory that has lost its roots, and after the
    // identity has expired.
    stranger.fake.state().signed_roots = Some(String::new());
    let bundle = first.identity().join("bundle.pem");
    let roots = fs::read(&bundle).unwrap();
    fs::remove_file(&bundle).unwrap();
    refused(&first, &stranger, "our ledger to a directory without roots").await;
    fs::write(&bundle, roots).unwrap();
    let later = Second {
        config: later(&stranger.config),
        ..stranger
    };
    refused(&first, &later, "our ledger to an expired identity").await;

    // A person gives the identity up.
    let replaced = Client::login_replacing(&later.config, &later.fake.token()).await;
    replaced.unwrap();
}

#[tokio::test]
async fn an_identity_without_a_pinned_ledger_stays_with_its_root() {
    let first = Fake::start().await;
    drop(first.client().await);
    let second = Second::with_the_ledger_of(&first).await;
    for name in ["ledger.vkey", "ledger.checkpoint"] {
        fs::remove_file(first.identity().join(name)).unwrap();
    }
    refused(&first, &second, "a list by a key that nothing pins").await;
}

/// Its root was replaced while the agent was away.
#[tokio::test]
async fn an_installation_that_signs_its_new_root_takes_the_identity_along() {
    for expired in [false, true] {
        let first = Fake::start().await;
        drop(first.client().await);
        let Second { fake, config, .. } = &Second::with_the_ledger_of(&first).await;
        let config = if expired {
            later(config)
        } else {
            config.clone()
        };
        Client::login(&config, &fake.token()).await.unwrap();
        let kept = config.directory.pinned().unwrap();
        assert_eq!(kept.newest.unwrap().size(), 3);
        let client = Client::connect(config).await.unwrap();
        client.whoami().await.unwrap();
    }
}

/// They follow each other in either order, and neither order helps the stranger.
#[tokio::test]
async fn of_two_logins_at_once_the_strangers_moves_nothing() {
    let first = Fake::start().await;
    drop(first.client().await);
    first.state().token_used = false;
    let stranger = Second::with_the_ledger_of(&first).await;
    stranger.fake.state().signed_roots = Some(String::new());
    let (own, other) = (first.config(), stranger.config.clone());
    let tokens = (first.token(), stranger.fake.token());
    let (renewed, refused) = tokio::join!(
        Client::login(&own, &tokens.0),
        Client::login(&other, &tokens.1)
    );
    let leaf = renewed.unwrap();
    assert!(matches!(refused, Err(Error::OtherInstallation { .. })));
    assert_eq!(own.directory.leaf().unwrap().serial, leaf.serial);
}
