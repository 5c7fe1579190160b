//! The files in `deploy/` would work: the example is a valid configuration, the unit file and the
//! image start existing programs with existing flags, and none of them grants more than it must.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::Value;
use taskpass_tests::{Installation, program, workspace};

use super::{files, none, read};

#[test]
fn the_example_is_a_valid_configuration() {
    let installation = Installation::new();
    let home = installation.home();
    let example = read("deploy/examples/taskpass.toml");
    fs::write(home.join("taskpass.toml"), &example).expect("the copy");
    for directory in ["secrets", "policies"] {
        fs::create_dir(home.join(directory)).expect("a directory");
    }
    for template in files("deploy/examples/policies", ".json") {
        let name = template.rsplit('/').next().expect("a name");
        fs::copy(
            workspace().join(&template),
            home.join("policies").join(name),
        )
        .expect("the copy");
    }
    for (name, content) in [
        ("vault-token", "hvs.example"),
        (
            "aws-credentials",
            "[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n",
        ),
    ] {
        let path = home.join("secrets").join(name);
        fs::write(&path, content).expect("a secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
    }
    let config = home.join("taskpass.toml");
    let done = installation.daemon(&[
        "config",
        "check",
        "--config",
        config.to_str().expect("a path in UTF-8"),
    ]);
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(said.starts_with("ok"), "{said}");
    for provider in ["vault-main", "aws-prod"] {
        assert!(
            said.contains(provider),
            "{provider} is not in the summary: {said}"
        );
    }
}

#[test]
fn session_policies_are_policies() {
    for template in files("deploy/examples", ".json") {
        let policy: serde_json::Value = serde_json::from_str(&read(&template)).expect(&template);
        assert_eq!(policy["Version"], "2012-10-17", "{template}");
        let statements = policy["Statement"]
            .as_array()
            .expect("a list of statements");
        assert!(
            statements
                .iter()
                .all(|s| s["Effect"].is_string() && s["Action"] != "*"),
            "{template}"
        );
    }
}

/// `iam:PutRolePolicy` would let a thief of the revoker's key write any rights into a role. A role
/// with a permissions boundary gets no more than the boundary, whatever is written into it, and the
/// revoker may write into no other.
#[test]
fn the_revoker_of_the_aws_example_cannot_widen_a_role() {
    let load = |name: &str| -> Value {
        let path = format!("deploy/examples/aws/{name}.json");
        serde_json::from_str(&read(&path)).expect(&path)
    };
    let each = |policy: &Value, effect: &str| -> Vec<(String, Value)> {
        let statements = policy["Statement"].as_array().expect("statements");
        let of_effect = statements.iter().filter(|s| s["Effect"] == effect);
        let actions = of_effect.flat_map(|s| {
            let actions = match &s["Action"] {
                Value::Array(all) => all.clone(),
                one => vec![one.clone()],
            };
            let text = |action: Value| action.as_str().expect("an action").to_owned();
            actions.into_iter().map(move |a| (text(a), s.clone()))
        });
        actions.collect()
    };
    let role = "arn:aws:iam::123456789012:role/artifact-reader";
    assert!(read("deploy/examples/taskpass.toml").contains(role));
    let revoker = each(&load("revoker"), "Allow");
    let actions: Vec<&str> = revoker.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(actions, ["iam:GetRolePolicy", "iam:PutRolePolicy"]);
    assert!(revoker.iter().all(|(_, s)| s["Resource"] == role));
    let bounded = &revoker[1].1["Condition"]["StringEquals"]["iam:PermissionsBoundary"];
    let name = bounded.as_str().and_then(|arn| arn.rsplit('/').next());
    let boundary = load(name.expect("the boundary of the roles"));
    for (action, statement) in each(&boundary, "Allow") {
        let may = action.split(':').next().expect("a service");
        assert!(
            !["*", "iam", "sts", "organizations"].contains(&may),
            "{action}"
        );
        assert_ne!(statement["Resource"], "*", "{action}");
    }
    let denied = each(&boundary, "Deny");
    for never in ["iam:*", "sts:Assume*"] {
        assert!(denied.iter().any(|(action, _)| action == never), "{never}");
    }
    // Its session policy allows what the example's role may do, and the boundary must as well.
    let example = each(&load("../policies/artifact-reader"), "Allow");
    let allowed = each(&boundary, "Allow");
    for (action, _) in example {
        assert!(allowed.iter().any(|(a, _)| *a == action), "{action}");
    }
    let own = each(&load("taskpass-revoker-boundary"), "Allow");
    let own: Vec<&str> = own.iter().map(|(action, _)| action.as_str()).collect();
    assert_eq!(own, actions);
    let broker = each(&load("broker"), "Allow");
    assert!(
        broker
            .iter()
            .all(|(a, s)| a.starts_with("sts:") && s["Resource"] == role)
    );
    for policy in files("deploy/examples/aws", ".json") {
        assert!(
            read(&policy).len() <= 6144,
            "IAM takes no longer policy: {policy}"
        );
    }
}

/// The policy of the broker's own Vault token grants no path through which the broker could give
/// itself more.
#[test]
fn the_brokers_vault_policy_names_the_paths_it_needs() {
    let policy = read("deploy/examples/vault-broker-policy.hcl");
    let paths: Vec<&str> = policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("path \"")?.split('"').next())
        .collect();
    for needed in [
        "auth/token/create/taskpass",
        "auth/token/renew-accessor",
        "auth/token/revoke-accessor",
        "auth/token/lookup-accessor",
    ] {
        assert!(paths.contains(&needed), "`{needed}` is missing");
    }
    for path in &paths {
        assert!(
            !path.starts_with("sys/policies")
                && !path.starts_with("auth/token/*")
                && !path.contains('*')
                && *path != "auth/token/create-orphan",
            "`{path}` is too much"
        );
    }
    // The rules for leases are those of the roles in the example beside it.
    let roles = read("deploy/examples/taskpass.toml");
    let dynamic = roles.split("[[provider.role]]").filter_map(|role| {
        let (_, path) = role
            .split_once("type = \"dynamic\"")?
            .1
            .split_once("path = \"")?;
        path.split('"').next()
    });
    let expected: BTreeSet<String> = dynamic
        .map(|path| format!("sys/leases/lookup/{path}/"))
        .collect();
    let listed = paths
        .iter()
        .filter(|path| path.starts_with("sys/leases/lookup/"));
    let listed: BTreeSet<String> = listed.map(|&path| path.to_owned()).collect();
    assert_eq!(listed, expected);
    assert!(policy.contains("token_explicit_max_ttl="));
}

/// The keys of systemd that the unit uses. systemd ignores a mistyped key with no more than a line
/// in the log.
const UNIT_KEYS: &[(&str, &[&str])] = &[
    (
        "Unit",
        &[
            "Description",
            "Documentation",
            "Wants",
            "After",
            "Before",
            "Requires",
            "StartLimitIntervalSec",
            "StartLimitBurst",
        ],
    ),
    (
        "Service",
        &[
            "Type",
            "NotifyAccess",
            "ExecStartPre",
            "ExecStart",
            "ExecReload",
            "Restart",
            "RestartSec",
            "TimeoutStartSec",
            "TimeoutStopSec",
            "WatchdogSec",
            "User",
            "Group",
            "StateDirectory",
            "StateDirectoryMode",
            "WorkingDirectory",
            "UMask",
            "LoadCredential",
            "LoadCredentialEncrypted",
            "Environment",
            "LimitNOFILE",
            "LimitCORE",
            "LimitMEMLOCK",
            "NoNewPrivileges",
            "CapabilityBoundingSet",
            "AmbientCapabilities",
            "ProtectSystem",
            "ReadOnlyPaths",
            "ProtectHome",
            "ProtectProc",
            "ProcSubset",
            "ProtectClock",
            "ProtectControlGroups",
            "ProtectHostname",
            "ProtectKernelLogs",
            "ProtectKernelModules",
            "ProtectKernelTunables",
            "PrivateDevices",
            "PrivateTmp",
            "PrivateUsers",
            "PrivateMounts",
            "DevicePolicy",
            "RemoveIPC",
            "LockPersonality",
            "MemoryDenyWriteExecute",
            "RestrictAddressFamilies",
            "RestrictNamespaces",
            "RestrictRealtime",
            "RestrictSUIDSGID",
            "KeyringMode",
            "SystemCallArchitectures",
            "SystemCallFilter",
            "SystemCallErrorNumber",
        ],
    ),
    ("Install", &["WantedBy"]),
];

/// Settings that keep an attacker inside the broker away from the rest of the machine.
const HARDENING: [(&str, &str); 13] = [
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("ProtectSystem", "strict"),
    ("ReadOnlyPaths", "/etc/taskpass"),
    ("ProtectHome", "yes"),
    ("PrivateTmp", "yes"),
    ("PrivateDevices", "yes"),
    ("MemoryDenyWriteExecute", "yes"),
    ("RestrictNamespaces", "yes"),
    ("LimitCORE", "0"),
    ("UMask", "0077"),
    ("StateDirectoryMode", "0700"),
    ("Restart", "on-failure"),
];

#[test]
fn the_unit_file_is_valid_and_starts_a_program_that_exists() {
    let text = read("deploy/systemd/taskpassd.service");
    let mut section = "";
    let mut found: Vec<(&str, &str)> = Vec::new();
    let mut complaints = Vec::new();
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            section = name;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            panic!("`{line}` is no setting")
        };
        let known = UNIT_KEYS
            .iter()
            .find(|(name, _)| *name == section)
            .map(|(_, keys)| *keys)
            .unwrap_or_default();
        if !known.contains(&key) {
            complaints.push(format!(
                "[{section}] `{key}` is not a key that is known here"
            ));
        }
        found.push((key, value));
    }
    for (key, value) in HARDENING {
        if !found.contains(&(key, value)) {
            complaints.push(format!("`{key}={value}` is missing"));
        }
    }
    none(&complaints);
    let starts: Vec<&str> = found
        .iter()
        .filter(|(key, _)| key.starts_with("ExecStart"))
        .map(|(_, v)| *v)
        .collect();
    assert_eq!(starts.len(), 2);
    for command in starts {
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "/usr/bin/taskpassd");
        // Not in the directory that the service may write.
        assert_eq!(words.last(), Some(&"/etc/taskpass/taskpass.toml"));
        is_understood(&words[1..]);
    }
    let users = read("deploy/systemd/taskpass.sysusers.conf");
    assert!(
        users.lines().any(|line| line.starts_with("u taskpass ")),
        "{users}"
    );
}

/// Whether the program takes the arguments: it refuses unknown ones before it prints its help.
fn is_understood(arguments: &[&str]) {
    let done = Command::new(program("taskpassd"))
        .args(arguments)
        .arg("--help")
        .env_clear()
        .output()
        .expect("it starts");
    assert!(
        done.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The instructions of a Dockerfile, with continued lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.trim().is_empty());
    lines
        .map(|line| {
            let (name, rest) = line.split_once(' ').expect("an instruction with arguments");
            (name.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

#[test]
fn the_image_is_small_unprivileged_and_starts_a_program_that_exists() {
    let all = instructions(&read("deploy/Dockerfile"));
    let known = [
        "FROM",
        "ENV",
        "RUN",
        "WORKDIR",
        "COPY",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
        "LABEL",
        "ARG",
    ];
    assert!(
        all.iter().all(|(name, _)| known.contains(&name.as_str())),
        "{all:?}"
    );
    let of = |name: &'static str| {
        all.iter()
            .filter(move |(n, _)| n == name)
            .map(|(_, rest)| rest.as_str())
    };
    let stages: Vec<&str> = of("FROM").collect();
    assert_eq!(stages.len(), 2, "one stage to build, one to run");
    for stage in &stages {
        let image = stage.split(' ').next().expect("an image");
        assert!(
            image.contains(':') && !image.ends_with(":latest"),
            "`{image}` names no version"
        );
    }
    let run = read("deploy/Dockerfile");
    for confined in [
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
    ] {
        assert!(run.contains(confined), "`docker run` has no `{confined}`");
    }
    let toolchain: toml::Table = read("rust-toolchain.toml").parse().expect("TOML");
    let version = toolchain["toolchain"]["channel"]
        .as_str()
        .expect("a version");
    assert!(
        stages[0].starts_with(&format!("rust:{version}")),
        "the image builds with another compiler: {}",
        stages[0]
    );
    assert!(of("ENV").any(|env| env.contains(&format!("RUSTUP_TOOLCHAIN={version}"))));
    let last = all
        .iter()
        .rposition(|(name, _)| name == "FROM")
        .expect("a stage");
    let user = all[last..]
        .iter()
        .find(|(name, _)| name == "USER")
        .map(|(_, user)| user.as_str());
    assert!(
        user.is_some_and(|user| user != "root" && !user.starts_with('0')),
        "the last stage runs as {user:?}"
    );
    for (name, rest) in &all {
        let secret = ["SECRET", "TOKEN", "PASSWORD", "PRIVATE"]
            .iter()
            .any(|word| rest.to_uppercase().contains(word));
        assert!(
            !(["ENV", "ARG"].contains(&name.as_str()) && secret),
            "{name} {rest}"
        );
        if name == "COPY" && rest.contains("--from=") {
            let stage = rest
                .split("--from=")
                .nth(1)
                .and_then(|r| r.split(' ').next())
                .expect("a stage");
            assert!(
                stages.iter().any(|s| s.ends_with(&format!(" AS {stage}"))),
                "no stage {stage}"
            );
        }
    }
    let exec = |name| -> Vec<String> {
        let text = of(name).next_back().unwrap_or_else(|| panic!("no {name}"));
        serde_json::from_str(text).unwrap_or_else(|_| {
            panic!("{name} is not in exec form, so signals do not arrive: {text}")
        })
    };
    assert_eq!(exec("ENTRYPOINT"), ["/usr/local/bin/taskpassd"]);
    let command = exec("CMD");
    is_understood(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let build = of("RUN")
        .find(|run| run.contains("cargo build"))
        .expect("it builds");
    for package in [
        "-p taskpass-broker",
        "-p taskpass-cli",
        "--locked",
        "--release",
        "target/release/taskpassd",
        "target/release/taskpass",
    ] {
        assert!(build.contains(package), "the build has no `{package}`");
    }
    assert!(
        !build.contains("all-features"),
        "failpoints are not for an image"
    );
    let ignored = read("deploy/Dockerfile.dockerignore");
    for what in ["target", ".git"] {
        assert!(
            ignored.lines().any(|line| line.trim_matches('/') == what) || ignored.starts_with('*'),
            "{what} goes into the build"
        );
    }
}
