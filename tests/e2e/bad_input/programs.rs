//! Bad command lines, policies, configurations and ledger files: the message for a person, and the
//! exit code for a script.

use std::{fs, path::Path};

use taskpass_tests::{Cli, Installation, Output, World};

use super::is_one_line;
use crate::support;

const PLANTED: &str = "hvs.PLANTED-SECRET-0123456789";

fn offline(scratch: &Path) -> Cli {
    Cli::new("127.0.0.1:1", &scratch.join("no-identity"))
}

/// The line with the error.
fn error_line(output: &Output) -> &str {
    let line = output
        .stderr
        .lines()
        .find(|line| line.starts_with("error: "));
    line.unwrap_or_else(|| panic!("no line with the error: {output:?}"))
}

#[test]
fn wrong_usage_exits_with_2_and_names_the_mistake() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let cli = offline(scratch.path());
    let table: &[(&[&str], &str)] = &[
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'"),
        (&["task", "strat"], "unrecognized subcommand 'strat'"),
        (&["task", "start"], "--purpose"),
        (
            &["task", "start", "--purpose", "x", "--role", "no-slash"],
            "`no-slash`",
        ),
        (
            &[
                "task",
                "start",
                "--purpose",
                "x",
                "--role",
                "a/b",
                "--ttl",
                "tomorrow",
            ],
            "`tomorrow`",
        ),
        (
            &[
                "task",
                "start",
                "--purpose",
                "x",
                "--role",
                "a/b",
                "--label",
                "no-pair",
            ],
            "`no-pair`",
        ),
        (&["task", "end", "nothing"], "`nothing` is not a task"),
        (
            &["credential", "issue", "--task", "t0", "--role", "a/b"],
            "`t0` is not a task",
        ),
        (&["credential", "show", "t0"], "`t0` is not a credential"),
        (
            &["agent", "register", "UPPER", "--owner", "alice@acme.test"],
            "`UPPER` is not an agent name",
        ),
        (
            &["agent", "register", "fine", "--owner", "nobody"],
            "`nobody` is not an owner",
        ),
        (&["agent", "register", "fine"], "--owner"),
        (&["login"], "--join-token"),
        (&["login", "--join-token", "hunter2"], "join token"),
        (
            &["--addr", "nowhere", "task", "list"],
            "`nowhere` is not an address",
        ),
        (&["-o", "xml", "task", "list"], "invalid value 'xml'"),
        (&["ledger", "export", "--since", "yesterday"], "`yesterday`"),
        (&["ledger", "prove", "minus-one"], "minus-one"),
        (&["run", "--purpose", "x"], "COMMAND"),
    ];
    for (args, part) in table {
        let done = cli.run(args);
        assert_eq!(done.code, 2, "taskpass {args:?}: {done:?}");
        assert!(
            done.stderr.contains(part),
            "taskpass {args:?}: {}",
            done.stderr
        );
        assert_eq!(done.stdout, "", "taskpass {args:?}");
        assert!(!done.stderr.contains("panicked"), "{}", done.stderr);
    }
    assert!(
        !cli.run(&["login", "--join-token", "hunter2"])
            .stderr
            .contains("hunter2"),
        "the token is in the message"
    );
    let installation = Installation::new();
    for (args, part) in [
        (&["run"][..], "--config"),
        (&["init", "--dir", "x"], "--trust-domain"),
        (
            &["init", "--dir", "x", "--trust-domain", "UPPER.test"],
            "`UPPER.test`",
        ),
        (
            &["doctor", "--config", "x", "-o", "yaml"],
            "invalid value 'yaml'",
        ),
        (&["sing"], "unrecognized subcommand 'sing'"),
    ] {
        let done = installation.daemon(args);
        assert_eq!(done.status.code(), Some(2), "taskpassd {args:?}");
        let complaint = String::from_utf8_lossy(&done.stderr);
        assert!(complaint.contains(part), "taskpassd {args:?}: {complaint}");
    }
}

#[test]
fn a_failed_command_exits_with_its_own_code_and_names_the_next_step() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let cli = offline(scratch.path());
    let without_identity = cli.run(&["task", "list"]);
    assert_eq!(without_identity.code, 1, "{without_identity:?}");
    assert!(
        without_identity
            .stderr
            .contains("taskpass login --join-token-file"),
        "{without_identity:?}"
    );
    assert!(
        is_one_line(error_line(&without_identity)),
        "{without_identity:?}"
    );
    let installation = Installation::new();
    let operator = Cli::new("127.0.0.1:1", &installation.home().join("operator"));
    let unreachable = operator.run(&["task", "list"]);
    assert_eq!(unreachable.code, 5, "{unreachable:?}");
    assert!(
        error_line(&unreachable).contains("127.0.0.1:1"),
        "{unreachable:?}"
    );
    assert!(
        unreachable.stderr.contains("try: taskpass doctor"),
        "{unreachable:?}"
    );
    let world = World::new();
    let broker = world.start();
    let (code, text) = broker.agent("builder").refused(&["agent", "list"]);
    assert_eq!(code, 3, "{text}");
    assert!(
        text.contains("denied: this is for operators only"),
        "{text}"
    );
}

#[test]
fn bad_policies_are_shown_with_file_and_line() {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let cli = offline(scratch.path());
    let table = [
        (
            "a syntax error",
            "permit (\n  principal,\n  action\n  resource\n);\n",
            "bad.cedar:4",
        ),
        (
            "an unknown action",
            "permit (\n  principal,\n  action == Taskpass::Action::\"task.strat\",\n  resource\n);\n",
            "task.start",
        ),
        (
            "an unknown attribute",
            "permit (principal is Taskpass::Agent, action == Taskpass::Action::\"svid.attest\", resource)\nwhen { principal.colour == \"red\" };\n",
            "bad.cedar:2",
        ),
        (
            "an unknown type",
            "permit (principal is Robot, action, resource);\n",
            "Robot",
        ),
        (
            "an id given twice",
            "@id(\"x\")\nforbid (principal, action, resource);\n@id(\"x\")\nforbid (principal, action, resource);\n",
            "`x`",
        ),
        (
            "a template",
            "permit (principal == ?principal, action, resource);\n",
            "bad.cedar:1",
        ),
    ];
    for (what, policy, part) in table {
        let dir = scratch.path().join(what.replace(' ', "-"));
        fs::create_dir(&dir).expect("a directory");
        fs::write(dir.join("bad.cedar"), policy).expect("a file");
        let done = cli.run(&["policy", "check", dir.to_str().expect("a path in UTF-8")]);
        let all = format!("{}{}", done.stdout, done.stderr);
        assert_eq!(done.code, 1, "{what}: {all}");
        assert!(
            all.contains("bad.cedar:") && all.contains(part),
            "{what}: {all}"
        );
    }
    let done = cli.run(&["policy", "check", "/nowhere/at/all"]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        format!("{}{}", done.stdout, done.stderr).contains("/nowhere/at/all"),
        "{done:?}"
    );
    let installation = Installation::new();
    let done = cli.run(&[
        "policy",
        "check",
        installation
            .home()
            .join("policy")
            .to_str()
            .expect("a path in UTF-8"),
    ]);
    assert_eq!(done.code, 0, "the starter policy: {done:?}");
}

#[test]
fn bad_configurations_are_shown_with_file_line_and_the_nearest_key() {
    let vault = |more: &str| {
        format!(
            "\n[[provider]]\nname = \"v\"\nkind = \"vault\"\naddress = \"https://v.test:8200\"\ntoken_file = \"token\"\n{more}"
        )
    };
    let table: Vec<(String, &[&str])> = vec![
        (
            "\n[limts]\nconnections = 1\n".to_owned(),
            &["taskpass.toml:", "`limts`", "`limits`"],
        ),
        (
            "\n[limits]\nconections = 1\n".to_owned(),
            &["taskpass.toml:", "`conections`", "`connections`"],
        ),
        (
            "\n[limits]\nconnections = 0\n".to_owned(),
            &["taskpass.toml:", "connections"],
        ),
        (
            "\n[limits]\nconnections = \"many\"\n".to_owned(),
            &["taskpass.toml:", "connections"],
        ),
        (
            "\n[tasks]\nttl_max = \"8 hours\"\n".to_owned(),
            &["taskpass.toml:", "8 hours"],
        ),
        ("\n[tasks\n".to_owned(), &["taskpass.toml:"]),
        (
            "\n[listen]\ngrpc = \"127.0.0.1:0\"\n".to_owned(),
            &["taskpass.toml:", "duplicate key"],
        ),
        (
            vault("secret = \"hvs.PLANTED-SECRET-0123456789\"\n"),
            &["taskpass.toml:", "`secret`"],
        ),
        (
            vault("token = \"hvs.PLANTED-SECRET-0123456789\"\n"),
            &["taskpass.toml:", "`token`", "token_file"],
        ),
        (
            "\n[[provider]]\nname = \"v\"\nkind = \"volt\"\n".to_owned(),
            &["taskpass.toml:", "volt", "vault"],
        ),
        (
            vault(
                "  [[provider.role]]\n  name = \"r\"\n  type = \"dynamc\"\n  policies = [\"p\"]\n  max_ttl = \"1m\"\n  impact = 0\n",
            ),
            &["taskpass.toml:", "dynamc", "dynamic"],
        ),
        (vault(&vault("")), &["taskpass.toml:", "`v`"]),
    ];
    for (more, parts) in table {
        let installation = Installation::new();
        installation.configure(&more);
        let config = installation.home().join("taskpass.toml");
        let config = config.to_str().expect("a path in UTF-8");
        for command in [
            &["config", "check", "--config", config][..],
            &["run", "--config", config],
        ] {
            let done = installation.daemon(command);
            assert_eq!(done.status.code(), Some(1), "{command:?} {more}");
            let text = String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned();
            for part in parts {
                assert!(
                    text.contains(part),
                    "{command:?} {more}: `{part}` is not in: {text}"
                );
            }
            assert!(
                !text.contains(PLANTED) && !text.contains("PLANTED"),
                "{command:?}: a secret is in: {text}"
            );
            assert!(!text.contains("panicked"), "{text}");
        }
    }
    let installation = Installation::new();
    let config = installation.home().join("taskpass.toml");
    let done = installation.daemon(&[
        "config",
        "check",
        "--config",
        config.to_str().expect("a path in UTF-8"),
    ]);
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
}

#[test]
fn bad_ledger_files_are_told_from_good_ones() {
    let world = World::new();
    let broker = world.start();
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    support::end(&agent, &task);
    let good = support::export(&world.installation, &broker.operator(), "good.jsonl", &[]);
    let good = fs::read_to_string(good).expect("an export");
    let lines: Vec<&str> = good.lines().collect();
    let without = |index: usize| {
        lines
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != index)
            .map(|(_, l)| format!("{l}\n"))
            .collect::<String>()
    };
    let swapped = {
        let mut lines = lines.clone();
        lines.swap(2, 3);
        lines.join("\n") + "\n"
    };
    let cli = offline(world.installation.scratch());
    let key = support::vkey(&world.installation);
    let key = key.to_str().expect("a path in UTF-8");
    let verify = |name: &str, content: &str, key: &str| {
        let path = world.installation.scratch().join(name);
        fs::write(&path, content).expect("a file");
        cli.run(&[
            "ledger",
            "verify",
            "--key",
            key,
            path.to_str().expect("a path in UTF-8"),
        ])
    };
    assert_eq!(verify("good", &good, key).code, 0);
    let table = [
        ("empty", String::new(), "without a checkpoint"),
        (
            "cut off",
            lines[..lines.len() - 1].join("\n") + "\n",
            "without a checkpoint",
        ),
        (
            "cut off in a line",
            good[..good.len() / 2].to_owned(),
            "cut off",
        ),
        ("an entry removed", without(3), ""),
        ("the first removed", without(0), ""),
        ("two swapped", swapped, ""),
        (
            "a name changed",
            good.replacen("builder", "builbar", 1),
            "changed",
        ),
        (
            "an outcome changed",
            good.replacen("\"allow\"", "\"deny\"", 1),
            "changed",
        ),
        ("not JSON", "hello\n".to_owned(), "line 1"),
        ("something behind it", format!("{good}{}\n", lines[0]), ""),
        ("binary", "\u{0}\u{1}\u{2}".to_owned(), "line 1"),
    ];
    for (what, content, part) in &table {
        let done = verify("bad", content, key);
        assert_eq!(done.code, 1, "{what}: {done:?}");
        let line = error_line(&done);
        assert!(line.contains(part) && is_one_line(line), "{what}: {line}");
        assert_eq!(done.stdout, "", "{what}");
    }
    let other = Installation::new();
    let other_key = support::vkey(&other);
    let done = verify("good", &good, other_key.to_str().expect("a path in UTF-8"));
    assert_eq!(done.code, 1, "{done:?}");
    assert!(
        error_line(&done).contains("the checkpoint cannot be trusted"),
        "{done:?}"
    );
    let missing = cli.run(&["ledger", "verify", "--key", key, "/nowhere/export.jsonl"]);
    assert_eq!(missing.code, 1);
    assert!(
        error_line(&missing).contains("cannot read `/nowhere/export.jsonl`"),
        "{missing:?}"
    );
}
