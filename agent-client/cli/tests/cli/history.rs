//! `taskpass ledger`, and a broker that shows another ledger than the one it showed before.

use serde_json::json;
use taskpass_client_testing::{fake::Fake, ledger::FakeLedger};

use crate::commands::{json, logged_in, run, text};

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one history, from export to proof")]
async fn the_history_is_exported_verified_and_proven() {
    let fake = Fake::start().await;
    let vkey = fake.state().ledger.as_ref().unwrap().vkey.clone();
    drop(fake.client().await);

    let stdout = run(&fake, &["ledger", "export"]).await;
    assert!(stdout.status.success(), "{stdout:?}");
    let file = fake.dir.path().join("history.jsonl");
    let path = file.to_str().unwrap();
    assert!(
        run(&fake, &["ledger", "export", "--to", path])
            .await
            .status
            .success()
    );
    assert_eq!(std::fs::read(&file).unwrap(), stdout.stdout);

    let verified = json(&fake, &["ledger", "verify", path]).await;
    assert_eq!(
        (&verified["valid"], &verified["entries"]),
        (&json!(true), &json!(2))
    );
    let anywhere = [
        "ledger",
        "verify",
        "--identity",
        "/nonexistent",
        "--key",
        &vkey,
        path,
    ];
    assert!(run(&fake, &anywhere).await.status.success());
    let directory = fake.dir.path().join("ledger");
    assert!(
        run(&fake, &["ledger", "verify", directory.to_str().unwrap()])
            .await
            .status
            .success()
    );

    let checkpoint = run(&fake, &["ledger", "checkpoint"]).await;
    let kept = fake.dir.path().join("checkpoint.txt");
    std::fs::write(&kept, &checkpoint.stdout).unwrap();
    let args = [
        "ledger",
        "verify",
        "--checkpoint",
        kept.to_str().unwrap(),
        path,
    ];
    assert_eq!(json(&fake, &args).await["continues"], 2);
    assert!(run(&fake, &["ledger", "prove", "0"]).await.status.success());
    let wrong = run(&fake, &["ledger", "prove", "1"]).await;
    assert_eq!(
        wrong.status.code(),
        Some(1),
        "the broker sent another entry: {wrong:?}"
    );

    let tiles = fake.dir.path().join("tiles");
    let args = [
        "ledger",
        "export",
        "--format",
        "tlog-tiles",
        "--to",
        tiles.to_str().unwrap(),
    ];
    let exported = run(&fake, &args).await;
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(
        std::fs::read(tiles.join("checkpoint")).unwrap(),
        checkpoint.stdout
    );

    let tampered = text(&stdout.stdout).replace("one", "two");
    std::fs::write(&file, tampered).unwrap();
    let refused = run(&fake, &["ledger", "verify", path]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("at least one was changed"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn another_ledger_key_is_refused_with_an_exit_code_of_its_own_until_a_person_accepts_it() {
    let fake = logged_in().await;
    let other = tempfile::tempdir().unwrap();
    let stranger = FakeLedger::create(other.path());
    let vkey = stranger.vkey.clone();
    fake.state().ledger = Some(stranger);

    let refused = run(&fake, &["svid", "renew"]).await;
    let words = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(6), "{words}");
    assert!(words.contains(&vkey), "{words}");
    assert!(words.contains("try: taskpass ledger accept-key"), "{words}");
    let sick = run(&fake, &["doctor"]).await;
    assert_eq!(sick.status.code(), Some(1));
    assert!(text(&sick.stdout).contains("FAILED   ledger"), "{sick:?}");

    let wrong = run(&fake, &["ledger", "accept-key", "no-key"]).await;
    assert_eq!(wrong.status.code(), Some(1));
    let accepted = json(&fake, &["ledger", "accept-key", &vkey]).await;
    assert_eq!(accepted["ledger_vkey"], json!(vkey));
    assert_eq!(accepted["replaced_checkpoint_size"], 2);
    assert!(run(&fake, &["svid", "renew"]).await.status.success());
    assert!(run(&fake, &["doctor"]).await.status.success());
}

#[tokio::test]
async fn a_login_names_the_ledger_key_that_a_person_has_compared() {
    let fake = logged_in().await;
    let other = tempfile::tempdir().unwrap();
    let stranger = FakeLedger::create(other.path());
    let file = other.path().join("ledger.vkey");
    std::fs::write(&file, format!("{}\n", stranger.vkey)).unwrap();
    fake.state().ledger = Some(stranger);
    fake.state().token_used = false;
    let token = other.path().join("token");
    std::fs::write(&token, fake.token_text()).unwrap();

    let args = ["login", "--join-token-file", token.to_str().unwrap()];
    let refused = run(&fake, &args).await;
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    let accepting = ["--accept-ledger-key", file.to_str().unwrap()];
    let accepted = run(&fake, &[&args[..], &accepting].concat()).await;
    assert!(accepted.status.success(), "{accepted:?}");
}

/// The identity is fresh, so no renewal compares the ledger.
#[tokio::test]
async fn run_starts_nothing_at_a_broker_with_another_ledger() {
    let fake = logged_in().await;
    let other = tempfile::tempdir().unwrap();
    fake.state().ledger = Some(FakeLedger::create(other.path()));
    let args = ["run", "--purpose", "p", "--role", "vault-main/ci-db", "--"];
    let refused = run(&fake, &[&args[..], &["echo", "must not run"]].concat()).await;
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");
    assert!(refused.stdout.is_empty() && fake.state().tasks.is_empty());
    assert!(
        text(&refused.stderr).contains("try: taskpass ledger accept-key"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_damaged_or_missing_anchor_is_refused_until_a_person_accepts_the_key() {
    let fake = logged_in().await;
    let vkey = fake.state().ledger.as_ref().unwrap().vkey.clone();
    let file = |name: &str| fake.identity().join(name);
    let refused = async |name: &str| {
        let refused = run(&fake, &["task", "list"]).await;
        let words = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{name}: {words}");
        let path = file(name).display().to_string();
        assert!(words.contains(&path), "{words}");
        assert!(words.contains("taskpass ledger accept-key VKEY"), "{words}");
        assert!(!words.contains("`mv "), "{words}");
    };
    let accept = async || {
        json(&fake, &["ledger", "accept-key", &vkey]).await;
        assert!(run(&fake, &["task", "list"]).await.status.success());
        assert!(run(&fake, &["svid", "renew"]).await.status.success());
    };
    let checkpoint = std::fs::read(file("ledger.checkpoint")).unwrap();

    std::fs::write(file("ledger.vkey"), "no key").unwrap();
    refused("ledger.vkey").await;
    accept().await;
    std::fs::write(file("ledger.checkpoint"), "no checkpoint").unwrap();
    refused("ledger.checkpoint").await;
    accept().await;
    std::fs::remove_file(file("ledger.vkey")).unwrap();
    refused("ledger.vkey").await;
    accept().await;

    // The first evidence is the oldest.
    let kept = |name: &str| std::fs::read(file(name)).unwrap();
    assert_eq!(kept("ledger.vkey.old"), b"no key");
    assert_eq!(kept("ledger.vkey.old.2"), format!("{vkey}\n").as_bytes());
    assert_eq!(kept("ledger.checkpoint.old"), checkpoint);
    assert_eq!(kept("ledger.checkpoint.old.2"), b"no checkpoint");
}
