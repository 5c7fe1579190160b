//! `taskpassd` on an installation of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use taskpass_core::{Clock as _, ShiftedClock, SystemClock, Timestamp};
use tempfile::TempDir;

use crate::{
    cli::Cli,
    process::{Server, program},
};

/// The file that holds the error of the clients' clocks in milliseconds, and how much time has
/// passed beyond the real time.
const CLOCK_SHIFT: &str = "clock-shift";
/// The same of the broker's clock.
const BROKER_CLOCK_SHIFT: &str = "broker-clock-shift";
/// All clocks.
const CLOCKS: [&str; 2] = [CLOCK_SHIFT, BROKER_CLOCK_SHIFT];
/// The environment variable that names that file, in builds for tests.
pub(crate) const CLOCK_VARIABLE: &str = "TASKPASS_CLOCK_SHIFT";

/// All roles for all agents: a new installation grants none.
const GRANTS: &str = r#"
@id("grant.all")
permit (principal is Taskpass::Agent, action in Taskpass::Action::"access", resource);
"#;

/// The directory that `taskpassd init` made. It outlives any number of broker processes.
#[derive(Debug)]
pub struct Installation {
    dir: TempDir,
    expected_errors: Vec<String>,
    /// The words before the program's name. Without a launcher the test starts the program itself.
    launcher: Vec<String>,
}

impl Default for Installation {
    fn default() -> Self {
        Self::new()
    }
}

impl Installation {
    /// A fresh installation for `acme.test`, listening on port 0.
    pub fn new() -> Self {
        Self::of(tempfile::tempdir().expect("a temporary directory"))
    }

    /// A fresh installation, made while the clocks are wrong by so many seconds. They stay wrong
    /// until [`Installation::shift_clock`].
    pub fn with_shifted_clock(seconds: i64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_clocks(dir.path(), &CLOCKS, &(seconds * 1000).to_string());
        Self::of(dir)
    }

    /// A fresh installation, made so many seconds ago, with clocks that were always right. The time
    /// until now passes with [`Installation::let_pass`].
    pub fn made_before(seconds: i64) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        write_clocks(dir.path(), &CLOCKS, &format!("0 {}", -seconds * 1000));
        Self::of(dir)
    }

    fn of(dir: TempDir) -> Self {
        let home = dir.path().join("broker");
        let installation = Self {
            dir,
            expected_errors: Vec::new(),
            launcher: Vec::new(),
        };
        let done = Command::new(program("taskpassd"))
            .args(["init", "--trust-domain", "acme.test", "--dir"])
            .arg(&home)
            .env_clear()
            .envs(
                installation
                    .broker_clock_shift()
                    .map(|file| (CLOCK_VARIABLE, file)),
            )
            .output()
            .expect("taskpassd starts");
        assert!(
            done.status.success(),
            "init: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        installation.edit(|text| {
            let listen = text.lines().map(|line| {
                let key = line.trim_start_matches(['#', ' ']);
                if key.starts_with("grpc =") {
                    "grpc = \"127.0.0.1:0\""
                } else {
                    line
                }
            });
            listen.collect::<Vec<_>>().join("\n") + "\n"
        });
        installation.policy("grants.cedar", GRANTS);
        installation
    }

    /// The directory with `taskpass.toml`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("broker")
    }

    /// A directory beside it for identities and other files of a test.
    pub fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// Adds to the end of `taskpass.toml`.
    pub fn configure(&self, more: &str) {
        self.edit(|text| format!("{text}\n{more}"));
    }

    /// Changes `taskpass.toml`.
    pub fn edit(&self, change: impl FnOnce(&str) -> String) {
        let path = self.home().join("taskpass.toml");
        let text = fs::read_to_string(&path).expect("the configuration is there");
        fs::write(&path, change(&text)).expect("the configuration can be written");
    }

    /// Adds a file of policies.
    pub fn policy(&self, name: &str, text: &str) {
        fs::write(self.home().join("policy").join(name), text).expect("the policy can be written");
    }

    /// Announces that the broker will log an ERROR with this text in it.
    pub fn expect_error(&mut self, text: &str) {
        self.expected_errors.push(text.to_owned());
    }

    /// From now on this command starts the broker. The command must replace itself with the broker.
    pub fn launch_with(&mut self, launcher: Vec<String>) {
        self.launcher = launcher;
    }

    /// Makes the clocks of the broker and its clients wrong by so many seconds. Processes that run
    /// already see it at once, provided that they were started after the first shift.
    pub fn shift_clock(&self, seconds: i64) {
        write_clocks(self.dir.path(), &CLOCKS, &(seconds * 1000).to_string());
    }

    /// Makes only the broker's clock wrong.
    pub fn shift_brokers_clock(&self, seconds: i64) {
        let shift = (seconds * 1000).to_string();
        write_clocks(self.dir.path(), &[BROKER_CLOCK_SHIFT], &shift);
    }

    /// Makes only the broker's clock wrong, on a machine whose runs have names: then a broker knows
    /// how long it was stopped.
    pub fn shift_brokers_clock_in_run(&self, seconds: i64, run: &str) {
        let shift = format!("{} 0 {run}", seconds * 1000);
        write_clocks(self.dir.path(), &[BROKER_CLOCK_SHIFT], &shift);
    }

    /// Lets the time pass for which [`Installation::made_before`] was earlier. All clocks are
    /// right.
    pub fn let_pass(&self) {
        write_clocks(self.dir.path(), &CLOCKS, "0");
    }

    /// The file that holds the error of the clients' clocks, if a test has shifted them.
    pub fn clock_shift(&self) -> Option<PathBuf> {
        Some(self.dir.path().join(CLOCK_SHIFT)).filter(|file| file.exists())
    }

    /// The file that holds the error of the broker's clock, if a test has shifted it.
    pub fn broker_clock_shift(&self) -> Option<PathBuf> {
        Some(self.dir.path().join(BROKER_CLOCK_SHIFT)).filter(|file| file.exists())
    }

    /// The time by the broker's clock.
    pub fn brokers_time(&self) -> Timestamp {
        match self.broker_clock_shift() {
            Some(file) => ShiftedClock::new(file).now(),
            None => SystemClock::new().now(),
        }
    }

    /// A person confirms the time by the broker's clock, while no broker runs.
    pub fn accept_clock(&self) -> std::process::Output {
        let (config, time) = (self.home().join("taskpass.toml"), self.brokers_time());
        let config = config.to_str().expect("a path in UTF-8");
        let time = time.to_string();
        self.daemon(&["clock", "accept", "--config", config, "--time", &time])
    }

    /// Starts the broker and waits until it serves.
    pub fn start(&self) -> Broker<'_> {
        self.start_with(&[])
    }

    /// Starts the broker with more variables in its environment, such as a failpoint.
    pub fn start_with(&self, env: &[(&str, &str)]) -> Broker<'_> {
        let env = [&[("TASKPASS_LOG", "debug")], env].concat();
        self.launch(&program("taskpassd"), &[], &env)
    }

    /// Starts the broker after a shell command, such as `ulimit`, has changed the limits of the
    /// process. The broker logs at `info`.
    pub fn start_after(&self, command: &str) -> Broker<'_> {
        let script = format!("{command} && exec \"$@\"");
        let taskpassd = program("taskpassd");
        let taskpassd = taskpassd.to_str().expect("a path in UTF-8");
        self.launch(
            Path::new("/bin/sh"),
            &["-c", &script, "sh", taskpassd],
            &[("TASKPASS_LOG", "info")],
        )
    }

    fn launch(&self, command: &Path, before: &[&str], env: &[(&str, &str)]) -> Broker<'_> {
        let config = self.home().join("taskpass.toml");
        let config = config.to_str().expect("a path in UTF-8");
        let clock = self.broker_clock_shift();
        let clock = clock.as_ref().and_then(|file| file.to_str());
        let clock: Vec<_> = clock.iter().map(|file| (CLOCK_VARIABLE, *file)).collect();
        let env = [env, clock.as_slice()].concat();
        let mut words: Vec<&str> = self.launcher.iter().map(String::as_str).collect();
        words.push(command.to_str().expect("a path in UTF-8"));
        words.extend(before);
        words.extend(["run", "--config", config]);
        let mut server = Server::start(Path::new(words[0]), &words[1..], &env, self.dir.path());
        let address = server.wait_for("the broker serves", |s| {
            let log = s.log();
            let ready = log.lines().find(|line| line.starts_with("ready "))?;
            ready
                .split_whitespace()
                .find_map(|word| word.strip_prefix("addr=").map(str::to_owned))
        });
        Broker {
            installation: self,
            server,
            address,
            stopped: false,
        }
    }

    /// Runs another command of `taskpassd`.
    pub fn daemon(&self, args: &[&str]) -> std::process::Output {
        Command::new(program("taskpassd"))
            .args(args)
            .env_clear()
            .envs(self.clock_env())
            .output()
            .expect("taskpassd starts")
    }

    /// The environment of commands that share the broker's clock.
    pub fn clock_env(&self) -> Option<(&'static str, PathBuf)> {
        self.broker_clock_shift().map(|file| (CLOCK_VARIABLE, file))
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Broker<'a> {
    installation: &'a Installation,
    server: Server,
    address: String,
    stopped: bool,
}

impl Broker<'_> {
    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// `taskpass` as the operator that `init` made.
    pub fn operator(&self) -> Cli {
        Cli::new(&self.address, &self.installation.home().join("operator"))
            .with_clock(self.installation.clock_shift())
    }

    /// Registers an agent and attests it. Returns `taskpass` as that agent.
    pub fn agent(&self, name: &str) -> Cli {
        let operator = self.operator();
        operator.json(&["agent", "register", name, "--owner", "alice@acme.test"]);
        self.attest(name)
    }

    /// Attests a registered agent, in a new identity directory.
    pub fn attest(&self, name: &str) -> Cli {
        let token = self.operator().json(&["agent", "token", name]);
        let token = token["join_token"].as_str().expect("a join token");
        let agent = self.attested(name);
        let done = agent.run_with(&["login", "--join-token", "-"], token);
        assert_eq!(done.code, 0, "login: {}", done.stderr);
        agent
    }

    /// `taskpass` as an agent that has attested before. After a restart the broker has another
    /// address.
    pub fn attested(&self, name: &str) -> Cli {
        Cli::new(
            &self.address,
            &self.installation.scratch().join(format!("agent-{name}")),
        )
        .with_clock(self.installation.clock_shift())
    }

    /// SIGKILL: the broker finishes nothing and flushes nothing.
    pub fn kill(mut self) {
        self.server.kill();
        self.check_log();
    }

    /// Whether its process has ended.
    pub fn has_ended(&self) -> bool {
        let pid = self.server.pid();
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        state.is_empty() || state.contains(") Z ")
    }

    /// Waits until the process is gone because a failpoint killed it or because it ended by itself.
    pub fn wait_killed(mut self) {
        crate::eventually("the failpoint kills the broker", || {
            self.has_ended().then_some(())
        });
        self.server.kill();
        self.check_log();
    }

    /// Sends a signal to its process.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.server.pid()).expect("a pid"))
            .expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it can be signalled");
    }

    /// Stops every thread where it is. A thread in a system call stops when the call returns.
    pub fn suspend(&self) {
        self.signal(rustix::process::Signal::STOP);
        let threads = format!("/proc/{}/task", self.server.pid());
        crate::eventually("every thread of the broker stands still", || {
            let mut threads = fs::read_dir(&threads).ok()?;
            let stands = |thread: std::io::Result<fs::DirEntry>| {
                let stat = fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
                Some(stat.contains(") T "))
            };
            threads
                .all(|thread| stands(thread) == Some(true))
                .then_some(())
        });
    }

    /// SIGTERM, then waits for the orderly end.
    pub fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        crate::eventually("the broker stops", || self.has_ended().then_some(()));
        self.server.kill();
        self.check_log();
    }

    /// Sends SIGABRT, as a program does to itself when it finds itself broken. Returns how it
    /// ended.
    pub fn abort(mut self) -> std::process::ExitStatus {
        let pid = i32::try_from(self.server.pid()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::ABORT)
            .expect("it can be signalled");
        let status = self.server.wait();
        self.check_log();
        status
    }

    fn check_log(&mut self) {
        self.stopped = true;
        let expected = &self.installation.expected_errors;
        let log = self.server.log();
        let unexpected: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(" ERROR ") || line.contains("panicked at"))
            .filter(|line| !expected.iter().any(|text| line.contains(text.as_str())))
            .collect();
        assert!(
            unexpected.is_empty(),
            "the broker logged errors:\n{}",
            unexpected.join("\n")
        );
    }
}

impl Drop for Broker<'_> {
    fn drop(&mut self) {
        if !self.stopped && !std::thread::panicking() {
            self.server.kill();
            self.check_log();
        } else if std::thread::panicking() {
            eprintln!("--- the broker's log ---\n{}", tail(&self.server.log()));
        }
    }
}

fn write_clocks(dir: &Path, clocks: &[&str], shift: &str) {
    for clock in clocks {
        let fresh = dir.join("clock-shift.new");
        fs::write(&fresh, shift).expect("the shift can be written");
        // The rename is atomic, so a reader sees the old file or the new one, never half of it.
        fs::rename(fresh, dir.join(clock)).expect("the shift can be replaced");
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
