//! Memory must not be written to disk, nor be read by another user's process: a program that dies
//! leaves no core dump, and only root can look into a running one.

use std::{
    fs,
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, getuid, kill_process, prlimit};
use taskpass_tests::{Installation, World, eventually};

fn pid_of(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).expect("a pid")).expect("a pid")
}

/// Raises the process's limit of core dumps as far as we may.
fn allow_dumps(pid: Pid) {
    let most = getrlimit(Resource::Core).maximum;
    let all = Rlimit {
        current: most,
        maximum: most,
    };
    // Only root may raise a limit that the process has lowered. As another user this test proves
    // less.
    let _kept_down = prlimit(Some(pid), Resource::Core, all);
}

fn aborted(mut child: Child) -> ExitStatus {
    let pid = pid_of(child.id());
    allow_dumps(pid);
    kill_process(pid, Signal::ABORT).expect("it can be signalled");
    child.wait().expect("it ends")
}

fn cores_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("core"))
        .collect()
}

/// Asserts that the files in a protected process's `/proc` belong to root.
fn assert_closed(pid: u32) {
    let owner = fs::metadata(format!("/proc/{pid}/environ")).expect("it runs");
    assert_eq!(owner.uid(), 0, "/proc/{pid} is open to its own user");
    if !getuid().is_root() {
        fs::read(format!("/proc/{pid}/mem")).expect_err("its memory can be opened");
    }
}

/// Whether an ordinary program that aborts leaves a core dump here. Otherwise these tests would
/// prove nothing.
fn dumps_are_made(directory: &Path) -> bool {
    let mut command = Command::new("/bin/sleep");
    command.arg("600").current_dir(directory);
    let status = aborted(command.spawn().expect("sleep starts"));
    status.core_dumped() || getrlimit(Resource::Core).maximum == Some(0)
}

#[test]
fn a_broker_that_aborts_leaves_no_core_dump() {
    let scratch = tempfile::tempdir().expect("a directory");
    assert!(dumps_are_made(scratch.path()), "core dumps are off here");
    let installation = Installation::new();
    let broker = installation.start();
    assert_closed(broker.pid());
    let limits = fs::read_to_string(format!("/proc/{}/limits", broker.pid())).expect("it runs");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let words: Vec<&str> = core.expect("a limit").split_whitespace().collect();
    assert_eq!(words[4..6], ["0", "0"], "{words:?}");
    allow_dumps(pid_of(broker.pid()));
    let status = broker.abort();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped(), "{status}");
    assert_eq!(cores_in(installation.scratch()), Vec::<String>::new());
}

#[test]
fn the_command_line_leaves_no_core_dump_and_its_commands_may() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let scratch = tempfile::tempdir().expect("a directory");
    assert!(dumps_are_made(scratch.path()), "core dumps are off here");
    // It waits for its input, with the identity's key in memory.
    let mut waiting = agent.command(&["login", "--join-token", "-"]);
    waiting.current_dir(scratch.path()).stdin(Stdio::piped());
    let waiting = waiting.spawn().expect("taskpass starts");
    eventually("it reads its input", || {
        let state = fs::read_to_string(format!("/proc/{}/wchan", waiting.id()));
        let threads = fs::read_dir(format!("/proc/{}/task", waiting.id())).ok()?;
        (state.is_ok() && threads.count() > 1).then_some(())
    });
    assert_closed(waiting.id());
    let status = aborted(waiting);
    assert!(!status.core_dumped(), "{status}");

    let limit = |command: &mut Command| {
        let done = command.output().expect("it runs");
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    let inside = [
        "run",
        "--purpose",
        "limits",
        "--role",
        "vault-main/config",
        "--",
        "sh",
        "-c",
        "ulimit -c",
    ];
    let mine = limit(Command::new("/bin/sh").args(["-c", "ulimit -c"]));
    assert_eq!(limit(&mut agent.command(&inside)), mine);
    broker.stop();
}
