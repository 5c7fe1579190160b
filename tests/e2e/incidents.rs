//! The commands of `docs/incident-response.md`, run as they stand there.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use taskpass_tests::{Broker, Cli, Installation, World, program, workspace};

use crate::support::text;

const CONFIG: &str = "vault-main/config";
const AGENT: &str = "nightly-builder";

/// A playbook of the document while a test runs it.
struct Playbook<'a> {
    installation: &'a Installation,
    /// Where the broker listens.
    address: String,
    /// The commands that did not run yet, in order.
    left: Vec<String>,
    variables: Vec<(&'static str, String)>,
}

impl<'a> Playbook<'a> {
    fn read(title: &str, installation: &'a Installation, broker: &Broker<'_>) -> Self {
        let path = workspace().join("docs/incident-response.md");
        let document = fs::read_to_string(path).expect("the document");
        let (_, rest) = document
            .split_once(&format!("\n## {title}\n"))
            .unwrap_or_else(|| panic!("no playbook `{title}`"));
        let section = rest.split("\n## ").next().unwrap_or_default();
        let blocks = section.split("```sh\n").skip(1);
        let commands = blocks.filter_map(|block| block.split("```").next());
        let mut left: Vec<String> = commands
            .flat_map(str::lines)
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect();
        left.reverse();
        assert!(!left.is_empty(), "`{title}` has no commands");
        Self {
            installation,
            address: broker.address().to_owned(),
            left,
            variables: vec![("BROKER", installation.home().display().to_string())],
        }
    }

    /// Runs the next command, which begins like this, as an operator's shell does.
    fn step(&mut self, begins: &str) -> String {
        let (line, done) = self.next(begins);
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{line}: {complaint}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// The same for a command that finds fault with something.
    fn finds_fault(&mut self, begins: &str) -> String {
        let (line, done) = self.next(begins);
        assert!(!done.status.success(), "{line} finds no fault");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn next(&mut self, begins: &str) -> (String, Output) {
        let line = self.left.pop().expect("a command is left");
        assert!(line.starts_with(begins), "`{line}` is not `{begins} …`");
        let done = self.shell(&line);
        (line, done)
    }

    fn shell(&self, line: &str) -> Output {
        let programs = program("taskpass");
        let programs = programs.parent().expect("a directory").display();
        Command::new("sh")
            .args(["-c", line])
            .current_dir(self.installation.scratch())
            .env_clear()
            .env("PATH", format!("{programs}:/usr/bin:/bin"))
            .env("HOME", self.installation.scratch())
            .env("TASKPASS_ADDR", &self.address)
            .env(
                "TASKPASS_IDENTITY",
                self.installation.home().join("operator"),
            )
            .envs(self.installation.clock_env())
            .envs(self.variables.iter().map(|(name, value)| (*name, value)))
            .output()
            .expect("a shell")
    }

    fn is_over(&self) {
        assert!(self.left.is_empty(), "not run: {:?}", self.left);
    }
}

fn issued(agent: &Cli) -> (String, Value) {
    let task = World::task(agent, &[CONFIG]);
    let issued = World::issue(agent, &task, CONFIG, &[]);
    (task, issued)
}

/// The ledger's key, as an auditor keeps it.
fn keep_key(installation: &Installation) {
    let key = installation.home().join("operator/ledger.vkey");
    fs::copy(key, installation.scratch().join("ledger.vkey")).expect("a copy");
}

#[test]
fn the_playbook_for_an_agent_that_misbehaves() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent(AGENT);
    let (task, credential) = issued(&agent);
    let mut steps = Playbook::read("An agent misbehaves", &world.installation, &broker);

    let receipts = steps.step("taskpass agent freeze");
    assert!(receipts.contains("revoked_verified"), "{receipts}");
    assert!(!world.bao.token_works(text(&credential["data"], "token")));
    agent.refused(&["task", "list"]);
    let live = steps.step("taskpass credential list");
    assert!(!live.contains(text(&credential, "credential_id")), "{live}");
    let all = steps.step("taskpass credential list");
    assert!(all.contains(text(&credential, "credential_id")), "{all}");
    let tasks = steps.step("taskpass task list");
    assert!(tasks.contains(&task) && tasks.contains("frozen"), "{tasks}");
    steps.step("taskpass ledger export");
    steps.step("taskpass ledger checkpoint");
    steps.step("grep");
    let found = fs::read_to_string(world.installation.scratch().join("agent.jsonl"));
    assert!(found.expect("the agent's entries").contains("agent_frozen"));
    let shown = steps.step("taskpass agent show");
    assert!(shown.contains("deletes branches"), "{shown}");
    steps.step("taskpass agent release");
    let token = steps.step("taskpass agent token");
    let done = agent.run_with(&["login", "--join-token", "-"], token.trim());
    assert_eq!(done.code, 0, "{}", done.stderr);
    issued(&agent);
    steps.step("taskpass agent retire");
    let (_, complaint) = agent.refused(&["task", "list"]);
    assert!(complaint.contains("retired"), "{complaint}");
    steps.is_over();
}

#[test]
fn the_playbook_for_a_stolen_identity() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent(AGENT);
    let thief = world.installation.scratch().join("thief");
    fs::create_dir(&thief).expect("a new directory");
    for file in ["svid.pem", "key.pem", "bundle.pem", "ledger.vkey"] {
        fs::copy(agent.identity().join(file), thief.join(file)).expect("it can be copied");
    }
    let thief = Cli::new(broker.address(), &thief);
    thief.json(&["svid", "renew"]);
    let (task, credential) = issued(&thief);
    agent.refused(&["task", "list"]);
    let leaked = broker.operator().json(&["agent", "token", AGENT]);
    let mut steps = Playbook::read("An identity was stolen", &world.installation, &broker);

    steps.step("taskpass agent freeze");
    assert!(!world.bao.token_works(text(&credential["data"], "token")));
    thief.refused(&["task", "list"]);
    steps.step("taskpass ledger export");
    let conflict = steps.step("grep identity_conflict");
    assert!(conflict.contains("127.0.0.1"), "{conflict}");
    let tasks = steps.step("taskpass task list");
    assert!(tasks.contains(&task), "{tasks}");
    let id = text(&leaked, "id").to_owned();
    let tokens = steps.step("taskpass join-token list");
    let states: BTreeSet<_> = tokens.lines().filter(|line| line.contains(&id)).collect();
    assert!(states.iter().all(|line| line.contains("withdrawn")));
    steps.variables.push(("TOKEN_ID", id));
    steps.step("taskpass join-token withdraw");
    steps.step("taskpass agent release");
    steps.step("(umask 077; taskpass agent token");
    steps.step("taskpass --identity builder-identity login");
    let shown = steps.step("taskpass --identity builder-identity svid show");
    assert!(shown.contains(AGENT), "{shown}");
    thief.refused(&["task", "list"]);
    let left = steps.step("taskpass agent owner --departed");
    assert!(left.contains("frozen"), "{left}");
    steps.step("taskpass agent owner");
    let released = steps.step("taskpass agent release");
    assert!(released.contains("active"), "{released}");
    steps.step("taskpass ledger export");
    let left = steps.step("grep -E");
    for event in ["join_token_created", "agent_registered", "agent_released"] {
        assert!(left.contains(event), "{left}");
    }
    steps.step("taskpass join-token list");
    steps.is_over();
}

#[test]
fn the_playbook_for_a_breached_provider() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent(AGENT);
    let (task, credential) = issued(&agent);
    let mut steps = Playbook::read("A provider was breached", &world.installation, &broker);

    steps.step("echo");
    steps.step("taskpass policy check");
    steps.step("taskpassd reload");
    let issue = ["credential", "issue", "--task", &task, "--role", CONFIG];
    assert_eq!(agent.refused(&issue).0, 3);
    steps.step("for id in");
    assert!(!world.bao.token_works(text(&credential["data"], "token")));
    let live = steps.step("taskpass credential list");
    assert!(!live.contains(text(&credential, "credential_id")), "{live}");
    steps.step("taskpass provider check");
    steps.step("rm");
    steps.step("taskpassd reload");
    agent.json(&issue);
    steps.is_over();
}

#[test]
fn the_playbook_for_a_breached_machine() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent(AGENT);
    let (task, credential) = issued(&agent);
    keep_key(&world.installation);
    let kept = broker.operator().run(&["ledger", "checkpoint"]).stdout;
    let scratch = world.installation.scratch();
    fs::write(scratch.join("kept-checkpoint.txt"), kept).expect("a kept checkpoint");
    issued(&agent);
    let title = "The broker's machine was breached";
    let mut steps = Playbook::read(title, &world.installation, &broker);

    steps.step("taskpass ledger export");
    steps.step("taskpass ledger verify");
    steps.step("for id in");
    assert!(!world.bao.token_works(text(&credential["data"], "token")));
    let ended = broker.operator().json(&["task", "show", &task]);
    assert_eq!(ended["state"], "ended");
    let live = steps.step("taskpass credential list");
    assert!(!live.contains(CONFIG), "{live}");
    steps.step("taskpassd root prepare");
    steps.step("taskpassd root activate");
    steps.step("taskpass svid renew");
    let ended = steps.step("taskpassd root retire --force");
    assert!(ended.contains(&format!("agent {AGENT}")), "{ended}");
    let stands = steps.step("taskpassd root status");
    assert!(stands.contains("root 2  active"), "{stands}");
    assert!(!stands.contains("root 1"), "{stands}");
    let (_, complaint) = agent.refused(&["task", "list"]);
    assert!(complaint.contains("root was replaced"), "{complaint}");
    let token = steps.step("taskpass agent token");
    let done = agent.run_with(&["login", "--join-token", "-"], token.trim());
    assert_eq!(done.code, 0, "{}", done.stderr);
    issued(&agent);
    steps.step("taskpassd init");
    let new = steps.step("cat new-installation");
    assert_ne!(new, read(&scratch.join("ledger.vkey")));
    steps.is_over();
}

#[test]
fn the_playbook_for_a_clock_that_jumped() {
    let mut installation = Installation::new();
    installation.expect_error("the clock is in doubt");
    installation.shift_clock(0);
    let broker = installation.start();
    broker.agent(AGENT);
    broker.stop();
    // While a broker starts, the clock is three weeks ahead.
    installation.shift_clock(21 * 86_400);
    let broker = installation.start();
    keep_key(&installation);
    let mut steps = Playbook::read("The clock jumped", &installation, &broker);
    broker.stop();
    installation.shift_clock(0);

    let said = steps.finds_fault("taskpassd doctor");
    assert!(said.contains("[fail] clock: "), "{said}");
    steps.step("taskpassd clock accept");
    let broker = installation.start();
    broker.address().clone_into(&mut steps.address);
    steps.step("taskpass ledger export");
    steps.step("taskpass ledger verify");
    steps.step("grep clock_accepted");
    assert_eq!(broker.operator().json(&["agent", "list"])[0]["name"], AGENT);
    steps.is_over();
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a readable file")
}
