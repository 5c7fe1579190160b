//! A broker for measuring: its own limits are out of the way.

use std::{fs, process::Command};

use taskpass_tests::{
    Broker, Installation, eventually, program,
    wire::{Certificate, Wire},
};

use crate::{
    load::as_f64,
    report::{Budget, Report},
};

const LIMITS: &str = r"
[limits]
agent_requests_per_second = 100000
agent_requests_burst = 1000000
task_requests_per_second = 100000
task_requests_burst = 1000000
[tasks]
open_per_agent = 100000
[credentials]
live_per_agent = 100000
live_per_task = 10000
revoke_wait_max = '10m'
";

/// An installation whose limits no load of this bench reaches.
pub(crate) fn installation() -> Installation {
    let installation = Installation::new();
    installation.configure(LIMITS);
    installation
}

/// A connection as an agent of that name.
pub(crate) fn agent(broker: &Broker<'_>, name: &str) -> Wire {
    Wire::new(
        broker.address(),
        Some(&Certificate::load(broker.agent(name).identity())),
    )
}

/// Memory of a broker that nobody has asked for anything, and the size of the programs.
pub(crate) fn at_rest(report: &mut Report) {
    const TOPIC: &str = "At rest";
    let installation = installation();
    let broker = installation.start();
    let idle = eventually("the memory of the broker can be read", || resident(&broker));
    report.budgeted(
        TOPIC,
        "RSS after the start",
        idle,
        "MiB",
        Budget::AtMost(30.0),
    );
    let scratch = installation.scratch();
    for name in ["taskpassd", "taskpass"] {
        let stripped = scratch.join(name);
        let done = Command::new("strip")
            .arg("-o")
            .arg(&stripped)
            .arg(program(name))
            .status();
        let (path, how) = match done {
            Ok(status) if status.success() => (stripped, "stripped"),
            _ => (program(name), "with symbols"),
        };
        let bytes = fs::metadata(path).expect("the program is there").len();
        let mib = as_f64(usize::try_from(bytes / 1024).expect("a small program")) / 1024.0;
        report.figure(TOPIC, format!("`{name}`, {how}"), mib, "MiB");
    }
}

/// Resident memory in MiB.
pub(crate) fn resident(broker: &Broker<'_>) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.pid())).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u32 = line.split_whitespace().next()?.parse().ok()?;
    Some(f64::from(kib) / 1024.0)
}
