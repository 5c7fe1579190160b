//! Hides the identity directory from the command, through the kernel's Landlock.
//!
//! The command runs as the same user, so the modes of files do not keep it from the agent's key.
//! Landlock knows permits only. The ruleset therefore permits to read what lies beside the identity
//! directory, beside its parent, and so on up to the root. Two things follow. A file that is later
//! created directly in one of these parents cannot be read by the command. And hiding costs nothing
//! where this user can create none there.
//!
//! A process in a Landlock domain may not trace one outside of it. So the command reads neither the
//! memory nor the environment of this process, or of the shell that started it, through `/proc`.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError,
};
use rustix::{
    fs::{Access, Mode, OFlags, access, open},
    process::geteuid,
};

/// When to hide the identity directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Hide {
    /// Where hiding costs the command nothing.
    Auto,
    /// Always; fail where that is not possible.
    Always,
    /// Never.
    Never,
}

/// A ruleset that is ready. The thread that enters it, and every process that it starts, is held by
/// it for ever.
#[derive(Debug)]
pub(super) struct Screen(RulesetCreated);

/// The decision about a directory.
#[derive(Debug)]
pub(super) enum Sight {
    /// The command cannot read it.
    Hidden(Screen),
    /// The command can read it, for this reason.
    Open(Exposed),
    /// The person wants no screen.
    Unasked,
}

/// Why the command can read the identity directory.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exposed {
    #[error("taskpass runs as root, and root finds ways around; let it run as another user")]
    Root,
    #[error(
        "this user can create files in `{}`, and the command could not read them; keep the identity where only root can, such as /var/lib/taskpass-agents/NAME, or give `--hide-identity always`",
        .0.display()
    )]
    Costs(PathBuf),
    #[error("`{}` cannot be listed", path.display())]
    Unlistable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the kernel does not offer Landlock with renames (Linux 5.19)")]
    Kernel(#[source] RulesetError),
}

/// Prepares the screen before `directory`, before anything else is done.
pub(super) fn prepare(hide: Hide, directory: &Path) -> Result<Sight, Exposed> {
    if hide == Hide::Never {
        return Ok(Sight::Unasked);
    }
    let screen = screen(hide, directory);
    match (screen, hide) {
        (Ok(screen), _) => Ok(Sight::Hidden(screen)),
        (Err(why), Hide::Always) => Err(why),
        (Err(why), _) => Ok(Sight::Open(why)),
    }
}

fn screen(hide: Hide, directory: &Path) -> Result<Screen, Exposed> {
    let directory = fs::canonicalize(directory).map_err(|source| Exposed::Unlistable {
        path: directory.to_owned(),
        source,
    })?;
    if hide == Hide::Auto {
        if geteuid().is_root() {
            return Err(Exposed::Root);
        }
        let writable = |parent: &&Path| access(*parent, Access::WRITE_OK).is_ok();
        if let Some(parent) = directory.ancestors().skip(1).find(writable) {
            return Err(Exposed::Costs(parent.to_owned()));
        }
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::ReadFile | AccessFs::Refer)
        .and_then(Ruleset::create)
        .map_err(Exposed::Kernel)?;
    let mut hidden = directory.as_path();
    while let Some(parent) = hidden.parent() {
        ruleset = permit_beside(ruleset, parent, hidden)?;
        hidden = parent;
    }
    // Without this rule a domain forbids every move between two directories. With it, the kernel
    // still refuses the moves that would make a hidden file readable.
    let root = open_path(Path::new("/")).map_err(|source| Exposed::Unlistable {
        path: "/".into(),
        source,
    })?;
    let moves = PathBeneath::new(root, AccessFs::Refer);
    ruleset.add_rule(moves).map(Screen).map_err(Exposed::Kernel)
}

/// Permits to read everything in `parent` but `hidden`.
fn permit_beside(
    mut ruleset: RulesetCreated,
    parent: &Path,
    hidden: &Path,
) -> Result<RulesetCreated, Exposed> {
    let unlistable = |source| Exposed::Unlistable {
        path: parent.to_owned(),
        source,
    };
    for entry in fs::read_dir(parent).map_err(unlistable)? {
        let path = entry.map_err(unlistable)?.path();
        // A link could lead into the hidden directory, so it is not followed; its target has a rule
        // of its own. An entry that is gone or that this user cannot reach needs no rule.
        let Some(beside) = Some(&path)
            .filter(|path| *path != hidden && !path.is_symlink())
            .and_then(|path| open_path(path).ok())
        else {
            continue;
        };
        ruleset = ruleset
            .add_rule(PathBeneath::new(beside, AccessFs::ReadFile))
            .map_err(Exposed::Kernel)?;
    }
    Ok(ruleset)
}

/// Names a place without opening it for reading.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

impl Screen {
    /// Puts the calling thread, and every process that it starts, behind the screen.
    pub(super) fn enter(self) -> Result<(), RulesetError> {
        self.0.restrict_self().map(|_enforced| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_itself_it_hides_where_the_command_loses_nothing() {
        let ours = tempfile::tempdir().unwrap();
        let (of_root, of_user) = (
            screen(Hide::Auto, Path::new("/usr/lib")),
            screen(Hide::Auto, ours.path()),
        );
        if geteuid().is_root() {
            assert!(matches!(of_root, Err(Exposed::Root)));
            assert!(matches!(of_user, Err(Exposed::Root)));
        } else {
            of_root.unwrap();
            assert!(matches!(of_user, Err(Exposed::Costs(_))));
        }
        screen(Hide::Always, ours.path()).unwrap();
        let gone = ours.path().join("gone");
        assert!(matches!(prepare(Hide::Auto, &gone), Ok(Sight::Open(_))));
        assert!(prepare(Hide::Always, &gone).is_err());
        assert!(matches!(prepare(Hide::Never, &gone), Ok(Sight::Unasked)));
    }
}
