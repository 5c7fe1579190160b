//! Dependencies point one way, between packages and between the parts of the broker.

mod words;

use std::process::Command;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use taskpass_tests::workspace;

use self::words::{without_prose, words};
use super::{files, none, read};

/// Each package with the packages of this workspace on which it may depend.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("taskpass-core", &[]),
    ("taskpass-files", &[]),
    ("taskpass-seal", &["taskpass-core", "taskpass-files"]),
    ("taskpass-proto", &[]),
    ("taskpass-config", &["taskpass-core"]),
    ("taskpass-spiffe-verify", &["taskpass-core"]),
    (
        "taskpass-ca",
        &[
            "taskpass-core",
            "taskpass-files",
            "taskpass-seal",
            "taskpass-spiffe-verify",
        ],
    ),
    ("taskpass-policy", &["taskpass-core"]),
    ("taskpass-ledger-verify", &["taskpass-core"]),
    (
        "taskpass-ledger",
        &[
            "taskpass-core",
            "taskpass-files",
            "taskpass-seal",
            "taskpass-ledger-verify",
        ],
    ),
    ("taskpass-provider", &["taskpass-core"]),
    ("taskpass-metrics", &["taskpass-core"]),
    (
        "taskpass-store",
        &["taskpass-core", "taskpass-files", "taskpass-ledger"],
    ),
    (
        "taskpass-engine",
        &[
            "taskpass-core",
            "taskpass-config",
            "taskpass-ca",
            "taskpass-policy",
            "taskpass-ledger",
            "taskpass-store",
            "taskpass-metrics",
            "taskpass-provider",
        ],
    ),
    (
        "taskpass-broker",
        &[
            "taskpass-core",
            "taskpass-files",
            "taskpass-proto",
            "taskpass-seal",
            "taskpass-ca",
            "taskpass-policy",
            "taskpass-ledger",
            "taskpass-store",
            "taskpass-config",
            "taskpass-metrics",
            "taskpass-engine",
            "taskpass-provider",
        ],
    ),
    (
        "taskpass-client",
        &[
            "taskpass-core",
            "taskpass-proto",
            "taskpass-spiffe-verify",
            "taskpass-ledger-verify",
            "taskpass-files",
        ],
    ),
    (
        "taskpass-cli",
        &[
            "taskpass-core",
            "taskpass-files",
            "taskpass-proto",
            "taskpass-files",
            "taskpass-policy",
            "taskpass-ledger",
            "taskpass-client",
        ],
    ),
    (
        "taskpass-client-testing",
        &[
            "taskpass-core",
            "taskpass-proto",
            "taskpass-ledger",
            "taskpass-client",
        ],
    ),
    (
        "taskpass-tests",
        &[
            "taskpass-core",
            "taskpass-proto",
            "taskpass-ca",
            "taskpass-policy",
            "taskpass-ledger",
            "taskpass-store",
            "taskpass-client",
        ],
    ),
    (
        "taskpass-fuzz",
        &[
            "taskpass-core",
            "taskpass-proto",
            "taskpass-ca",
            "taskpass-policy",
            "taskpass-ledger",
            "taskpass-store",
            "taskpass-provider",
            "taskpass-engine",
            "taskpass-broker",
            "taskpass-client",
        ],
    ),
];

/// The beginning of the names of providers, which are in no table: a new one is a folder, and only
/// the composition root names it.
const PROVIDER: &str = "taskpass-provider-";
/// The packages on which a provider may depend.
const PROVIDER_MAY_KNOW: &[&str] = &["taskpass-core", "taskpass-provider"];
/// The packages that may depend on providers.
const MAY_KNOW_PROVIDERS: [&str; 2] = ["taskpass-broker", "taskpass-fuzz"];

/// Packages that exist only for tests.
const FOR_TESTS: [&str; 3] = ["taskpass-client-testing", "taskpass-tests", "taskpass-fuzz"];

/// Crates, by the beginning of their names, that only these packages may use. The tests may use
/// everything.
const ONLY_KNOWN_BY: &[(&str, &[&str])] = &[
    ("cedar-policy", &["taskpass-policy"]),
    ("sled", &["taskpass-store"]),
    ("prometheus-client", &["taskpass-metrics"]),
    (
        "tonic",
        &[
            "taskpass-proto",
            "taskpass-broker",
            "taskpass-client",
            "taskpass-cli",
        ],
    ),
    (
        "prost",
        &[
            "taskpass-proto",
            "taskpass-broker",
            "taskpass-client",
            "taskpass-cli",
        ],
    ),
    ("hyper", &["taskpass-broker", "taskpass-client"]),
    ("tokio-rustls", &["taskpass-broker", "taskpass-client"]),
    ("rcgen", &["taskpass-ca", "taskpass-client"]),
    ("vaultrs", &["taskpass-provider-vault"]),
    ("rustify", &["taskpass-provider-vault"]),
    ("reqwest", &["taskpass-provider-vault"]),
    ("aws-", &["taskpass-provider-aws", "taskpass-client"]),
    ("clap", &["taskpass-broker", "taskpass-cli"]),
    ("anyhow", &["taskpass-broker", "taskpass-cli"]),
];

/// Cryptography other than ring is banned, also through a dependency.
const NO_CRYPTO_BUT_RING: [&str; 5] = [
    "aws-lc-rs",
    "aws-lc-sys",
    "openssl",
    "openssl-sys",
    "native-tls",
];

fn metadata() -> Metadata {
    let manifest = workspace().join("Cargo.toml");
    MetadataCommand::new()
        .manifest_path(manifest)
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("metadata")
}

/// The dependencies of a package itself. Its tests and build script may have more.
fn dependencies(package: &Package) -> impl Iterator<Item = &str> {
    package
        .dependencies
        .iter()
        .filter(|d| d.kind == DependencyKind::Normal)
        .map(|d| d.name.as_str())
}

#[test]
fn packages_know_only_packages_below_them() {
    let metadata = metadata();
    let mut complaints = Vec::new();
    let is_provider = |package: &&Package| package.name.starts_with(PROVIDER);
    assert_eq!(
        metadata.packages.len() - metadata.packages.iter().filter(is_provider).count(),
        MAY_KNOW.len(),
        "a package is not in the table, or one in it is gone"
    );
    for package in &metadata.packages {
        let name = package.name.as_str();
        let row = MAY_KNOW.iter().find(|(known, _)| *known == name);
        let allowed = match row {
            Some((_, allowed)) => allowed,
            None if name.starts_with(PROVIDER) => &PROVIDER_MAY_KNOW,
            None => panic!("`{name}` is not in the table"),
        };
        for dependency in dependencies(package) {
            let may_know = if dependency.starts_with(PROVIDER) {
                MAY_KNOW_PROVIDERS.contains(&name)
            } else {
                allowed.contains(&dependency)
            };
            if dependency.starts_with("taskpass-") && !may_know {
                complaints.push(format!("{name} must not know {dependency}"));
            }
            if FOR_TESTS.contains(&name) {
                continue;
            }
            for (prefix, only) in ONLY_KNOWN_BY {
                if dependency.starts_with(prefix) && !only.contains(&name) {
                    complaints.push(format!(
                        "{name} must not know {dependency}: only {only:?} may"
                    ));
                }
            }
        }
    }
    none(&complaints);
    let lock = read("Cargo.lock");
    for name in NO_CRYPTO_BUT_RING {
        assert!(
            !lock.contains(&format!("name = \"{name}\"\n")),
            "{name} is linked in; ring is the only crypto"
        );
    }
}

#[test]
fn every_dependency_has_its_reason_and_is_used() {
    let mut complaints = Vec::new();
    for manifest in files(".", "Cargo.toml") {
        let text = read(&manifest);
        let folder = manifest.strip_suffix("Cargo.toml").expect("the name");
        let sources: String = files(folder, ".rs").iter().map(|file| read(file)).collect();
        let (mut in_dependencies, mut has_reason) = (false, false);
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies =
                    line.ends_with("dependencies]") && line != "[workspace.dependencies]";
                has_reason = false;
            } else if line.is_empty() {
                has_reason = false;
            } else if line.starts_with('#') {
                has_reason = true;
            } else if in_dependencies {
                let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
                if !has_reason {
                    complaints.push(format!("{manifest}: no reason above `{name}`"));
                }
                // Dependencies of generated code do not occur in the sources.
                let generated =
                    folder == "proto/" && ["tonic-prost", "prost-types"].contains(&name);
                let path = if name == "rustls-webpki" {
                    "webpki".to_owned()
                } else {
                    name.replace('-', "_")
                };
                if !generated && !names(&sources, &path) {
                    complaints.push(format!("{manifest}: `{name}` is not used"));
                }
            }
        }
    }
    none(&complaints);
}

#[test]
fn every_dependency_of_the_workspace_is_some_members() {
    let root = read("Cargo.toml");
    let table: toml::Table = root.parse().expect("TOML");
    let members: String = files(".", "Cargo.toml")
        .iter()
        .filter(|f| *f != "Cargo.toml")
        .map(|f| read(f))
        .collect();
    let declared = table["workspace"]["dependencies"]
        .as_table()
        .expect("a table");
    let unused: Vec<String> = declared
        .keys()
        .filter(|name| {
            !members.contains(&format!("\n{name}.workspace"))
                && !members.contains(&format!("\n{name} = {{ workspace"))
        })
        .map(|name| format!("`{name}` is declared in Cargo.toml and no package uses it"))
        .collect();
    none(&unused);
}

/// Parts of the broker with the crates that they must not name.
const MUST_NOT_NAME: &[(&str, &[&str])] = &[
    ("broker/server/src/config", WIRE),
    (
        "broker/server/src/authn",
        &["tonic", "prost", "prost_types", "taskpass_proto", "hyper"],
    ),
    (
        "broker/server/src/transport",
        &[
            "prost",
            "prost_types",
            "taskpass_proto",
            "taskpass_store",
            "taskpass_provider",
        ],
    ),
    ("broker/server/src/api", &["rustls", "hyper"]),
    ("broker/engine/src", &["LogStore"]),
];
const WIRE: &[&str] = &[
    "tonic",
    "tonic_types",
    "prost",
    "prost_types",
    "taskpass_proto",
    "rustls",
    "tokio_rustls",
    "hyper",
    "hyper_util",
    "tower",
    "http",
];

#[test]
fn parts_of_the_broker_name_nothing_above_or_beside_them() {
    let mut complaints = Vec::new();
    for (part, crates) in MUST_NOT_NAME {
        let sources: Vec<String> = files("broker", ".rs")
            .into_iter()
            .filter(|f| f.starts_with(&format!("{part}/")) || *f == format!("{part}.rs"))
            .collect();
        assert!(!sources.is_empty(), "there is no {part}");
        for file in sources {
            let code = code(&file);
            for name in crates.iter().filter(|name| names(&code, name)) {
                complaints.push(format!("{file} must not name `{name}`"));
            }
        }
    }
    none(&complaints);
}

/// Files outside of `providers/` that may name a provider, with the reason.
const MAY_NAME_A_PROVIDER: [(&str, &str); 3] = [
    ("broker/server/src/app.rs", "the list of providers"),
    (
        "agent-client/lib/src/aws.rs",
        "gives credentials of any provider to the AWS SDKs",
    ),
    ("agent-client/lib/src/lib.rs", "exports that"),
];

/// A new provider must need no change of the broker or the client. Therefore none of their code
/// names one: no crate, no type, no word in a text that code compares. Comments and prose, such as
/// the examples in a help text, may.
#[test]
fn a_provider_is_named_in_the_composition_root_only() {
    let mut complaints = Vec::new();
    let mut kinds = Vec::new();
    for manifest in files("providers", "Cargo.toml") {
        let folder = manifest
            .trim_start_matches("providers/")
            .trim_end_matches("/Cargo.toml");
        if folder != "api" {
            kinds.push(folder.to_owned());
        }
    }
    assert!(kinds.len() >= 3, "{kinds:?}");
    let mut sources = files("broker", ".rs");
    sources.extend(files("agent-client", ".rs"));
    for file in sources {
        let code = without_prose(&code(&file));
        if MAY_NAME_A_PROVIDER.iter().any(|(may, _)| *may == file) {
            continue;
        }
        let words = words(&code);
        for kind in &kinds {
            // The word `template` means other things, too.
            let is_named = kind != "template" && words.contains(kind);
            if is_named || code.contains(&format!("taskpass_provider_{kind}")) {
                complaints.push(format!("{file} must not name the provider `{kind}`"));
            }
        }
    }
    let starter = read("broker/server/src/init/taskpass.toml");
    complaints.extend(
        kinds
            .iter()
            .filter(|kind| starter.contains(&format!("kind = \"{kind}\"")))
            .map(|kind| format!("init/taskpass.toml must not name the provider `{kind}`")),
    );
    none(&complaints);
}

/// The engine decides, so it must be possible to read, build and simulate it without any protocol.
/// Cargo lists all crates that it is built with, also through its dependencies.
#[test]
fn the_engine_is_built_without_the_wire() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--all-features",
            "--prefix=none",
        ])
        .args([
            "--package=taskpass-engine",
            "--edges=normal,build",
            "--format={lib}",
        ])
        .current_dir(workspace())
        .output()
        .expect("cargo tree");
    assert!(tree.status.success(), "{tree:?}");
    let tree = String::from_utf8(tree.stdout).expect("text");
    assert!(tree.lines().any(|name| name == "taskpass_policy"), "{tree}");
    let wire = tree.lines().filter(|name| WIRE.contains(name));
    none(
        &wire
            .map(|name| format!("taskpass-engine must not be built with {name}"))
            .collect::<Vec<_>>(),
    );
}

/// The machine's clock and randomness enter where the programs start, and in no other place.
#[test]
fn time_and_randomness_come_in_at_the_composition_roots() {
    const MAY: [&str; 5] = [
        "broker/core/src/clock.rs",
        "broker/core/src/entropy.rs",
        "broker/server/src/main.rs",
        "agent-client/lib/src/config.rs",
        "agent-client/cli/src/ledger/tiles.rs",
    ];
    const SOURCES: [&str; 6] = [
        "SystemClock::new",
        "SystemEntropy::new",
        "SystemTime::now",
        "std::time::Instant",
        "SystemRandom::new",
        "OffsetDateTime::now_utc",
    ];
    let mut complaints = Vec::new();
    for folder in ["broker", "providers", "agent-client", "proto"] {
        for file in files(folder, ".rs") {
            if MAY.contains(&file.as_str()) || is_test(&file) {
                continue;
            }
            let code = code(&file);
            for source in SOURCES.iter().filter(|source| code.contains(**source)) {
                complaints.push(format!(
                    "{file} uses `{source}`; take a `Clock` or an `Entropy`"
                ));
            }
        }
    }
    none(&complaints);
}

fn is_test(file: &str) -> bool {
    file.contains("/tests/")
        || file.ends_with("/tests.rs")
        || file.contains("/examples/")
        || file.ends_with("/testing.rs")
        || file.starts_with("broker/engine/src/simulation")
        || file.ends_with("/differential.rs")
        || file.starts_with("agent-client/testing/")
}

/// A source file without comments and without its tests.
fn code(file: &str) -> String {
    let text = read(file);
    let text = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    let mut code = String::new();
    if !is_test(file) {
        lines.for_each(|line| code += &format!("{line}\n"));
    }
    code
}

/// Whether code names a crate or type: the word, followed by a path or alone in a `use`.
fn names(code: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + word.len()..];
        let is_word = !before.is_some_and(|c| part_of_word(c) || c == '.')
            && !after.starts_with(part_of_word);
        let used = after.starts_with("::")
            || after.starts_with(';')
            || after.starts_with(" as ")
            || code[..at].ends_with("use ");
        is_word && (used || word.starts_with(char::is_uppercase))
    })
}

#[test]
fn the_word_search_finds_words() {
    assert!(
        names("use http;", "http")
            && names("let x = http::Request;", "http")
            && names("use tonic::Code;", "tonic")
    );
    assert!(
        !names("my_http::x", "http")
            && !names("https://", "http")
            && !names("a.http::b", "http")
            && !names("// x", "http")
    );
}
