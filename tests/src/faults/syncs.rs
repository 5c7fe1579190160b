//! Counts, in the kernel's calls, how often the broker makes its answers durable.

use std::{fs, path::Path, process::Command};

use taskpass_client::{Client, TaskOptions};

use crate::{Installation, wire::runtime, witness::client_config};

/// Starts so many tasks one after another and counts the `fdatasync` calls on the ledger meanwhile.
/// `Err` says why this machine cannot count them.
pub fn syncs_of_answers(answers: u32) -> Result<u32, String> {
    if !Path::new("/usr/bin/strace").exists() {
        return Err("needs strace".to_owned());
    }
    let mut installation = Installation::new();
    installation.configure(crate::kills::LIMITS);
    let log = installation.scratch().join("syncs.log");
    let name = log.display().to_string();
    // -D makes the tracer a grandchild, so that the started process is the broker itself. -y prints
    // the names of files.
    let strace = [
        "strace",
        "-D",
        "-f",
        "-y",
        "-qq",
        "-e",
        "trace=fdatasync",
        "-o",
        &name,
    ];
    let traced = Command::new(strace[0])
        .args(&strace[1..])
        .arg("true")
        .status();
    if !traced.is_ok_and(|status| status.success()) {
        return Err("needs the right to trace a child".to_owned());
    }
    installation.launch_with(strace.map(str::to_owned).into());
    let broker = installation.start();
    let agent = broker.agent("builder");
    let client = runtime().block_on(Client::connect(client_config(&agent)));
    let client = client.expect("the broker takes the agent");
    let count = || -> u32 {
        let text = fs::read_to_string(&log).expect("the log of strace");
        let of_ledger = text
            .lines()
            .filter(|line| line.contains("fdatasync(") && line.contains("/ledger/segments/"));
        u32::try_from(of_ledger.count()).expect("a small count")
    };
    let before = count();
    for _ in 0..answers {
        let started = runtime().block_on(client.open_task(TaskOptions::new("to be kept")));
        started.expect("a task without roles");
    }
    Ok(count() - before)
}
