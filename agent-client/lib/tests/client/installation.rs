//! A login leaves the identity of another installation alone, whatever its server shows.

use taskpass_client::{Client, ClientConfig, Error, IdentityDirectory};
use taskpass_client_testing::{
    fake::Fake,
    ledger::{ENTRIES, FakeLedger},
};
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
        let fake = Fake::start().await;
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

#[tokio::test]
async fn a_stranger_who_shows_our_ledger_does_not_move_the_identity() {
    let first = Fake::start().await;
    drop(first.client().await);
    let stranger = Second::with_the_ledger_of(&first).await;
    let before = files(&first.identity());
    let error = Client::login(&stranger.config, &stranger.fake.token())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::OtherInstallation { .. }), "{error}");
    assert!(!stranger.fake.state().token_used, "the token was sent");
    assert_eq!(files(&first.identity()), before);
}
