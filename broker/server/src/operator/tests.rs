use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use taskpass_core::Clock as _;

use super::*;
use crate::fixture::Installation;

/// Longer than any certificate of an operator.
const OVER_A_YEAR: Duration = Duration::from_secs(366 * 86_400);

impl Installation {
    async fn issue(&self, operator: &str, dir: &str) -> Result<Issued, Error> {
        self.issue_as(self.user(), operator, dir).await
    }

    async fn issue_as(&self, user: u32, operator: &str, dir: &str) -> Result<Issued, Error> {
        let request = Request {
            config: self.config.clone(),
            operator: operator.parse().unwrap(),
            dir: self.beside(dir),
            user,
        };
        issue(request, &self.deps).await
    }

    async fn accept_clock(&self) {
        let request = clock::Request {
            config: self.config.clone(),
            time: Some(self.clock.now()),
            user: self.user(),
        };
        clock::accept(request, &self.deps).await.unwrap();
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
    let first = installation.path("operator");
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
    let owner = installation.user();
    let refused = installation.issue_as(owner + 1, "admin", "two").await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains(&format!("--reuid={owner} ")), "{message}");

    let held = installation.open().await;
    let error = installation.issue("admin", "two").await.unwrap_err();
    assert!(matches!(error, Error::Running(_)), "{error}");
    held.store.close().await.unwrap();
    drop(held);
    let held = installation.authority();
    let error = installation.issue("admin", "two").await.unwrap_err();
    assert!(matches!(error, Error::Running(_)), "{error}");
    drop(held);

    let now = installation.clock.now();
    let behind = Timestamp::from_millis(now.millis() - 6_000);
    installation.clock.set(behind);
    let error = installation.issue("admin", "two").await.unwrap_err();
    assert!(matches!(error, Error::ClockWentBack { .. }), "{error}");
    installation.clock.set(now);

    assert!(!installation.beside("two").exists());
    assert!(installation.counts(&before.serial).await);
    let made = |event: &&Event| matches!(event, Event::OperatorSvidIssued { .. });
    assert_eq!(installation.events().await.iter().filter(made).count(), 2);
}
