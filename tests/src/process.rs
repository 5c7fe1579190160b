//! Child processes that end with their test, and waiting for an event instead of sleeping.

#![expect(
    clippy::disallowed_methods,
    reason = "other processes are waited for in real time, since they do not tell when they are done"
)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// How long anything may take on a busy machine before the test gives up.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs `attempt` until it returns a value. Panics with `what` when the time is up.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(began.elapsed() < TIMEOUT, "gave up waiting: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .expect("the package lies in the workspace")
        .to_owned()
}

/// A program of this workspace, as `make build` builds it with the features of the tests.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test knows where it is");
    let found = test
        .ancestors()
        .skip(1)
        .take(3)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("`{name}` is not built; run `make build`"))
}

/// A tool that `make tools` installs.
pub fn tool(name: &str) -> PathBuf {
    let path = workspace().join("target/tools/bin").join(name);
    assert!(path.exists(), "`{name}` is not installed; run `make tools`");
    path
}

/// A server in a child process. It writes its output to a file, and dropping it kills the process.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command` with `env` as its whole environment: the variables of the user that runs
    /// the tests must not change a test.
    pub fn start(command: &Path, args: &[&str], env: &[(&str, &str)], dir: &Path) -> Self {
        let name = command
            .file_name()
            .and_then(|n| n.to_str())
            .expect("a program has a name");
        // Each start has a log of its own, so that the output of two processes does not mix.
        let mut names = (1..).map(|n: u32| dir.join(format!("{name}-{n}.log")));
        let log = names
            .find(|path| !path.exists())
            .expect("there is always a next number");
        let out = File::create_new(&log).expect("the log can be written");
        let err = out.try_clone().expect("the log can be shared");
        let child = Command::new(command)
            .args(args)
            .env_clear()
            .env("HOME", dir)
            .env("TMPDIR", dir)
            .env("PATH", "/usr/bin:/bin")
            .envs(env.iter().copied())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|e| panic!("`{}` does not start: {e}", command.display()));
        Self { child, log }
    }

    /// The output so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended by itself.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until `find` returns a value. Panics with the log when the server ends first.
    pub fn wait_for<T>(&mut self, what: &str, mut find: impl FnMut(&Self) -> Option<T>) -> T {
        eventually(what, || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{what}: the server ended with {status}:\n{}", self.log());
            }
            find(self)
        })
    }

    /// Waits until it has ended by itself or by a signal.
    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().expect("it can be waited for")
    }

    /// Kills it at once, as a power cut would.
    pub fn kill(&mut self) {
        // It may be gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The TCP port that a process listens on, found through its socket: not every server prints it
/// when it was given port 0.
pub fn listening_port(pid: u32) -> Option<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .ok()?
        .filter_map(|fd| {
            fs::read_link(fd.ok()?.path())
                .ok()?
                .to_str()
                .map(str::to_owned)
        })
        .filter_map(|link| {
            link.strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().skip(1).find_map(|row| {
        let fields: Vec<&str> = row.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let ours = *state == "0A" && sockets.iter().any(|socket| socket == inode);
        ours.then(|| u16::from_str_radix(local.rsplit(':').next()?, 16).ok())?
    })
}
