use std::{fs, os::unix::fs::PermissionsExt};

use taskpass_core::{ManualClock, SeededEntropy};
use taskpass_ledger::VerifyingKey;
use taskpass_policy::PolicySet;

use super::*;
use crate::{
    fixture::{BEGIN, plan},
    provider_kinds,
};

fn try_install(dir: &Path) -> Result<Installed, Error> {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(BEGIN));
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(7));
    install(plan(dir), &provider_kinds(), &clock, &entropy)
}

/// Every file and directory below `dir` with its mode.
fn walk(dir: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = vec![(dir.to_owned(), mode(dir))];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push((path.clone(), mode(&path)));
        }
    }
    found
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn everything_is_there_and_for_its_owner_only() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("new/installation");
    let installed = try_install(&dir).unwrap();
    for name in [
        "taskpass.toml",
        "policy/starter.cedar",
        "data/ledger.key",
        "data/ca/root.key",
        "operator/svid.pem",
        "operator/key.pem",
        "operator/bundle.pem",
        "operator/ledger.vkey",
    ] {
        assert!(dir.join(name).is_file(), "{name}");
    }
    for (path, mode) in walk(&dir) {
        let ours = if path.is_dir() { 0o700 } else { 0o600 };
        let others = mode & 0o077;
        let is_secret = path.extension().is_some_and(|e| e == "key") || path.ends_with("key.pem");
        assert!(!is_secret || mode == 0o600, "{} {mode:o}", path.display());
        // The ledger's own files follow the umask, behind a directory that only its owner can
        // enter.
        assert!(
            others == 0 || path.starts_with(dir.join("data/ledger")),
            "{} {mode:o} {ours:o}",
            path.display()
        );
    }
    assert!(!dir.join("taskpass.toml.tmp").exists());
    let config = Config::load(&dir.join("taskpass.toml"), &provider_kinds()).unwrap();
    assert_eq!(config.trust_domain.as_str(), "acme.test");
    assert_eq!(config.data_dir, dir.join("data"));
    let policies = PolicySet::load_dir(&config.policy.dir).unwrap();
    assert!(!policies.is_empty());
    let next = installed.to_string();
    for command in [
        format!(
            "\n  taskpassd run --config {}/taskpass.toml\n",
            dir.display()
        ),
        format!("TASKPASS_IDENTITY={}/operator\n", dir.display()),
        "key.pem\n                 is in plain text".to_owned(),
    ] {
        assert!(next.contains(&command), "{next}");
    }
}

#[test]
fn the_ledger_verifies_and_names_the_operator() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("t");
    let installed = try_install(&dir).unwrap();
    let vkey = fs::read_to_string(dir.join("operator/ledger.vkey")).unwrap();
    let key: VerifyingKey = vkey.trim().parse().unwrap();
    assert_eq!(key.name(), "taskpass/acme.test");
    let config = installed.config();
    let verified =
        taskpass_ledger::verify::verify_dir(&config.ledger_dir(), &key, None, &mut |_| ()).unwrap();
    assert_eq!((verified.entries, verified.unsigned), (2, 0));

    let key = SigningKey::load(&config.ledger_origin(), &config.ledger_key()).unwrap();
    let (ledger, _) = Ledger::open(&config.ledger_dir(), Options::new(key)).unwrap();
    let entry = |index| Entry::parse(&ledger.reader().entry(index).unwrap()).unwrap();
    let Event::Initialized { root, .. } = entry(0).event else {
        panic!("the first entry makes the installation");
    };
    assert!(root.is_some(), "the first root is on record from then on");
    let Event::OperatorSvidIssued {
        operator, serial, ..
    } = entry(1).event
    else {
        panic!("{:?}", entry(1));
    };
    assert_eq!(operator.as_str(), "admin");
    assert_eq!(serial.len(), 32);
}

#[test]
fn an_installation_is_never_overwritten() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("t");
    try_install(&dir).unwrap();
    let before = fs::read(dir.join("operator/key.pem")).unwrap();
    let error = try_install(&dir).unwrap_err();
    assert!(matches!(error, Error::Exists(_)), "{error}");
    assert_eq!(fs::read(dir.join("operator/key.pem")).unwrap(), before);
}

/// With the remains of a crashed `init`, no broker starts, and the next `init` says how to go on.
#[test]
fn the_leftovers_of_a_crash_are_recognised() {
    for left in ["data", "operator", "policy", "taskpass.toml.tmp"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("it's here");
        fs::create_dir_all(dir.join(left)).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let message = try_install(&dir).unwrap_err().to_string();
        let quoted = quoted(&dir.join(left));
        assert!(
            message.contains(&format!("rm -r {quoted}` and try again")),
            "{message}"
        );
        assert!(Config::load(&dir.join("taskpass.toml"), &provider_kinds()).is_err());
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "nothing may be added"
        );
        fs::remove_dir(dir.join(left)).unwrap();
        try_install(&dir).unwrap();
    }
}

/// A failure in the last step leaves only files that the next `init` recognises.
#[test]
fn the_configuration_comes_last() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("t");
    // The policy directory is the step before the last; a file in its place stops the steps after
    // it.
    let clock: Arc<dyn Clock> = Arc::new(Obstructing {
        clock: ManualClock::new(BEGIN),
        path: dir.join(POLICY),
    });
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(7));
    let error = install(plan(&dir), &provider_kinds(), &clock, &entropy).unwrap_err();
    assert!(matches!(error, Error::Write { .. }), "{error}");
    assert!(dir.join("operator/key.pem").exists());
    assert!(!dir.join("taskpass.toml").exists());
    assert!(matches!(try_install(&dir), Err(Error::Unfinished { .. })));
}

/// A clock that puts a file in the place of a later directory when it is first read.
#[derive(Debug)]
struct Obstructing {
    clock: ManualClock,
    path: PathBuf,
}

impl Clock for Obstructing {
    fn now(&self) -> Timestamp {
        fs::write(&self.path, "in the way").unwrap();
        self.clock.now()
    }

    fn monotonic(&self) -> std::time::Duration {
        self.clock.monotonic()
    }
}

#[test]
fn a_directory_that_others_can_enter_is_refused_with_the_command_that_helps() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("t");
    fs::create_dir(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let message = try_install(&dir).unwrap_err().to_string();
    assert!(
        message.contains("(mode 0755); run `chmod 700 "),
        "{message}"
    );
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    try_install(&dir).unwrap();
}

#[test]
fn paths_are_quoted_for_a_shell() {
    for (path, expected) in [
        ("/srv/taskpass", "/srv/taskpass"),
        ("a b", "'a b'"),
        ("it's", r"'it'\''s'"),
        ("$HOME", "'$HOME'"),
        ("", "''"),
    ] {
        assert_eq!(quoted(Path::new(path)), expected);
    }
}

/// The commented examples must be valid without the comment marks.
#[test]
fn the_commented_examples_are_right() {
    let text = configuration(&"acme.test".parse().unwrap(), PLAIN_KEYS, &provider_kinds());
    let start = text.find("# [[provider]]").unwrap();
    let (head, examples) = text.split_at(start);
    let uncommented: Vec<&str> = examples
        .lines()
        .map(|line| {
            line.strip_prefix("# ")
                .or_else(|| line.strip_prefix('#'))
                .unwrap_or(line)
        })
        .collect();
    let text = format!("{head}{}", uncommented.join("\n"));
    let config = Config::parse(Path::new("/t/taskpass.toml"), &text, &provider_kinds()).unwrap();
    assert_eq!(config.providers.len(), 2);
}
