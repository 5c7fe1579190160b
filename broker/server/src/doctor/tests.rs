use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use taskpass_ca::{Authority, IssueOptions, NewKey};
use taskpass_core::{Identity, ManualClock, RootNumber, Timestamp};

use super::*;
use crate::{fixture::Installation, provider_kinds};

impl Installation {
    /// An installation whose clock is ahead of the times of the files that are written now.
    fn in_future() -> Self {
        Self::on(ManualClock::new(Timestamp::from_millis(4_000_000_000_000)))
    }

    /// The authority as a running broker holds it.
    fn running_authority(&self) -> Arc<Authority> {
        let authority = self.authority();
        authority.rotate().unwrap();
        authority
    }

    async fn diagnose(&self) -> Diagnosis {
        let none = |_: &Config| Vec::new();
        diagnose(&self.config.path, &provider_kinds(), &self.deps, none).await
    }

    /// The only finding that is not ok.
    async fn only_problem(&self) -> Finding {
        self.only_problem_beside(&[]).await
    }

    /// The same after months without a broker, when a person has to confirm the time.
    async fn only_problem_after_months(&self) -> Finding {
        self.only_problem_beside(&["clock"]).await
    }

    async fn only_problem_beside(&self, expected: &[&str]) -> Finding {
        let diagnosis = self.diagnose().await;
        let text = diagnosis.to_string();
        for check in expected {
            let failed = format!("[fail] {check}: ");
            assert!(text.contains(&failed), "{text}");
        }
        // A new installation has its keys in plain text, and `doctor` says so.
        let known = [&["disk", "files", "seal"], expected].concat();
        let problem = |f: &Finding| f.verdict != Verdict::Ok && !known.contains(&f.check.as_str());
        let mut bad = diagnosis.findings.into_iter().filter(problem);
        let first = bad.next().unwrap_or_else(|| panic!("all is well:\n{text}"));
        assert_eq!(bad.next(), None, "{text}");
        first
    }
}

fn chmod(path: &std::path::Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_new_installation_is_well_and_is_left_as_it_was() {
    let installation = Installation::in_future();
    let lock = fs::metadata(installation.path("data/ledger/lock"))
        .unwrap()
        .modified()
        .unwrap();
    let diagnosis = installation.diagnose().await;
    let text = diagnosis.to_string();
    assert!(!diagnosis.has_failed(), "{text}");
    for (check, words) in [
        ("config", "is right"),
        ("keys", "the keys in "),
        ("ledger", "2 entries are as they were written and signed"),
        ("authority", "the root certificate is valid until"),
        ("authority", "there is no signing CA yet"),
        ("operator", "operator/admin` in `"),
        ("policy", "policies in 1 file in"),
        ("address", "is free"),
        ("clock", "the ledger was last written"),
    ] {
        let found = diagnosis
            .findings
            .iter()
            .any(|f| f.check == check && f.message.contains(words));
        assert!(found, "{check} {words}\n{text}");
    }
    assert_eq!(
        fs::metadata(installation.path("data/ledger/lock"))
            .unwrap()
            .modified()
            .unwrap(),
        lock
    );
}

#[tokio::test]
async fn keys_in_plain_text_are_named_with_the_command_that_seals_them() {
    let installation = Installation::in_future();
    let diagnosis = installation.diagnose().await;
    let mut found = diagnosis.findings.iter();
    let finding = found.find(|finding| finding.check == "seal").unwrap();
    assert_eq!(finding.verdict, Verdict::Warn);
    for name in ["ca/root.key", "ledger.key"] {
        assert!(finding.message.contains(name), "{diagnosis}");
    }
    let advice = finding.advice.as_deref().unwrap();
    assert!(
        advice.contains("`taskpassd keys seal --config "),
        "{advice}"
    );

    // The configuration names a seal, and the keys are as they were.
    let pass = installation.beside("pass");
    fs::write(&pass, "correct horse battery staple").unwrap();
    chmod(&pass, 0o600);
    let keys = "seal = \"passphrase_file\"\npassphrase_file = \"../pass\"";
    installation.edit(|text| text.replace("seal = \"plain\"", keys));
    let diagnosis = installation.diagnose().await.to_string();
    assert!(
        diagnosis.contains("[fail] seal: [keys] names the seal"),
        "{diagnosis}"
    );
    chmod(&pass, 0o644);
    let diagnosis = installation.diagnose().await.to_string();
    assert!(
        diagnosis.contains("pass` is open to other users"),
        "{diagnosis}"
    );
}

/// A running broker holds the locks; `doctor` must need none of them.
#[tokio::test]
async fn it_works_beside_a_running_broker() {
    let installation = Installation::in_future();
    let config = &installation.config;
    let _authority = installation.running_authority();
    let key =
        taskpass_ledger::SigningKey::load(&config.ledger_origin(), &config.ledger_key()).unwrap();
    let _ledger =
        taskpass_ledger::Ledger::open(&config.ledger_dir(), taskpass_ledger::Options::new(key))
            .unwrap();
    let diagnosis = installation.diagnose().await;
    let text = diagnosis.to_string();
    assert!(
        !diagnosis.has_failed() && text.contains("the signing CA is valid until"),
        "{text}"
    );
}

#[tokio::test]
async fn a_file_that_others_can_read_is_a_failure_with_the_command_that_helps() {
    for (name, mode, words) in [
        ("data/ledger.key", 0o640, "chmod 600 "),
        ("data/ca/root.key", 0o604, "chmod 600 "),
        ("data", 0o750, "chmod 700 "),
        ("data/ca", 0o701, "chmod 700 "),
        ("taskpass.toml", 0o620, "chmod go-w "),
    ] {
        let installation = Installation::in_future();
        chmod(&installation.path(name), mode);
        let diagnosis = installation.diagnose().await;
        let text = diagnosis.to_string();
        assert!(diagnosis.has_failed(), "{name}: {text}");
        let advice = format!("{words}{}", installation.path(name).display());
        assert!(text.contains(&advice), "{text}");
    }
}

#[tokio::test]
async fn a_provider_s_secret_must_be_there_and_private() {
    let installation = Installation::in_future();
    installation.edit(|text| {
        format!("{text}\n[[provider]]\nname = \"v\"\nkind = \"vault\"\naddress = \"http://127.0.0.1:1\"\ntoken_file = \"token\"\n")
    });
    let problem = installation.only_problem().await;
    assert!(
        problem.message.ends_with("/t/token` is not there"),
        "{problem:?}"
    );
    fs::write(installation.path("token"), "secret").unwrap();
    chmod(&installation.path("token"), 0o644);
    let problem = installation.only_problem().await;
    assert!(problem.message.contains("(mode 0644)"), "{problem:?}");
    chmod(&installation.path("token"), 0o600);
    assert!(!installation.diagnose().await.has_failed());
}

#[tokio::test]
async fn a_changed_ledger_is_a_failure() {
    let installation = Installation::in_future();
    let segments = installation.path("data/ledger/segments");
    let segment = fs::read_dir(&segments)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|w| w == b"admin").unwrap();
    bytes[at] = b'b';
    fs::write(&segment, bytes).unwrap();
    let problem = installation.only_problem().await;
    assert_eq!(
        (problem.check.as_str(), problem.verdict),
        ("ledger", Verdict::Fail)
    );
}

#[tokio::test]
async fn a_clock_that_is_behind_is_a_failure() {
    let installation = Installation::in_future();
    installation
        .clock
        .set(Timestamp::EPOCH.plus(Duration::from_secs(86_400)));
    let diagnosis = installation.diagnose().await;
    let clock = diagnosis
        .findings
        .iter()
        .find(|f| f.check == "clock")
        .unwrap();
    assert_eq!(clock.verdict, Verdict::Fail, "{clock:?}");
    let advice = clock.advice.as_deref().unwrap();
    assert!(advice.contains("taskpassd clock accept"), "{advice}");
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_is_a_failure() {
    let installation = Installation::in_future();
    installation
        .clock
        .set(Timestamp::from_millis(4_000_000_000_000).plus(Duration::from_secs(5 * 365 * 86_400)));
    let diagnosis = installation.diagnose().await.to_string();
    let line = diagnosis
        .lines()
        .find(|line| line.starts_with("[fail] clock: "));
    let line = line.unwrap_or_else(|| panic!("{diagnosis}"));
    for words in [
        "157680000 seconds ahead of",
        "nothing is issued",
        "taskpassd clock accept",
    ] {
        assert!(line.contains(words), "{line}");
    }
}

#[tokio::test]
async fn an_operators_identity_near_its_end_is_reported() {
    let installation = Installation::in_future();
    for (days, verdict) in [(26, Verdict::Warn), (5, Verdict::Fail)] {
        installation
            .clock
            .advance(Duration::from_secs(days * 86_400));
        let problem = match verdict {
            Verdict::Warn => installation.only_problem().await,
            _ => installation.only_problem_after_months().await,
        };
        assert_eq!(
            (problem.check.as_str(), problem.verdict),
            ("operator", verdict)
        );
        let advice = problem.advice.unwrap();
        assert!(advice.contains("taskpassd operator issue"), "{advice}");
    }
    fs::write(installation.path("operator/svid.pem"), "not a certificate").unwrap();
    let problem = installation.only_problem_after_months().await;
    assert!(problem.message.contains("cannot be read"), "{problem:?}");
}

#[tokio::test]
async fn a_root_in_its_last_year_and_an_unfinished_replacement_are_reported() {
    let installation = Installation::in_future();
    fs::remove_file(installation.path("operator/svid.pem")).unwrap();
    let authority = installation.running_authority();
    authority.prepare_root().unwrap();
    let unfinished = async |next: &str, beside: &[&str]| {
        let problem = installation.only_problem_beside(beside).await;
        assert_eq!(problem.verdict, Verdict::Warn, "{problem:?}");
        assert!(problem.advice.unwrap().contains(next));
    };
    unfinished("taskpassd root activate", &[]).await;
    authority.activate_root().unwrap();
    // The broker was not asked, so nothing of it is on record.
    unfinished("taskpassd root retire", &["roots"]).await;
    authority.retire_root(RootNumber::FIRST).unwrap();
    drop(authority);
    assert!(!installation.path("data/ca/root.pem").exists());
    let years = 10 * 365 - 364;
    installation
        .clock
        .advance(Duration::from_secs(years * 86_400));
    let text = installation.diagnose().await.to_string();
    assert!(
        text.contains("[warn] authority: the root certificate ends at"),
        "{text}"
    );
    assert!(text.contains("taskpassd root prepare"), "{text}");
}

/// A login into the operator's directory leaves an agent's certificate there.
#[tokio::test]
async fn an_identity_of_another_kind_is_no_operators() {
    let installation = Installation::in_future();
    let authority = installation.running_authority();
    let key = NewKey::generate().unwrap();
    let builder = Identity::Agent("builder".parse().unwrap());
    let issued = authority.issue(&builder, key.public_key(), &IssueOptions::default());
    drop(authority);
    fs::write(
        installation.path("operator/svid.pem"),
        issued.unwrap().chain_pem(),
    )
    .unwrap();
    let problem = installation.only_problem().await;
    assert_eq!(
        (problem.check.as_str(), problem.verdict),
        ("operator", Verdict::Fail)
    );
    assert!(
        problem.message.contains("spiffe://acme.test/agent/builder"),
        "{problem:?}"
    );
    let advice = problem.advice.unwrap();
    assert!(advice.contains("taskpassd operator issue"), "{advice}");
}

#[tokio::test]
async fn an_old_root_and_a_wrong_policy_are_reported() {
    let installation = Installation::in_future();
    // As if the operator had moved the identity to another machine, where it belongs.
    fs::remove_dir_all(installation.path("operator")).unwrap();
    installation
        .clock
        .advance(Duration::from_secs(3600 * 86_400));
    let problem = installation.only_problem_after_months().await;
    assert_eq!(
        (problem.check.as_str(), problem.verdict),
        ("authority", Verdict::Warn)
    );
    installation.clock.advance(Duration::from_secs(60 * 86_400));
    let problem = installation.only_problem_after_months().await;
    assert_eq!(
        (problem.check.as_str(), problem.verdict),
        ("authority", Verdict::Fail)
    );

    let installation = Installation::in_future();
    fs::write(installation.path("policy/x.cedar"), "permit(").unwrap();
    let problem = installation.only_problem().await;
    assert_eq!(
        (problem.check.as_str(), problem.verdict),
        ("policy", Verdict::Fail)
    );
}

#[tokio::test]
async fn a_wrong_configuration_ends_the_diagnosis() {
    let installation = Installation::in_future();
    installation.edit(|text| format!("adress = 1\n{text}"));
    let diagnosis = installation.diagnose().await;
    assert_eq!(diagnosis.findings.len(), 1);
    assert!(
        diagnosis.findings[0]
            .message
            .contains("taskpass.toml:1:1: unknown key `adress`")
    );
    let json: serde_json::Value = serde_json::from_str(&diagnosis.to_json()).unwrap();
    assert_eq!(json["verdict"], "fail");
    assert_eq!(json["findings"][0]["check"], "config");
}

#[tokio::test]
async fn an_address_in_use_is_reported() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let installation = Installation::in_future();
    installation.edit(|text| text.replace("127.0.0.1:0", &address.to_string()));
    let diagnosis = installation.diagnose().await;
    let found = format!("something answers at {address}");
    assert!(
        diagnosis.findings.iter().any(|f| f.message == found),
        "{diagnosis}"
    );
}

#[tokio::test]
async fn a_provider_that_cannot_be_built_is_reported() {
    let installation = Installation::in_future();
    let providers =
        |_: &Config| vec![("v".parse().unwrap(), Err("a template is wrong".to_owned()))];
    let path = &installation.config.path;
    let diagnosis = diagnose(path, &provider_kinds(), &installation.deps, providers).await;
    assert!(diagnosis.has_failed());
    assert!(
        diagnosis
            .to_string()
            .contains("[fail] provider v: a template is wrong; "),
        "{diagnosis}"
    );
}

/// What the broker of [`answering`] says of its breakers.
const BREAKERS: &str =
    r#"[{"provider": "vault-main", "circuit_open": false, "paused_roles": ["vault-main/ci-db"]}]"#;

/// A broker's end of the control socket that tells this to each who asks.
#[expect(
    clippy::disallowed_methods,
    reason = "the test's runtime ends it together with the test"
)]
fn answering(installation: &Installation, answer: &'static str) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let socket = installation.path("data/control.sock");
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        loop {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut command = Vec::new();
            while !command.ends_with(b"\n") {
                command.push(peer.read_u8().await.unwrap());
            }
            let answer = match command.as_slice() {
                b"reconcilers\n" => answer,
                b"breakers\n" => BREAKERS,
                other => panic!("{other:?}"),
            };
            peer.write_all(answer.as_bytes()).await.unwrap();
        }
    });
}

#[tokio::test]
async fn reconcilers_that_fail_are_a_warning_and_without_a_broker_there_are_none() {
    let installation = Installation::in_future();
    let diagnosis = installation.diagnose().await;
    let none = "[ok]   reconcilers: no broker runs with this data directory, so there are none";
    assert!(diagnosis.to_string().contains(none), "{diagnosis}");
    let json: serde_json::Value = serde_json::from_str(&diagnosis.to_json()).unwrap();
    assert_eq!(json.get("reconcilers"), None);

    answering(
        &installation,
        r#"[
            {"name": "reaper", "runs": 7, "failures": 3, "failures_in_a_row": 2,
             "last_run_at": "2026-11-22T10:00:05.000Z", "last_success_at": "2026-11-22T10:00:00.000Z",
             "last_error": {"at": "2026-11-22T10:00:05.000Z", "message": "the disk is full"}},
            {"name": "revoker", "runs": 9, "failures": 0, "failures_in_a_row": 0,
             "last_run_at": "2026-11-22T10:00:06.000Z", "last_success_at": "2026-11-22T10:00:06.000Z",
             "last_error": null}
        ]"#,
    );
    let diagnosis = installation.diagnose().await;
    assert!(!diagnosis.has_failed(), "{diagnosis}");
    for line in [
        "[warn] reconciler reaper: failed 2 times in a row, last succeeded at 2026-11-22T10:00:00.000Z (7 runs, 3 failed); last error at 2026-11-22T10:00:05.000Z: the disk is full; mend what the error names; the broker tries again by itself, and its log has each attempt",
        "[warn] breaker vault-main: calls for `vault-main/ci-db` failed several times, so nothing is issued from there for a while; find why with `taskpass provider check vault-main` and in the broker's log; issuing goes on by itself",
        "[ok]   reconciler revoker: last succeeded at 2026-11-22T10:00:06.000Z (9 runs, 0 failed)",
    ] {
        let found = diagnosis.to_string().lines().any(|it| it == line);
        assert!(found, "{line}\n{diagnosis}");
    }
    let json: serde_json::Value = serde_json::from_str(&diagnosis.to_json()).unwrap();
    assert_eq!(json["reconcilers"][0]["name"], "reaper");
    assert_eq!(
        json["reconcilers"][0]["last_error"]["message"],
        "the disk is full"
    );

    // A broker that runs is asked although the file is wrong.
    installation.edit(|text| format!("adress = 1\n{text}"));
    let diagnosis = installation.diagnose().await;
    assert!(diagnosis.to_string().contains("[warn] reconciler reaper: "));
}

#[tokio::test]
async fn a_broker_that_does_not_answer_is_a_warning() {
    let installation = Installation::in_future();
    answering(&installation, "");
    let diagnosis = installation.diagnose().await;
    let warned = "[warn] reconcilers: the broker does not answer: ";
    assert!(
        !diagnosis.has_failed() && diagnosis.to_string().contains(warned),
        "{diagnosis}"
    );
}

#[tokio::test]
async fn an_index_that_was_set_aside_is_named() {
    let installation = Installation::in_future();
    fs::create_dir(installation.path("data/index.damaged-1")).unwrap();
    let found = installation.only_problem().await;
    assert_eq!(
        (found.check.as_str(), found.verdict),
        ("index", Verdict::Warn)
    );
    assert!(found.message.contains("index.damaged-1"), "{found:?}");
}
