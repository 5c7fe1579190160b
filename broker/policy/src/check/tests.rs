//! The findings that people see when their policies are wrong.

use std::{collections::BTreeSet, fs};

use super::*;
use crate::{PolicySet, Severity, limits, testing::file};

const FINE: &str = "@id(\"fine\") permit (principal, action, resource);";

/// Each wrong policy with everything that is said about it.
#[expect(clippy::too_many_lines, reason = "one table of cases")]
#[test]
fn messages() {
    let table = [
        (
            "permit (principal, action, resource)",
            "a.cedar:1:37: error: unexpected end of input; expected `;` or identifier\n",
        ),
        (
            "permit (principal, action, resource);\nallow (principal, action, resource);",
            "a.cedar:2:1: error: invalid policy effect: allow; effect must be either `permit` or `forbid`\n",
        ),
        (
            "permit (principal, action);",
            "a.cedar:1:26: error: this policy is missing the `resource` variable in the scope; policy scopes must contain a `principal`, `action`, and `resource` element in that order\n",
        ),
        (
            "permit (principal, action, resource) when { context.nwo };",
            "a.cedar:1:45: error: attribute `nwo` in context not found, for `agent.freeze` and 21 more; did you mean `now`?\n",
        ),
        (
            "permit (principal, action in Taskpass::Action::\"read\", resource) when { context.scope.isEmpty() };",
            "a.cedar:1:73: error: attribute `scope` in context not found, for `agent.read` and 5 more; did you mean `ip`?\n",
        ),
        (
            "// é\npermit (principal is Taskpass::Agent,\n  action, resource) when { principal.ownr == \"é\" };",
            "a.cedar:3:28: error: attribute `ownr` on entity type `Taskpass::Agent` not found; did you mean `owner`?\n",
        ),
        (
            "permit (principal is Taskpass::Robot, action, resource);",
            "a.cedar:1:22: error: unrecognized entity type `Taskpass::Robot`; did you mean `Taskpass::Role`?\n",
        ),
        (
            "permit (principal, action == Taskpass::Action::\"credential.isue\", resource);",
            "a.cedar:1:30: error: unrecognized action `Taskpass::Action::\"credential.isue\"`; did you mean `Taskpass::Action::\"credential.issue\"`?\n",
        ),
        (
            "permit (principal == Agent::\"a\", action, resource);",
            "a.cedar:1:22: error: unrecognized entity type `Agent`; did you mean `Taskpass::Agent`?\n",
        ),
        (
            "permit (principal, action == Taskpass::Action::\"task.end\", resource) when { context.ip.isInRange(ip(\"10.0.0.0/8\")) };",
            "a.cedar:1:77: error: unable to guarantee safety of access to optional attribute `ip` in context, for `task.end`; try testing for the attribute's presence with `context has ip && ..`\n",
        ),
        (
            "permit (principal, action in Taskpass::Action::\"access\", resource) when { context.ttlSeconds < \"5m\" };",
            "a.cedar:1:96: error: unexpected type: expected Long but saw String\n",
        ),
        (
            "permit (principal, action, resource) when { context.now > datetime(\"tomorrow\") };",
            "a.cedar:1:59: error: error during extension function argument validation: failed to parse as a datetime value: `\"tomorrow\"`; valid datetime strings start with `YYYY-MM-DD` and may optionally include `THH:MM:SS` plus `Z`, `.SSSZ`, or an offset like `+0700`\n",
        ),
        (
            "permit (principal == ?principal, action, resource);",
            "a.cedar:1:1: error: templates are not supported: there is nothing that could fill `?principal` or `?resource`; write the entity itself, or `principal` and a condition\n",
        ),
        (
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource);",
            "a.cedar:2:1: error: another policy already has the id `a`: a.cedar:1:1; ids name policies in records: give each its own\n",
        ),
        (
            "@id permit (principal, action, resource);",
            "a.cedar:1:1: error: `@id` must be 1 to 128 printable characters; write `@id(\"a-name\")`\n",
        ),
        (
            "@id(\"a\\nb\") permit (principal, action, resource);",
            "a.cedar:1:1: error: `@id` must be 1 to 128 printable characters; write `@id(\"a-name\")`\n",
        ),
        (
            "@reason(\"\") permit (principal, action, resource);",
            "a.cedar:1:1: error: `@reason` must be 1 to 240 printable characters\n",
        ),
        (
            "permit (principal is Taskpass::Operator, action == Taskpass::Action::\"credential.issue\", resource);",
            "a.cedar:1:1: warning: the policy can never apply: no request fits its scope and conditions\n",
        ),
        (
            "permit (principal, action, resource == Taskpass::Installation::\"that\");",
            "a.cedar:1:40: error: entity `Taskpass::Installation::\"that\"` is of an enumerated entity type, but `\"that\"` is not declared as a valid eid; valid entity eids: \"this\"\n",
        ),
        (
            "permit (principal, action, resource) when { principal.name == \"b\u{202e}a\" };",
            "a.cedar:1:65: error: an invisible character, which can make a policy read as another than it is; remove it\n",
        ),
        (
            "\u{1b}[2J permit (principal, action, resource);",
            "a.cedar:1:1: error: an invisible character, which can make a policy read as another than it is; remove it\na.cedar:1:1: error: invalid token\n",
        ),
        (
            "",
            "warning: there are no policies, so everything is denied\n",
        ),
        (FINE, ""),
    ];
    for (text, expected) in table {
        let report = check_files(&[file("a.cedar", text)], None).unwrap();
        assert_eq!(report.to_string(), expected, "{text}");
        // Loading refuses the same files that the check complains about.
        let loaded = PolicySet::parse(&[file("a.cedar", text)]);
        assert_eq!(loaded.is_err(), report.has_errors(), "{text}");
    }
}

/// One file's mistakes hide neither another file's nor each other.
#[test]
fn all_files_are_reported_in_order() {
    let files = [
        file(
            "b.cedar",
            "permit (principal, action, resource) when { nonsense };",
        ),
        file(
            "a.cedar",
            "@id(\"x\") permit (principal, action, resource) when { 1 };\n@id(\"x\") permit (principal, action, resource);",
        ),
        file("c.cedar", FINE),
        file("c.cedar", FINE),
    ];
    let report = check_files(&files, None).unwrap();
    let places: Vec<String> = report
        .findings
        .iter()
        .map(|f| format!("{}:{}:{}", f.file, f.line, f.column))
        .collect();
    assert_eq!(
        places,
        [
            "a.cedar:1:54",
            "a.cedar:2:1",
            "b.cedar:1:45",
            "c.cedar:0:0",
            "c.cedar:1:1"
        ]
    );
    assert_eq!(report.files, 4);
    let error = PolicySet::parse(&files).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a.cedar:1:54: error: unexpected type: expected Bool but saw Long (and 4 more: see `taskpass policy check`)"
    );
}

#[test]
fn references_to_missing_things() {
    let text = r#"
        permit (principal in Taskpass::AgentClass::"deploier", action, resource == Taskpass::Role::"vault-main/ci-db");
        permit (principal, action, resource == Taskpass::Role::"vault-main/ci-bd");
        permit (principal, action, resource)
          when { resource in Taskpass::Provider::"something-else" || principal in Taskpass::Team::"any" };"#;
    let known = KnownNames {
        providers: Some(BTreeSet::from(["vault-main".parse().unwrap()])),
        roles: Some(BTreeSet::from([
            "vault-main/ci-db".parse().unwrap(),
            "vault-main/other".parse().unwrap(),
        ])),
        classes: Some(BTreeSet::from(["deployer".parse().unwrap()])),
    };
    let files = [file("a.cedar", text)];
    let report = check_files(&files, Some(&known)).unwrap();
    assert_eq!(
        report.to_string(),
        "a.cedar:2:30: warning: `Taskpass::AgentClass::\"deploier\"` is not the class of any agent; did you mean `deployer`?\n\
         a.cedar:3:48: warning: `Taskpass::Role::\"vault-main/ci-bd\"` is not configured; did you mean `vault-main/ci-db`?\n\
         a.cedar:5:30: warning: `Taskpass::Provider::\"something-else\"` is not configured\n"
    );
    assert!(!report.has_errors());
    for known in [None, Some(&KnownNames::default())] {
        assert_eq!(check_files(&files, known).unwrap().findings, []);
    }
}

#[test]
fn directories() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    fs::create_dir(dir.path().join("sub.cedar")).unwrap();
    write("README.md", b"not a policy");
    write(".#hidden.cedar", b"\xff");
    let empty = check(dir.path(), None).unwrap();
    assert_eq!(
        (empty.files, empty.has_errors(), empty.findings.len()),
        (0, false, 1)
    );
    assert!(PolicySet::load_dir(dir.path()).unwrap().is_empty());

    write("b.cedar", FINE.as_bytes());
    write("a.cedar", b"forbid (principal, action, resource);");
    let set = PolicySet::load_dir(dir.path()).unwrap();
    assert_eq!(set.len(), 2);
    // Comments count, since the hash names texts and not meanings. Other files do not count.
    write("notes.txt", b"more");
    assert_eq!(PolicySet::load_dir(dir.path()).unwrap().hash(), set.hash());

    let refused = |name: &str, bytes: &[u8]| {
        write(name, bytes);
        let error = check(dir.path(), None).unwrap_err().to_string();
        fs::remove_file(dir.path().join(name)).unwrap();
        error.replace(dir.path().to_str().unwrap(), "DIR")
    };
    assert_eq!(
        refused("c.cedar", &vec![b' '; limits::FILE_BYTES_MAX + 1]),
        "`DIR/c.cedar` is larger than 1048576 bytes: split it into several files"
    );
    assert_eq!(
        refused("c.cedar", b"permit \xff"),
        "`DIR/c.cedar` is not UTF-8 text: save it as UTF-8"
    );
    let missing = check(&dir.path().join("none"), None)
        .unwrap_err()
        .to_string();
    assert!(missing.ends_with("none`: check that it exists and that this process may read it"));
}

#[test]
fn too_many_policies() {
    let text = "permit(principal,action,resource);".repeat(limits::POLICIES_MAX + 1);
    let report = check_files(&[file("a.cedar", &text)], None).unwrap();
    assert_eq!(
        report.to_string(),
        "error: there are 10001 policies, more than 10000: merge some\n"
    );
}

#[test]
fn reports_are_bounded_and_keep_errors() {
    let many = "permit(principal,action,resource) when { 1 };".repeat(limits::FINDINGS_MAX + 50);
    let never = "permit(principal,action,resource) when { false };".repeat(limits::FINDINGS_MAX);
    let files = [file("a.cedar", &never), file("b.cedar", &many)];
    let report = check_files(&files, None).unwrap();
    assert_eq!(report.findings.len(), limits::FINDINGS_MAX);
    assert!(
        report
            .findings
            .iter()
            .all(|f| f.severity == Severity::Error)
    );
}

#[test]
fn the_hash_names_schema_names_and_texts() {
    let hash = |files: &[PolicyFile]| PolicySet::parse(files).unwrap().hash().to_owned();
    let (a, b) = (file("a.cedar", FINE), file("b.cedar", ""));
    let both = hash(&[a.clone(), b.clone()]);
    assert_eq!(hash(&[b.clone(), a.clone()]), both);
    let variants = [
        vec![],
        vec![a.clone()],
        vec![file("c.cedar", FINE), b.clone()],
        vec![file("a.cedar", &format!("{FINE} ")), b],
        vec![a, file("b.cedar", " ")],
    ];
    let mut hashes: BTreeSet<String> = variants.iter().map(|files| hash(files)).collect();
    hashes.insert(both);
    assert_eq!(hashes.len(), variants.len() + 1);
}

/// A finding is one line without terminal controls, for any content of the file.
#[test]
fn findings_are_one_clean_line() {
    for text in [
        "permit (principal, action, resource) when { \"\\u{1b}[31m\" };",
        "permit (\u{7}\u{202e}principal, action, resource);",
        "@id(\"x\")\n@id(\"x\") permit (principal, action, resource);",
        "permit (principal, action == Taskpass::Action::\"\\n\\u{1b}x\", resource);",
        "permit (principal, action, resource) when { principal.name like \"\u{2028}*\" && };",
    ] {
        let report = check_files(&[file("a.cedar", text)], None).unwrap();
        assert!(report.has_errors(), "{text:?}");
        for finding in &report.findings {
            let line = finding.to_string();
            assert!(!line.chars().any(taskpass_core::is_hidden), "{line:?}");
        }
    }
}
