//! The machine and the versions that a report is about.

use std::{fs, process::Command};

use serde::{Deserialize, Serialize};
use taskpass_core::{Clock, SystemClock};
use taskpass_tests::{tool, workspace};

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) kernel: String,
    /// The file system under the temporary directories, where every server keeps its files.
    pub(crate) scratch: String,
}

/// The circumstances of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// `full`, or `quick`, which makes worthless figures.
    pub(crate) effort: String,
    pub(crate) began: String,
    pub(crate) seconds: f64,
    /// The load average over the minute before the run: the work of other programs.
    pub(crate) load_before: f64,
    pub(crate) commit: String,
    pub(crate) rust: String,
    pub(crate) openbao: String,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let cpu = field("/proc/cpuinfo", "model name");
        let memory = field("/proc/meminfo", "MemTotal");
        let kib: u32 = memory
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu,
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: f64::from(kib) / f64::from(1 << 20),
            kernel: kernel.trim().to_owned(),
            scratch: scratch(),
        }
    }
}

impl Run {
    pub(crate) fn begin(effort: &str) -> Self {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().and_then(|load| load.parse().ok());
        Self {
            effort: effort.to_owned(),
            began: SystemClock::new().now().to_string(),
            seconds: 0.0,
            load_before: load.unwrap_or_default(),
            commit: said("git", &["describe", "--always", "--dirty", "--abbrev=12"]),
            rust: said("rustc", &["--version"]),
            openbao: said(tool("bao").to_str().expect("a path in UTF-8"), &["version"]),
        }
    }
}

/// The first line of a command's output; empty when the command is missing.
fn said(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command)
        .args(arguments)
        .current_dir(workspace())
        .output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let text = text.unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// `name : value` of a file in /proc.
fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line.and_then(|line| line.split_once(':'));
    value.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// The type of the file system with the temporary directories.
fn scratch() -> String {
    let directory = std::env::temp_dir();
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let rows = mounts.lines().filter_map(|row| {
        let mut words = row.split(' ').skip(1);
        Some((words.next()?, words.next()?))
    });
    let above = rows.filter(|(mount, _)| directory.starts_with(mount));
    let nearest = above.max_by_key(|(mount, _)| mount.len());
    nearest.map_or_else(String::new, |(_, kind)| kind.to_owned())
}
