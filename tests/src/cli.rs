//! `taskpass` as a person or a script runs it.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::process::program;

/// The program with one identity.
#[derive(Debug, Clone)]
pub struct Cli {
    address: String,
    identity: PathBuf,
    clock: Option<PathBuf>,
}

/// The result of one run.
#[derive(Debug, Clone)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// The error output.
    pub stderr: String,
}

impl Cli {
    /// Talks to the broker at `address` with the identity in `directory`, which need not exist yet.
    pub fn new(address: &str, directory: &Path) -> Self {
        Self {
            address: address.to_owned(),
            identity: directory.to_owned(),
            clock: None,
        }
    }

    /// Gives it a clock that is wrong by the milliseconds in this file.
    #[must_use]
    pub fn with_clock(mut self, file: Option<PathBuf>) -> Self {
        self.clock = file;
        self
    }

    /// The file that holds the error of its clock.
    pub fn clock(&self) -> Option<&Path> {
        self.clock.as_deref()
    }

    /// Reaches the broker at another address, such as a relay's.
    #[must_use]
    pub fn through(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// The identity directory.
    pub fn identity(&self) -> &Path {
        &self.identity
    }

    /// The broker's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A command with arguments, which the caller may change before it runs.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("taskpass"));
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &self.identity)
            .env("TASKPASS_ADDR", &self.address)
            .env("TASKPASS_IDENTITY", &self.identity)
            .envs(
                self.clock
                    .iter()
                    .map(|file| (crate::broker::CLOCK_VARIABLE, file)),
            );
        command
    }

    /// Runs it, with `stdin` as its input.
    pub fn run_with(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("taskpass starts");
        let mut input = child.stdin.take().expect("stdin is piped");
        input.write_all(stdin.as_bytes()).expect("stdin is read");
        drop(input);
        let done = child.wait_with_output().expect("taskpass ends");
        Output {
            code: done.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&done.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&done.stderr).into_owned(),
        }
    }

    /// Runs it without input.
    pub fn run(&self, args: &[&str]) -> Output {
        self.run_with(args, "")
    }

    /// Runs it with `-o json` and reads the answer. Panics with the error output when it fails.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        let done = self.run(&all);
        assert_eq!(done.code, 0, "taskpass {}: {}", args.join(" "), done.stderr);
        serde_json::from_str(&done.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", done.stdout))
    }

    /// Runs it and expects it to fail. Returns the exit code and the error output.
    pub fn refused(&self, args: &[&str]) -> (i32, String) {
        let done = self.run(args);
        assert_ne!(
            done.code,
            0,
            "taskpass {} succeeded: {}",
            args.join(" "),
            done.stdout
        );
        (done.code, done.stderr)
    }
}
