//! Clocks that run away: the broker refuses to issue, goes on revoking, shows the doubt, and finds
//! back.

use std::fs;

use serde_json::Value;
use taskpass_core::{Clock as _, SystemClock, Timestamp};
use taskpass_tests::{Broker, Cli, Installation, World, eventually};

use crate::{
    metrics::Metrics,
    support::{export, health_of_issuing, receipt, text, time, vkey},
};

const DAY: i64 = 86_400;
const YEARS: i64 = 5 * 365 * DAY;
const IN_DOUBT: &str = "the clock is in doubt";

fn taskpassd(installation: &Installation, words: &[&str], more: &[&str]) -> (bool, String) {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let done = installation.daemon(&[words, &["--config", config], more].concat());
    let said = String::from_utf8([done.stdout, done.stderr].concat()).expect("text");
    (done.status.success(), said)
}

fn doctors_word_on_the_clock(installation: &Installation) -> String {
    let (_, said) = taskpassd(installation, &["doctor"], &[]);
    let is_of_clock = |line: &&str| line.starts_with('[') && line.get(7..13) == Some("clock:");
    let line = said.lines().find(is_of_clock);
    line.unwrap_or_else(|| panic!("{said}")).to_owned()
}

/// The times of all entries.
fn times(installation: &Installation, operator: &Cli, name: &str) -> Vec<Timestamp> {
    let exported = fs::read_to_string(export(installation, operator, name, &[]));
    let lines = exported
        .expect("the export")
        .lines()
        .map(str::to_owned)
        .collect::<Vec<_>>();
    let line = |line: &String| serde_json::from_str::<Value>(line).expect("JSON");
    let entries = lines
        .iter()
        .map(line)
        .filter(|line| line["entry"].is_object());
    entries.map(|line| time(&line["entry"], "time")).collect()
}

#[test]
fn a_runaway_clock_stops_issuing_and_is_shown_everywhere() {
    let mut world = World::new();
    world.installation.expect_error(IN_DOUBT);
    let on = "[listen]\nmetrics = \"0\"";
    world.installation.edit(|text| text.replace("[listen]", on));
    world.installation.shift_clock(0);
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let token = World::issue(&agent, &task, "vault-main/config", &[]);
    let is_in_doubt = |broker: &Broker<'_>| {
        Metrics::read(broker).value("taskpass_clock_in_doubt", &[]) == Some(1.0)
    };
    assert!(!is_in_doubt(&broker));
    eventually("health says that it issues", || {
        (health_of_issuing(&broker) == Some(1)).then_some(())
    });

    world.installation.shift_brokers_clock(YEARS);
    for request in [
        &[
            "task",
            "start",
            "--purpose",
            "x",
            "--role",
            "vault-main/config",
        ][..],
        &[
            "credential",
            "issue",
            "--task",
            &task,
            "--role",
            "vault-main/config",
        ],
        &["credential", "renew", text(&token, "credential_id")],
        &["svid", "renew"],
    ] {
        let (_, why) = agent.refused(request);
        assert!(why.contains("seconds ahead of"), "{request:?}: {why}");
        assert!(why.contains("taskpassd clock accept"), "{why}");
    }
    eventually("health says that it does not issue", || {
        (health_of_issuing(&broker) == Some(2)).then_some(())
    });
    eventually("the log says it", || {
        broker.log().contains(IN_DOUBT).then_some(())
    });
    eventually("the metrics say it", || is_in_doubt(&broker).then_some(()));
    let ahead = Metrics::read(&broker).value("taskpass_clock_ahead_seconds", &[]);
    assert!(ahead > Some(1e8), "{ahead:?}");
    let said = doctors_word_on_the_clock(&world.installation);
    assert!(said.starts_with("[fail] clock: "), "{said}");
    assert!(said.contains("taskpassd clock accept --config "), "{said}");
    let (_, said) = taskpassd(&world.installation, &["doctor"], &[]);
    assert!(said.contains("[warn] reconciler clock: failed "), "{said}");

    // Reading and revoking go on.
    assert_eq!(
        broker.operator().json(&["agent", "list"])[0]["name"],
        "builder"
    );
    let ended = agent.json(&["task", "end", &task]);
    assert_eq!(text(receipt(&ended, &token), "state"), "revoked_verified");
    assert!(world.bao.task_tokens().is_empty());

    // The clock is right again, and the broker needs no help.
    world.installation.shift_brokers_clock(0);
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    agent.json(&["task", "end", &task]);
    eventually("health says that it issues", || {
        (health_of_issuing(&broker) == Some(1)).then_some(())
    });
    let said = doctors_word_on_the_clock(&world.installation);
    assert!(said.starts_with("[ok]   clock: "), "{said}");
    let all = times(&world.installation, &broker.operator(), "all.jsonl");
    let now = SystemClock::new().now();
    assert!(all.iter().all(|time| *time <= now), "{all:?}");
    broker.stop();
}

/// On one run of the machine the broker knows how long it was stopped, so a restart clears no
/// clock, not even one that is only an hour ahead.
#[test]
fn a_restart_does_not_clear_a_clock_that_jumped() {
    let mut installation = Installation::new();
    installation.expect_error(IN_DOUBT);
    installation.shift_brokers_clock_in_run(0, "this-run");
    let broker = installation.start();
    let agent = broker.agent("builder");
    let renew = ["svid", "renew"];
    let mark = installation.home().join("data/clock.json");
    eventually("the mark is left", || mark.exists().then_some(()));
    broker.stop();

    installation.shift_brokers_clock_in_run(3600, "this-run");
    let broker = installation.start();
    let agent = Cli::new(broker.address(), agent.identity());
    let (_, why) = agent.refused(&renew);
    assert!(why.contains("seconds ahead of"), "{why}");
    // Another run may have begun an hour later.
    broker.stop();
    installation.shift_brokers_clock_in_run(0, "another-run");
    let broker = installation.start();
    Cli::new(broker.address(), agent.identity()).json(&renew);
    broker.stop();
}

fn accept(installation: &Installation) -> String {
    let done = installation.accept_clock();
    let complaint = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{complaint}");
    String::from_utf8(done.stdout).expect("text")
}

fn verify(installation: &Installation, operator: &Cli, name: &str) {
    let file = export(installation, operator, name, &[]);
    let words = [vkey(installation), file].map(|path| path.display().to_string());
    let verified = operator.run(&["ledger", "verify", "--key", &words[0], &words[1]]);
    assert_eq!(verified.code, 0, "{}", verified.stderr);
}

/// A clock was three weeks ahead while a broker started, which looks like three weeks without a
/// broker. Another was years ahead, and a person accepted that by mistake. The people of before are
/// still there afterwards, and there can be new ones.
#[test]
fn an_installation_that_was_brought_ahead_comes_back_by_one_command() {
    for (ahead, was_mistaken) in [(21 * DAY, false), (YEARS, true)] {
        let mut installation = Installation::new();
        installation.expect_error(IN_DOUBT);
        installation.shift_clock(0);
        let broker = installation.start();
        broker.agent("builder");
        broker.stop();
        installation.shift_clock(ahead);
        if was_mistaken {
            accept(&installation);
        }
        installation.start().stop();
        installation.shift_clock(0);
        comes_back(&installation);
    }
}

fn comes_back(installation: &Installation) {
    let identity = installation.scratch().join("bob");
    let dir = identity.to_str().expect("a path in UTF-8");
    let issue = || taskpassd(installation, &["operator", "issue", "bob"], &["--dir", dir]);
    for refused in [taskpassd(installation, &["run"], &[]), issue()] {
        let (works, said) = refused;
        assert!(!works && said.contains("taskpassd clock accept"), "{said}");
    }
    let said = doctors_word_on_the_clock(installation);
    assert!(said.starts_with("[fail] clock: "), "{said}");
    let (works, said) = taskpassd(installation, &["clock", "accept"], &[]);
    assert!(!works && said.contains(" --time 20"), "{said}");
    let wrong = ["--time", "2001-01-01T00:00:00Z"];
    let (works, said) = taskpassd(installation, &["clock", "accept"], &wrong);
    assert!(!works && said.contains("set the machine's clock"), "{said}");
    let said = accept(installation);
    assert!(said.contains("Nothing that was recorded is lost"), "{said}");
    let (works, said) = issue();
    assert!(works, "{said}");

    let broker = installation.start();
    let operator = broker.operator();
    assert_eq!(operator.json(&["agent", "list"])[0]["name"], "builder");
    let agent = broker.attest("builder");
    agent.json(&["svid", "renew"]);
    // The new operator is known, and has no policy yet.
    let bob = Cli::new(broker.address(), &identity);
    let (_, why) = bob.refused(&["agent", "list"]);
    assert!(why.contains("denied"), "{why}");
    verify(installation, &operator, "all.jsonl");
    let all = times(installation, &operator, "times.jsonl");
    let now = installation.brokers_time();
    assert!(all.last() <= Some(&now), "{all:?}");
    let said = doctors_word_on_the_clock(installation);
    assert!(said.starts_with("[ok]   clock: "), "{said}");
    broker.stop();
}
