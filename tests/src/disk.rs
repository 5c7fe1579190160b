//! A disk of its own for a broker's data, so that a test can fill it, make it read-only and cut its
//! power.
//!
//! The disk is mounted in a namespace of its own: only the broker and the commands of this file see
//! it. It is unmounted when the process that mounted it ends. A disk in memory needs unprivileged
//! user namespaces; a real file system on a loop device needs root.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use crate::workspace;

/// Room for the ledger with its reserve, for the index, and for the space that a broker requires
/// before it builds a new index.
const MIB: u32 = 96;

const IN_MEMORY: &str = r#"set -e
cp -a "$1" "$1.before"
mount -t tmpfs -o size="$2"m,mode=0700 tmpfs "$1"
cp -a "$1.before/." "$1/"
echo mounted
cat"#;

/// Data that is not synced stays in memory, because the mount options stop the file system from
/// writing by itself.
const ON_LOOP: &str = r#"set -e
cp -a "$1" "$1.before"
truncate -s "$2"M "$1.image"
mkfs.ext4 -q -m 0 "$1.image"
mount -o loop,commit=300,errors=remount-ro "$1.image" "$1"
cp -a "$1.before/." "$1/"
sync -f "$1"
chmod 0700 "$1"
echo mounted
cat"#;

/// `EXT4_IOC_SHUTDOWN` without flushing the journal: from now on nothing reaches the device.
const CUT: &str = r"import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A mounted disk. Dropping it ends the process that holds the mount, which unmounts it.
#[derive(Debug)]
pub struct Disk {
    holder: Child,
    enter: Vec<String>,
    directory: PathBuf,
}

impl Disk {
    /// Mounts a disk in memory over an existing directory and copies the directory's files onto it.
    /// `Err` says why this machine cannot.
    pub fn in_memory(directory: &Path) -> Result<Self, String> {
        Self::mount(
            directory,
            IN_MEMORY,
            &["--user", "--map-root-user"],
            &["--user", "--preserve-credentials"],
        )
        .map_err(|why| format!("needs unprivileged user namespaces: {why}"))
    }

    /// Mounts ext4 on a loop device, in the same way.
    pub fn on_loop(directory: &Path) -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("needs root".to_owned());
        }
        Self::mount(directory, ON_LOOP, &[], &[])
            .map_err(|why| format!("needs loop devices: {why}"))
    }

    fn mount(
        directory: &Path,
        script: &str,
        unshare: &[&str],
        nsenter: &[&str],
    ) -> Result<Self, String> {
        let mut holder = Command::new("unshare")
            .args(unshare)
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(directory)
            .arg(MIB.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut line = String::new();
        let said = holder.stdout.take().expect("its output is piped");
        BufReader::new(said)
            .read_line(&mut line)
            .map_err(|e| e.to_string())?;
        if line != "mounted\n" {
            let mut why = String::new();
            let mut complaint = holder.stderr.take().expect("its errors are piped");
            complaint
                .read_to_string(&mut why)
                .map_err(|e| e.to_string())?;
            let _reaped = holder.wait();
            return Err(why.lines().next().unwrap_or("no reason given").to_owned());
        }
        let pid = holder.id().to_string();
        let mut enter: Vec<String> = ["nsenter", "--target", &pid, "--mount"]
            .map(str::to_owned)
            .into();
        enter.extend(nsenter.iter().map(|word| (*word).to_owned()));
        Ok(Self {
            holder,
            enter,
            directory: directory.to_owned(),
        })
    }

    /// The words to put before a command so that it sees the disk.
    pub fn enter(&self) -> Vec<String> {
        self.enter.clone()
    }

    /// Writes until no room is left.
    pub fn fill(&self) {
        // `cat` fails once the disk is full, as intended.
        self.shell("cat /dev/zero > \"$1/filler\" 2> /dev/null || true");
    }

    /// Makes room again.
    pub fn free(&self) {
        self.shell("rm -f \"$1/filler\"");
    }

    /// Makes the file system read-only while files are open, as ext4 does after an error. ext4
    /// only.
    pub fn fail_read_only(&self) {
        self.shell("mount -o remount,abort \"$1\"");
    }

    /// Makes the file system read-only. No file may be open for writing.
    pub fn read_only(&self) {
        self.shell("mount -o remount,ro \"$1\"");
    }

    /// Makes it writable again. No file may be open.
    pub fn writable(&self) {
        self.shell("mount -o remount,rw \"$1\"");
    }

    /// Cuts the power: data that was not synced is lost. ext4 only.
    pub fn cut(&self) {
        let python = workspace().join("target/tools/venv/bin/python");
        let cut = self.command(&[&python.display().to_string(), "-c", CUT, &self.path()]);
        assert!(cut.status.success(), "the power stays on: {}", words(&cut));
    }

    /// Mounts it again after a power cut or after a failure. No file may be open.
    pub fn replug(&self) {
        self.shell("umount \"$1\" && e2fsck -p \"$1.image\" > /dev/null || [ $? = 1 ] && mount -o loop,commit=300,errors=remount-ro \"$1.image\" \"$1\"");
    }

    /// Runs a line of shell with the directory as its first argument.
    pub fn shell(&self, line: &str) {
        let done = self.command(&["sh", "-c", line, "sh", &self.path()]);
        assert!(done.status.success(), "`{line}`: {}", words(&done));
    }

    fn path(&self) -> String {
        self.directory.display().to_string()
    }

    fn command(&self, words: &[&str]) -> Output {
        let mut all = self.enter.clone();
        all.extend(words.iter().map(|word| (*word).to_owned()));
        Command::new(&all[0])
            .args(&all[1..])
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .expect("nsenter starts")
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The holder runs `cat`, which ends with its input.
        drop(self.holder.stdin.take());
        let _reaped = self.holder.wait();
    }
}
