use std::{os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use taskpass_ca::KeyFiles;
use taskpass_core::{Clock as _, ManualClock, SeededEntropy};
use taskpass_store::Entry;

use super::*;
use crate::init::{Plan, install};

/// Longer than any certificate of an operator.
const OVER_A_YEAR: Duration = Duration::from_secs(366 * 86_400);

struct Installation {
    scratch: tempfile::TempDir,
    clock: Arc<ManualClock>,
    deps: Deps,
    config: Config,
}

impl Installation {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_800_000_000_000)));
        let deps = Deps {
            clock: clock.clone(),
            entropy: Arc::new(SeededEntropy::new(3)),
            credentials: None,
        };
        let plan = Plan {
            dir: scratch.path().join("t"),
            trust_domain: "acme.test".parse().unwrap(),
            operator: "admin".parse().unwrap(),
        };
        let installed =
            install(plan, &crate::provider_kinds(), &deps.clock, &deps.entropy).unwrap();
        let config = installed.config().clone();
        Self {
            scratch,
            clock,
            deps,
            config,
        }
    }

    fn owner(&self) -> u32 {
        fs::metadata(&self.config.data_dir).unwrap().uid()
    }

    async fn issue(&self, operator: &str, dir: &str) -> Result<Issued, Error> {
        self.issue_as(self.owner(), operator, dir).await
    }

    async fn issue_as(&self, user: u32, operator: &str, dir: &str) -> Result<Issued, Error> {
        let request = Request {
            config: self.config.clone(),
            operator: operator.parse().unwrap(),
            dir: self.scratch.path().join(dir),
            user,
        };
        issue(request, &self.deps).await
    }

    async fn accept_clock(&self) {
        let request = clock::Request {
            config: self.config.clone(),
            time: Some(self.clock.now()),
            user: self.owner(),
        };
        clock::accept(request, &self.deps).await.unwrap();
    }

    /// Every event, in the order of the ledger.
    async fn events(&self) -> Vec<Event> {
        let opened = app::open_store(
            &self.config,
            &self.deps,
            Arc::new(SystemDisk),
            &KeyFiles::plain(),
        )
        .await
        .unwrap();
        let reader = opened.ledger;
        let events = (0..reader.size())
            .map(|i| Entry::parse(&reader.entry(i).unwrap()).unwrap().event)
            .collect();
        opened.store.close().await.unwrap();
        events
    }

    async fn counts(&self, serial: &str) -> bool {
        let opened = app::open_store(
            &self.config,
            &self.deps,
            Arc::new(SystemDisk),
            &KeyFiles::plain(),
        )
        .await
        .unwrap();
        let store = opened.store;
        let found = store.svid(serial).await.unwrap().is_some();
        store.close().await.unwrap();
        found
    }
}

/// The serial of an operator's certificate, and whether it was issued on the broker's machine.
fn origin(event: &Event) -> (&str, bool) {
    let Event::OperatorSvidIssued { serial, local, .. } = event else {
        panic!("{event:?}");
    };
    (serial, *local)
}

#[tokio::test]
async fn an_operator_gets_another_certificate_after_the_only_one_expired() {
    let installation = Installation::new();
    installation.clock.advance(OVER_A_YEAR);
    // After a year without a broker a person has to confirm the time first.
    let refused = installation.issue("admin", "again").await.unwrap_err();
    assert!(matches!(refused, Error::ClockInDoubt { .. }), "{refused}");
    installation.accept_clock().await;
    let issued = installation.issue("admin", "again").await.unwrap();
    assert!(issued.expires_at > installation.clock.now());
    assert!(installation.counts(&issued.serial).await);
    let events = installation.events().await;
    let (first, local) = origin(&events[1]);
    assert!(!local && !installation.counts(first).await);
    let at = usize::try_from(issued.ledger_index).unwrap();
    assert_eq!(origin(&events[at]), (issued.serial.as_str(), true));

    for (name, mode) in [("", 0o700), ("key.pem", 0o600), ("svid.pem", 0o600)] {
        let metadata = fs::metadata(issued.identity_dir.join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o7777, mode, "{name}");
    }
    let first = installation.scratch.path().join("t/operator");
    for name in ["bundle.pem", "ledger.vkey"] {
        let read = |dir: &Path| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!(read(&issued.identity_dir), read(&first), "{name}");
    }
}

#[tokio::test]
async fn only_the_certificates_of_that_operator_stop_counting() {
    let installation = Installation::new();
    let ann = installation.issue("ann", "ann").await.unwrap();
    let first = installation.issue("admin", "one").await.unwrap();
    let second = installation.issue("admin", "two").await.unwrap();
    for (issued, wanted) in [(&ann, true), (&first, false), (&second, true)] {
        assert_eq!(installation.counts(&issued.serial).await, wanted);
    }
    let said = second.to_string();
    assert!(said.contains("no other certificate of `admin` counts any more"));
    let json: serde_json::Value = serde_json::from_str(&second.to_json()).unwrap();
    assert_eq!(json["spiffe_id"], "spiffe://acme.test/operator/admin");
    assert_eq!(json["serial"], second.serial.as_str());
    let dir = second.identity_dir.to_str().unwrap();
    assert_eq!(json["identity_dir"], dir);
}

/// The certificate that counted before still counts, and no directory is left.
#[tokio::test]
async fn a_refused_request_changes_nothing() {
    let installation = Installation::new();
    let before = installation.issue("admin", "one").await.unwrap();

    let error = installation.issue("admin", "one").await.unwrap_err();
    assert!(matches!(error, Error::Occupied(_)), "{error}");
    let error = installation.issue("admin", "no/such").await.unwrap_err();
    assert!(matches!(error, Error::Directory(_)), "{error}");

    // The broker could not open files that another user writes here.
    let owner = installation.owner();
    let refused = installation.issue_as(owner + 1, "admin", "two").await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains(&format!("--reuid={owner} ")), "{message}");

    let held = app::open_store(
        &installation.config,
        &installation.deps,
        Arc::new(SystemDisk),
        &KeyFiles::plain(),
    )
    .await
    .unwrap();
    let error = installation.issue("admin", "two").await.unwrap_err();
    assert!(matches!(error, Error::Running(_)), "{error}");
    held.store.close().await.unwrap();
    drop(held);
    let held =
        app::open_authority(&installation.config, &installation.deps, &KeyFiles::plain()).unwrap();
    let error = installation.issue("admin", "two").await.unwrap_err();
    assert!(matches!(error, Error::Running(_)), "{error}");
    drop(held);

    let now = installation.clock.now();
    let behind = Timestamp::from_millis(now.millis() - 6_000);
    installation.clock.set(behind);
    let error = installation.issue("admin", "two").await.unwrap_err();
    assert!(matches!(error, Error::ClockWentBack { .. }), "{error}");
    installation.clock.set(now);

    assert!(!installation.scratch.path().join("two").exists());
    assert!(installation.counts(&before.serial).await);
    let made = |event: &&Event| matches!(event, Event::OperatorSvidIssued { .. });
    assert_eq!(installation.events().await.iter().filter(made).count(), 2);
}
