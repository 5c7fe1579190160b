//! The history in the hands of an auditor with a file, a public key, and no reason to trust the
//! broker.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use taskpass_ledger::{Ledger, Options, Priority, SigningKey, VerifyingKey};
use taskpass_tests::{Broker, Cli, Installation, Output, World, eventually};

use crate::support::{History, end, export, text, vkey};

/// Two tasks with one credential each. Returns their ids and the time between the two.
fn play(world: &World, broker: &Broker<'_>) -> (String, String, String) {
    let agent = broker.agent("builder");
    let first = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &first, "vault-main/config", &[]);
    end(&agent, &first);
    let second = World::task(&agent, &["vault-main/config"]);
    let between = text(&agent.json(&["task", "show", &second]), "started_at").to_owned();
    World::issue(&agent, &second, "vault-main/config", &[]);
    assert!(world.bao.task_tokens().len() == 1);
    (first, second, between)
}

/// `taskpass ledger verify` as an auditor runs it: without an identity and without a broker.
fn verify(installation: &Installation, file: &Path, more: &[&str]) -> Output {
    let auditor = Cli::new("127.0.0.1:9", &installation.scratch().join("auditor"));
    let (key, file) = (
        vkey(installation).display().to_string(),
        file.display().to_string(),
    );
    auditor.run(
        &[
            &["-o", "json", "ledger", "verify", "--key", &key, &file],
            more,
        ]
        .concat(),
    )
}

fn verified(installation: &Installation, file: &Path, more: &[&str]) -> Value {
    let done = verify(installation, file, more);
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).expect("JSON")
}

fn assert_refused(installation: &Installation, file: &Path, what: &str) {
    let done = verify(installation, file, &[]);
    assert_eq!(done.code, 1, "{what}: {}{}", done.stdout, done.stderr);
    assert!(
        done.stderr.starts_with("error: "),
        "{what}: {}",
        done.stderr
    );
}

#[test]
fn everything_a_part_and_the_newest_part_verify_with_the_broker_off() {
    let world = World::new();
    let broker = world.start();
    let operator = broker.operator();
    let (first, second, between) = play(&world, &broker);
    let all = export(&world.installation, &operator, "all.jsonl", &[]);
    let of_task = export(
        &world.installation,
        &operator,
        "task.jsonl",
        &["--task", &first],
    );
    let newest = export(
        &world.installation,
        &operator,
        "newest.jsonl",
        &["--since", &between],
    );
    let home = world.installation.home();
    broker.stop();

    let whole = verified(&world.installation, &all, &[]);
    assert_eq!(
        (&whole["complete"], &whole["entries"]),
        (&Value::Bool(true), &whole["ledger_size"])
    );
    for part in [&of_task, &newest] {
        let found = verified(&world.installation, part, &[]);
        assert_eq!(found["complete"], false);
        assert!(
            found["entries"].as_u64() > Some(0)
                && found["entries"].as_u64() < whole["entries"].as_u64()
        );
    }
    let task = fs::read_to_string(&of_task).expect("the export");
    assert!(task.contains(&first) && !task.contains(&second));
    for kind in [
        "task_started",
        "credential_intended",
        "credential_issued",
        "credential_revoked",
        "task_ended",
    ] {
        assert_eq!(History::read(&of_task).of_type(kind).count(), 1, "{kind}");
    }
    assert!(
        History::read(&newest)
            .of_type("task_started")
            .any(|e| e["task"]["id"] == *second)
    );
    assert!(
        !History::read(&newest)
            .of_type("task_started")
            .any(|e| e["task"]["id"] == *first)
    );
    // The directory itself, as it is on the broker's disk.
    let on_disk = verified(&world.installation, &home.join("data/ledger"), &[]);
    assert!(on_disk["entries"].as_u64() >= whole["entries"].as_u64());
    // Standard input works as well as a file.
    let auditor = Cli::new("127.0.0.1:9", &world.installation.scratch().join("auditor"));
    let key = vkey(&world.installation).display().to_string();
    let done = auditor.run_with(
        &["ledger", "verify", "--key", &key, "-"],
        &fs::read_to_string(&all).expect("the export"),
    );
    assert!(
        done.code == 0 && done.stdout.starts_with("valid: all"),
        "{}{}",
        done.stdout,
        done.stderr
    );
}

#[test]
fn any_change_to_an_export_is_refused() {
    let world = World::new();
    let broker = world.start();
    let operator = broker.operator();
    let (first, ..) = play(&world, &broker);
    let whole = export(&world.installation, &operator, "all.jsonl", &[]);
    let part = export(
        &world.installation,
        &operator,
        "task.jsonl",
        &["--task", &first],
    );
    for good in [&whole, &part] {
        verified(&world.installation, good, &[]);
        let original = fs::read_to_string(good).expect("the export");
        for (what, changed) in forgeries(&original) {
            assert_ne!(changed, original, "{what} changes nothing");
            let forged = good.with_extension("forged");
            fs::write(&forged, changed).expect("the forgery can be written");
            assert_refused(&world.installation, &forged, what);
        }
    }
}

fn forgeries(original: &str) -> Vec<(&'static str, String)> {
    let lines: Vec<&str> = original.lines().collect();
    let joined = |lines: Vec<&str>| lines.join("\n") + "\n";
    let with = |change: &dyn Fn(&mut Vec<&str>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        joined(lines)
    };
    vec![
        ("another agent", original.replacen("builder", "buildeR", 1)),
        (
            "a claim of proof",
            original.replacen("\"verified\":true", "\"verified\":false", 1),
        ),
        (
            "a removed entry",
            with(&|lines| {
                lines.remove(2);
            }),
        ),
        (
            "a removed first entry",
            with(&|lines| {
                lines.remove(0);
            }),
        ),
        (
            "two entries in the other order",
            with(&|lines| lines.swap(1, 2)),
        ),
        ("an entry twice", with(&|lines| lines.insert(2, lines[2]))),
        (
            "no checkpoint",
            with(&|lines| {
                lines.pop();
            }),
        ),
        (
            "cut off in the middle",
            original[..original.len() / 2].to_owned(),
        ),
        ("a line behind the end", format!("{original}{}\n", lines[0])),
    ]
}

#[test]
fn an_older_checkpoint_shows_that_the_history_was_only_added_to_and_not_replaced() {
    let world = World::new();
    let broker = world.start();
    let operator = broker.operator();
    let old = world.installation.scratch().join("old.txt");
    broker.agent("early");
    let entries = History::verified(&world.installation, &operator, "early.jsonl")
        .events
        .len();
    let checkpoint = eventually("the first entries are signed", || {
        let checkpoint = operator.json(&["ledger", "checkpoint"]);
        (checkpoint["size"].as_u64() >= u64::try_from(entries).ok()).then_some(checkpoint)
    });
    fs::write(&old, text(&checkpoint, "checkpoint")).expect("the checkpoint can be kept");
    let (first, ..) = play(&world, &broker);
    let old_name = old.to_str().expect("a path in UTF-8");
    let all = export(&world.installation, &operator, "all.jsonl", &[]);
    let more = ["--task", &first, "--checkpoint", old_name];
    let part = export(&world.installation, &operator, "part.jsonl", &more);
    for file in [&all, &part] {
        let found = verified(&world.installation, file, &["--checkpoint", old_name]);
        assert_eq!(found["continues"], checkpoint["size"]);
    }
    // A part that does not prove consistency cannot be compared and must not pass.
    let unproven = export(
        &world.installation,
        &operator,
        "unproven.jsonl",
        &["--task", &first],
    );
    assert_eq!(
        verify(&world.installation, &unproven, &["--checkpoint", old_name]).code,
        1
    );

    // Another history with the same key: the forgery of a broker that hides entries.
    let forged = world.installation.scratch().join("forged.jsonl");
    write_forged_history(&world.installation, all.as_path(), &forged);
    assert_eq!(
        verified(&world.installation, &forged, &[])["complete"],
        true
    );
    let done = verify(&world.installation, &forged, &["--checkpoint", old_name]);
    assert_eq!(done.code, 1, "the replaced history passed: {}", done.stdout);
    // Another installation has another key.
    let another = Installation::new();
    assert_refused(&another, &all, "a history of another installation");
}

#[test]
fn a_broker_with_another_history_is_refused_by_every_identity() {
    let installation = Installation::new();
    let broker = installation.start();
    let agent = broker.agent("builder");
    broker.stop();
    let (ledger, backup) = (
        installation.home().join("data/ledger"),
        installation.scratch().join("backup"),
    );
    copy(&ledger, &backup);

    // What the agent does afterwards is in the checkpoints that both see, and not in the backup.
    let broker = installation.start();
    let (agent, operator) = (agent.through(broker.address()), broker.operator());
    let (_, denied) = agent.refused(&["task", "start", "--purpose", "p", "--role", "no/such"]);
    assert!(denied.contains("no/such"), "{denied}");
    let newest = operator.json(&["ledger", "checkpoint"]);
    broker.stop();
    fs::rename(&ledger, installation.scratch().join("newer")).expect("the ledger moves");
    copy(&backup, &ledger);
    fs::remove_dir_all(installation.home().join("data/index")).expect("the index goes");

    let broker = installation.start();
    let operator = operator.through(broker.address());
    let (code, words) = operator.refused(&["svid", "renew"]);
    assert_eq!(code, 6, "{words}");
    assert!(words.contains("taskpass ledger accept-key"), "{words}");
    let (code, words) = operator.refused(&["ledger", "checkpoint"]);
    assert!(code == 6 || words.contains("fewer than"), "{words}");
    // The agent renewed nothing since the backup, so for it the history only goes on.
    let agent = agent.through(broker.address());
    agent.json(&["svid", "renew"]);

    let key = fs::read_to_string(vkey(&installation)).expect("the key");
    let accepted = operator.json(&["ledger", "accept-key", key.trim()]);
    assert_eq!(accepted["replaced_checkpoint_size"], newest["size"]);
    operator.json(&["svid", "renew"]);
}

fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp")
        .arg("-a")
        .args([from, to])
        .status()
        .expect("cp runs");
    assert!(done.success(), "{} was not copied", from.display());
}

/// Writes another history of the same length, signed with the installation's own key.
fn write_forged_history(installation: &Installation, truth: &Path, forged: &Path) {
    let vkey = fs::read_to_string(vkey(installation)).expect("the public key");
    let vkey: VerifyingKey = vkey.trim().parse().expect("a vkey");
    let key = SigningKey::load(vkey.name(), &installation.home().join("data/ledger.key"))
        .expect("the key");
    let (mut ledger, _) = Ledger::open(&installation.scratch().join("forged"), Options::new(key))
        .expect("a new ledger");
    for line in fs::read_to_string(truth).expect("the export").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        if let Some(entry) = line.get("entry") {
            let entry = entry
                .to_string()
                .replace("alice@acme.test", "mallory@acme.test");
            ledger
                .append_batch(&[entry.as_bytes()], Priority::Normal)
                .expect("an entry");
        }
    }
    let checkpoint = ledger.checkpoint_now().expect("a checkpoint");
    let mut out = Vec::new();
    taskpass_ledger::export::write_full(&ledger.reader(), &checkpoint, &mut out)
        .expect("an export");
    fs::write(forged, out).expect("the forged history can be written");
}

#[test]
fn single_entries_are_proven_and_other_verifiers_read_the_tiles() {
    let world = World::new();
    let broker = world.start();
    let operator = broker.operator();
    play(&world, &broker);
    let size = operator.json(&["ledger", "checkpoint"])["size"]
        .as_u64()
        .expect("a size");
    for index in [0, 1, size - 1] {
        let proven = operator.json(&["ledger", "prove", &index.to_string()]);
        assert!(
            text(&proven, "proof").starts_with("c2sp.org/tlog-proof@v1\n"),
            "{proven}"
        );
        assert!(proven["ledger_size"].as_u64() >= Some(size));
    }
    assert_eq!(
        operator.json(&["ledger", "prove", "0"])["entry"]["event"]["type"],
        "initialized"
    );
    operator.refused(&["ledger", "prove", "1000000"]);

    let tiles = world.installation.scratch().join("tiles");
    let done = operator.run(&[
        "ledger",
        "export",
        "--format",
        "tlog-tiles",
        "--to",
        &tiles.display().to_string(),
    ]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let checkpoint = fs::read_to_string(tiles.join("checkpoint")).expect("tiles have a checkpoint");
    let count: u64 = checkpoint
        .lines()
        .nth(1)
        .expect("a size")
        .parse()
        .expect("a number");
    assert!(count >= size);
    assert!(tiles.join("tile/0").is_dir() && tiles.join("tile/entries").is_dir());
    assert_refused(&world.installation, &tiles, "tiles");
    let complaint = verify(&world.installation, &tiles, &[]).stderr;
    assert!(
        complaint.contains("tlog-tiles, a format for the verifiers of others")
            && complaint.contains("`taskpass ledger export --to history.jsonl`"),
        "{complaint}"
    );
}

/// The advice must not be to log in: an auditor has no identity and needs none.
#[test]
fn an_auditor_without_a_key_is_told_where_it_is_and_no_export_is_lost() {
    let installation = Installation::new();
    let broker = installation.start();
    let operator = broker.operator();
    let file = export(&installation, &operator, "all.jsonl", &[]);
    let name = file.display().to_string();
    let auditor = Cli::new("127.0.0.1:9", &installation.scratch().join("auditor"));
    let (code, complaint) = auditor.refused(&["ledger", "verify", &name]);
    assert_eq!(code, 1, "{complaint}");
    assert!(
        complaint.contains("`--key FILE`") && complaint.contains("`ledger.vkey`"),
        "{complaint}"
    );
    assert!(!complaint.contains("log in"), "{complaint}");

    let (code, complaint) = operator.refused(&["ledger", "export", "--to", &name]);
    assert!(code == 1 && complaint.contains("--force"), "{complaint}");
    let done = operator.run(&["ledger", "export", "--force", "--to", &name]);
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn a_damaged_ledger_does_not_start_and_a_torn_tail_does() {
    let mut installation = Installation::new();
    installation.expect_error("ledger");
    let broker = installation.start();
    broker.agent("builder");
    broker.kill();
    let segment = segment(&installation);
    let whole = fs::read(&segment).expect("the segment");

    fs::write(&segment, &whole[..whole.len() - 7]).expect("the tail can be torn");
    let broker = installation.start();
    broker.operator().json(&["agent", "show", "builder"]);
    broker.stop();

    let mut damaged = fs::read(&segment).expect("the segment");
    let middle = damaged.len() / 3;
    damaged[middle] ^= 0x01;
    fs::write(&segment, &damaged).expect("the segment can be damaged");
    let config = installation
        .home()
        .join("taskpass.toml")
        .display()
        .to_string();
    let done = installation.daemon(&["run", "--config", &config]);
    assert!(!done.status.success());
    let complaint = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(complaint.contains("ledger"), "{complaint}");
    assert_refused(
        &installation,
        &installation.home().join("data/ledger"),
        "a damaged directory",
    );
}

/// The only segment of a small ledger.
fn segment(installation: &Installation) -> PathBuf {
    installation
        .home()
        .join("data/ledger/segments/00000000000000000000.seg")
}
