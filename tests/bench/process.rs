//! The machine's resources that a server uses, and the time until it is back after a restart.

use std::{
    fs,
    time::{Duration, Instant},
};

use prost::Message as _;
use taskpass_proto::v1::WhoAmIRequest;
use taskpass_tests::{
    Installation, Server, program,
    wire::{Certificate, Wire},
};

/// Longer than any server takes to start.
const TIMEOUT: Duration = Duration::from_secs(300);
/// The interval of polling.
const LOOK: Duration = Duration::from_micros(500);

/// Resident memory in MiB.
pub(crate) fn resident(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    let kib: u32 = kib.and_then(|k| k.parse().ok()).expect("a size");
    f64::from(kib) / 1024.0
}

/// CPU time of all threads that exist now.
pub(crate) fn cpu(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// CPU time of an idle server in a span.
pub(crate) fn cpu_during(pid: u32, span: Duration) -> Duration {
    let before = cpu(pid);
    std::thread::sleep(span);
    cpu(pid).saturating_sub(before)
}

/// Stops it in good order.
pub(crate) fn stop(mut server: Server) {
    let pid = i32::try_from(server.pid()).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is signalled");
    let stat = format!("/proc/{}/stat", server.pid());
    until("it stops", || {
        let state = fs::read_to_string(&stat).unwrap_or_default();
        (state.is_empty() || state.contains(") Z ")).then_some(())
    });
    server.kill();
}

/// Polls often enough to time the event.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < TIMEOUT, "gave up waiting: {what}");
        std::thread::sleep(LOOK);
    }
}

/// A broker that was just started, and the times of its start.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) server: Server,
    pub(crate) address: String,
    /// Until it reported that it serves.
    pub(crate) ready: Duration,
    /// Until an operator's first request was answered.
    pub(crate) answered: Duration,
}

/// Starts the broker of an installation at the usual log level.
pub(crate) fn start(installation: &Installation) -> Started {
    let config = installation.home().join("taskpass.toml");
    let config = config.to_str().expect("a path in UTF-8");
    let operator = Certificate::load(&installation.home().join("operator"));
    let began = Instant::now();
    let arguments = ["run", "--config", config];
    let mut server = Server::start(
        &program("taskpassd"),
        &arguments,
        &[],
        installation.scratch(),
    );
    let address = until("the broker serves", || {
        let log = server.log();
        assert!(server.runs(), "the broker ended: {log}");
        let line = log.lines().find(|line| line.starts_with("ready "))?;
        let word = |w: &str| w.strip_prefix("addr=").map(str::to_owned);
        line.split_whitespace().find_map(word)
    });
    let ready = began.elapsed();
    let wire = Wire::new(&address, Some(&operator));
    let message = WhoAmIRequest::default().encode_to_vec();
    wire.call("/taskpass.v1.IdentityService/WhoAmI", message)
        .expect("an answer");
    Started {
        server,
        address,
        ready,
        answered: began.elapsed(),
    }
}
