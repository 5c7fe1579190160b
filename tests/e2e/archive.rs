//! Old segments of the ledger leave the machine while the broker runs, or is killed meanwhile. The
//! auditor verifies archive and rest together, and the broker goes on without the old part.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use taskpass_tests::{Broker, Cli, Installation, Output, eventually};

use crate::support::{export, vkey};

/// The configuration with the smallest segments there are.
const SMALL_SEGMENTS: &str = "[ledger]\nsegment_bytes = 65536";

fn installation() -> Installation {
    let installation = Installation::new();
    installation.configure(SMALL_SEGMENTS);
    installation
}

/// Registers agents with as many labels as fit: each takes some 9 KB of the ledger.
fn fill(broker: &Broker<'_>, names: impl Iterator<Item = u32>) {
    let operator = broker.operator();
    let labels: Vec<String> = (0..16)
        .map(|n| format!("k{n}={}", "x".repeat(500)))
        .collect();
    for name in names {
        let name = format!("agent-{name}");
        let mut words = vec!["agent", "register", &name, "--owner", "alice@acme.test"];
        for label in &labels {
            words.extend(["--label", label]);
        }
        operator.json(&words);
    }
}

fn agents(broker: &Broker<'_>) -> usize {
    let list = broker.operator().json(&["agent", "list"]);
    list.as_array().expect("a list").len()
}

fn archive(installation: &Installation) -> PathBuf {
    installation.scratch().join("archive")
}

/// `taskpassd ledger archive` of everything until now.
fn run_archive(installation: &Installation) -> std::process::Output {
    let config = installation.home().join("taskpass.toml");
    let (config, to) = (config.display().to_string(), archive(installation));
    let (now, to) = (
        installation.brokers_time().to_string(),
        to.display().to_string(),
    );
    installation.daemon(&[
        "ledger", "archive", "--config", &config, "--before", &now, "--to", &to, "-o", "json",
    ])
}

fn archived(installation: &Installation) -> Value {
    let done = run_archive(installation);
    let error = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{error}");
    serde_json::from_slice(&done.stdout).expect("JSON")
}

/// `taskpass ledger verify` as an auditor runs it, without an identity and without a broker.
fn verify(installation: &Installation, words: &[&str], path: &Path) -> Output {
    let auditor = Cli::new("127.0.0.1:9", &installation.scratch().join("auditor"));
    let (key, path) = (
        vkey(installation).display().to_string(),
        path.display().to_string(),
    );
    let command = ["-o", "json", "ledger", "verify", "--key", &key, &path];
    auditor.run(&[&command, words].concat())
}

fn verified(installation: &Installation, words: &[&str], path: &Path) -> Value {
    let done = verify(installation, words, path);
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).expect("JSON")
}

#[test]
fn old_segments_leave_a_running_broker_and_everything_else_goes_on() {
    let mut installation = installation();
    let broker = installation.start();
    fill(&broker, 0..18);
    let done = archived(&installation);
    let kept = done["kept_from"].as_u64().expect("a number");
    assert!(kept > 10, "{done}");
    assert!(installation.home().join("data/ledger/base").exists());
    let operator = broker.operator();
    // Exports and proofs say what is in the archive, before the first line.
    let (code, refused) = operator.refused(&["ledger", "export"]);
    assert_eq!(code, 1);
    assert!(refused.contains("[ledger] archive"), "{refused}");
    operator.refused(&["ledger", "prove", "0"]);
    operator.json(&["ledger", "prove", &kept.to_string()]);
    let (_, refused) = operator.refused(&["ledger", "export", "--since", "2020-01-01T00:00:00Z"]);
    assert!(refused.contains("in an archive"), "{refused}");
    broker.stop();

    let broker = installation.start();
    assert!(!broker.log().contains("built again"), "{}", broker.log());
    fill(&broker, 18..19);
    assert_eq!(agents(&broker), 19);
    broker.stop();
    let (ledger, archive) = (
        installation.home().join("data/ledger"),
        archive(&installation),
    );
    let old = archive.display().to_string();
    let rest = verified(&installation, &[], &ledger);
    assert_eq!(
        (&rest["complete"], &rest["first"]),
        (&Value::Bool(false), &kept.into())
    );
    let both = verified(&installation, &["--archive", &old], &ledger);
    assert_eq!(
        (&both["complete"], &both["entries"]),
        (&Value::Bool(true), &both["ledger_size"])
    );
    assert_eq!(verified(&installation, &[], &archive)["entries"], kept);

    // A byte of the archive flips.
    let segment = archive.join("segments/00000000000000000000.seg");
    let file = fs::File::options().read(true).write(true).open(&segment);
    let file = file.expect("the first segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 600).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], 600).expect("a byte");
    let refused = verify(&installation, &["--archive", &old], &ledger);
    assert_eq!(refused.code, 1);
    assert!(
        refused.stderr.contains("the archive is damaged at entry"),
        "{}",
        refused.stderr
    );
    file.write_all_at(&byte, 600).expect("a byte");

    // The index is lost: only archive and rest together can build it again.
    fs::remove_dir_all(installation.home().join("data/index")).expect("the index");
    let config = installation
        .home()
        .join("taskpass.toml")
        .display()
        .to_string();
    let refused = installation.daemon(&["run", "--config", &config]);
    let why = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && why.contains("[ledger] archive"),
        "{why}"
    );
    let with_archive = format!("{SMALL_SEGMENTS}\narchive = \"{old}\"\nkeep = \"1d\"");
    installation.edit(|text| text.replace(SMALL_SEGMENTS, &with_archive));
    let broker = installation.start();
    assert_eq!(agents(&broker), 19);
    let diagnosis = eventually("the broker looks for segments that are a day old", || {
        let done = installation.daemon(&["doctor", "--config", &config, "-o", "json"]);
        let found: Value = serde_json::from_slice(&done.stdout).ok()?;
        let all = found["reconcilers"].as_array()?.clone();
        all.into_iter().find(|it| it["name"] == "archive")
    });
    assert_eq!(diagnosis["failures"], 0, "{diagnosis}");
    let all = export(&installation, &broker.operator(), "all.jsonl", &[]);
    broker.operator().json(&["ledger", "prove", "0"]);
    broker.stop();
    assert_eq!(verified(&installation, &[], &all)["complete"], true);
    // The broker notices a foreign archive as an auditor does.
    file.write_all_at(&[byte[0] ^ 1], 600).expect("a byte");
    installation.expect_error("the ledger cannot be read");
    let broker = installation.start();
    let (_, refused) = broker.operator().refused(&["ledger", "export"]);
    assert!(refused.contains("the archive is damaged"), "{refused}");
    broker.stop();
}

/// SIGKILL between any two steps. The history is whole, and the next run completes the archive.
#[test]
fn killed_between_any_two_steps_nothing_is_lost() {
    let installation = installation();
    let (ledger, archive) = (
        installation.home().join("data/ledger"),
        archive(&installation),
    );
    let old = archive.display().to_string();
    let places = [
        "archive.copied",
        "archive.recorded",
        "archive.indexed",
        "archive.forgotten",
    ];
    for (round, place) in (0..).zip(places) {
        let broker = installation.start_with(&[("TASKPASS_FAILPOINT", place)]);
        fill(&broker, round * 9..round * 9 + 9);
        assert!(!run_archive(&installation).status.success(), "{place}");
        broker.wait_killed();
        // Once without a broker, once by the broker.
        if round % 2 == 0 {
            archived(&installation);
        }
        let broker = installation.start();
        archived(&installation);
        assert_eq!(agents(&broker) as u32, round * 9 + 9, "{place}");
        broker.stop();
        let both = verified(&installation, &["--archive", &old], &ledger);
        assert_eq!(both["complete"], true, "{place}");
        let rest = verified(&installation, &[], &ledger);
        let kept = rest["first"].as_u64().expect("a number");
        assert_eq!(
            verified(&installation, &[], &archive)["entries"],
            kept,
            "{place}"
        );
    }
}
