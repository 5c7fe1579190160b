use std::sync::Arc;

use taskpass_core::{ManualClock, Timestamp};

use super::*;
use crate::provider_kinds;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Path::new("/t/taskpass.toml"), text, &provider_kinds())
}

fn complaints(text: &str) -> Vec<String> {
    match parse(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) => problems
            .iter()
            .map(|p| p.to_string().replace("/t/taskpass.toml:", ""))
            .collect(),
        Err(other) => panic!("{other}"),
    }
}

const TD: &str = "trust_domain = \"acme.test\"\n";
const VAULT: &str = "trust_domain = \"acme.test\"
[[provider]]
name = \"v\"
kind = \"vault\"
address = \"http://127.0.0.1:8200\"
token_file = \"token\"
";
const AWS: &str = "trust_domain = \"acme.test\"
[[provider]]
name = \"a\"
kind = \"aws\"
region = \"eu-central-1\"
credentials = { source = \"instance\" }
";

/// Complaints go into logs: the content of the file must not make lines of its own there, nor bury
/// the complaints.
#[test]
fn hostile_files_get_short_complaints() {
    let newline = complaints("\"a\\n2026 ERROR all is lost\" = 1");
    assert!(newline.iter().all(|one| !one.contains('\n')), "{newline:?}");
    let long = complaints(&format!("{TD}[log]\nformat = \"{}\"", "x".repeat(5000)));
    assert!(long.iter().all(|one| one.chars().count() < 500), "{long:?}");
    let keys: String = (0..1000).map(|n| format!("key{n} = 1\n")).collect();
    let many = complaints(&keys);
    assert_eq!(many.len(), 200);
    assert!(
        many[199].starts_with("200:1: unknown key `key199`"),
        "{}",
        many[199]
    );
}

/// A beginning from above, the text behind it, and the complaints, a line each.
const TABLE: &[(&str, &str, &str)] = &[
    // The document.
    (
        "",
        "",
        "1:1: missing key `trust_domain`: give the name of a trust domain in quotes, like \"acme.test\"",
    ),
    (
        "",
        "trust_domain = ",
        "1:16: this is not TOML: string values must be quoted, expected literal string",
    ),
    (
        TD,
        "trust_domain = \"b.test\"",
        "2:1: this is not TOML: duplicate key",
    ),
    (
        TD,
        "[limits]\n[limits]",
        "3:2: this is not TOML: duplicate key",
    ),
    (
        "",
        "trust_domain = 5",
        "1:16: `trust_domain` takes the name of a trust domain in quotes, like \"acme.test\", not an integer",
    ),
    (
        TD,
        "data_dir = \"\"",
        "2:12: `data_dir` is empty or has a zero byte: write a path",
    ),
    (
        TD,
        "data_dir = true",
        "2:12: `data_dir` takes a path in quotes, not a boolean",
    ),
    // Unknown keys and tables.
    (
        TD,
        "datadir = \"d\"",
        "2:1: unknown key `datadir` at the top level; did you mean `data_dir`?",
    ),
    (
        TD,
        "[limit]",
        "2:2: unknown key `limit` at the top level; did you mean `limits`?",
    ),
    (
        TD,
        "[providers]",
        "2:2: unknown key `providers` at the top level; did you mean `provider`?",
    ),
    (
        TD,
        "svid_ttl = \"1h\"",
        "2:1: unknown key `svid_ttl` at the top level; did you mean `svid_ttl` in [identity]?",
    ),
    (
        TD,
        "[limits]\nconections = 5",
        "3:1: unknown key `conections` in [limits]; did you mean `connections`?",
    ),
    (
        TD,
        "[listen]\ngrcp = \"\"",
        "3:1: unknown key `grcp` in [listen]; did you mean `grpc`?",
    ),
    (
        TD,
        "[listen]\nport = 5",
        "3:1: unknown key `port` in [listen]; known keys are `grpc`, `reflection` and `metrics`",
    ),
    (
        TD,
        "[tasks]\nca_ttl = \"2d\"",
        "3:1: unknown key `ca_ttl` in [tasks]; did you mean `ca_ttl` in [identity]?",
    ),
    (
        TD,
        "[policy]\ndata_dir = \"x\"",
        "3:1: unknown key `data_dir` in [policy]; did you mean `data_dir` at the top level?",
    ),
    (
        TD,
        "[log]\nLevel = \"info\"",
        "3:1: unknown key `Level` in [log]; did you mean `level`?",
    ),
    // Types of tables.
    (
        TD,
        "limits = 5",
        "2:10: `limits` is a table, not an integer: write [limits]",
    ),
    (
        TD,
        "[[limits]]",
        "2:1: `limits` is a table, not an array: write [limits]",
    ),
    (
        TD,
        "[provider]",
        "2:1: `provider` is a list of tables: write [[provider]], with two brackets",
    ),
    (
        TD,
        "provider = \"vault\"",
        "2:12: `provider` is a list of tables, not a string: write [[provider]]",
    ),
    (
        TD,
        "provider = [5]",
        "2:13: an entry of [[provider]] is a table, not an integer",
    ),
    // Types and ranges of values.
    (
        TD,
        "[listen]\ngrpc = 7443",
        "3:8: `grpc` in [listen] takes an address with port in quotes, like \"127.0.0.1:7443\", not an integer",
    ),
    (
        TD,
        "[listen]\ngrpc = \"localhost:7443\"",
        "3:8: `grpc` in [listen] is `localhost:7443`: write an IP address and a port, like 127.0.0.1:7443 or [::]:7443",
    ),
    (
        TD,
        "[listen]\nreflection = \"yes\"",
        "3:14: `reflection` in [listen] takes true or false, not a string",
    ),
    (
        TD,
        "[limits]\nconnections = 0",
        "3:15: `connections` in [limits] is 0: it must be from 1 to 1000000",
    ),
    (
        TD,
        "[limits]\nconnections = -1",
        "3:15: `connections` in [limits] is -1: it must be from 1 to 1000000",
    ),
    (
        TD,
        "[limits]\nconnections = 1.5",
        "3:15: `connections` in [limits] takes a whole number, not a float",
    ),
    (
        TD,
        "[limits]\nconnections = \"5\"",
        "3:15: `connections` in [limits] takes a whole number, not a string",
    ),
    (
        TD,
        "[limits]\nhandshake_timeout = 5",
        "3:21: `handshake_timeout` in [limits] takes a duration in quotes, like \"500ms\" or \"15s\", not an integer",
    ),
    (
        TD,
        "[limits]\nhandshake_timeout = \"5\"",
        "3:21: `handshake_timeout` in [limits] is `5`: write a duration like 500ms, 15s or 2m",
    ),
    (
        TD,
        "[limits]\nhandshake_timeout = \"1ms\"",
        "3:21: `handshake_timeout` in [limits] is `1ms`: it must be from \"100ms\" to \"1m\"",
    ),
    (
        TD,
        "[limits]\nrequest_bytes = 100",
        "3:17: `request_bytes` in [limits] is 100: it must be from 16384 to 4194304",
    ),
    (
        TD,
        "[identity]\nsvid_ttl = \"8 hours\"",
        "3:12: `svid_ttl` in [identity] is wrong: `8 hours` is not a lifetime like 90s, 15m, 8h or 1h30m",
    ),
    (
        TD,
        "[identity]\nsvid_ttl = \"30s\"",
        "3:12: `svid_ttl` in [identity] is `30s`: it must be from \"1m\" to \"7d\"",
    ),
    (
        TD,
        "[identity]\nnode = \"Node 1\"",
        "3:8: `node` in [identity] is wrong: `Node 1` is not an agent name: use 1 to 63 of a-z, 0-9 and inner `-`",
    ),
    (
        TD,
        "[log]\nformat = \"xml\"",
        "3:10: `format` in [log] is `xml`: write \"text\" or \"json\"",
    ),
    (
        TD,
        "[log]\nlevel = \"loud\"",
        "3:9: `level` in [log] is wrong: `loud` is not a log level: use error, warn, info, debug or trace, or module=level",
    ),
    // Keys that must fit together.
    (
        TD,
        "[identity]\nca_ttl = \"1h\"",
        "3:10: the lifetimes in [identity] do not fit: svid_ttl `1h` is more than a sixth of ca_ttl `1h`; use at most 600s, or a longer ca_ttl",
    ),
    (
        TD,
        "[tasks]\nttl_default = \"9h\"",
        "3:15: `ttl_default` in [tasks] is \"9h\", more than `ttl_max`, \"8h\"",
    ),
    (
        TD,
        "[credentials]\nrevoke_wait_max = \"1s\"",
        "3:19: `revoke_wait_default` in [credentials] is \"10s\", more than `revoke_wait_max`, \"1s\"",
    ),
    // Providers.
    (
        TD,
        "[[provider]]\nname = \"v\"",
        "2:1: missing key `kind` in [[provider]]: give \"vault\" or \"aws\"",
    ),
    (
        TD,
        "[[provider]]\nname = \"v\"\nkind = \"volt\"",
        "4:8: `kind` in [[provider]] is `volt`: write \"vault\" or \"aws\"",
    ),
    (
        TD,
        "[[provider]]\nname = \"v\"\nkind = \"valt\"",
        "4:8: `kind` in [[provider]] is `valt`; did you mean `vault`?",
    ),
    (
        VAULT,
        "adress = \"x\"",
        "7:1: unknown key `adress` in [[provider]]; did you mean `address`?",
    ),
    (
        VAULT,
        "[[provider.roles]]",
        "7:12: unknown key `roles` in [[provider]]; did you mean `role`?",
    ),
    (
        VAULT,
        "[provider.approle]\nrole_id = \"r\"",
        "7:1: missing key `secret_id_file` in [provider.approle]: give a path in quotes",
    ),
    (
        VAULT,
        "timeout = 5",
        "7:11: `timeout` in [[provider]] takes a lifetime in quotes, like \"15m\", not an integer",
    ),
    (
        VAULT,
        "[[provider]]\nname = \"v\"\nkind = \"vault\"\naddress = \"http://127.0.0.1:1\"\ntoken_file = \"t\"",
        "8:8: the provider `v` is there already, in line 2",
    ),
    // Roles.
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"",
        "7:1: missing key `policies` in [[provider.role]]: give a list of strings",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"tokn\"\npolicies = []",
        "9:8: `type` in [[provider.role]] is `tokn`; did you mean `token`?",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nmaxttl = \"5m\"",
        "11:1: unknown key `maxttl` in [[provider.role]]; did you mean `max_ttl`?",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nimpact = 4",
        "11:10: `impact` in [[provider.role]] is wrong: `4` is not an impact: 0 read, 1 reversible write, 2 irreversible or visible outside, 3 administration",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nmax_ttl = \"x\"",
        "11:11: `max_ttl` in [[provider.role]] is wrong: `x` is not a lifetime like 90s, 15m, 8h or 1h30m",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"kv\"\npolicies = [\"p\"]\nenv = { x = \"LD_PRELOAD\" }",
        "11:13: `x` in [provider.role.env] is wrong: no credential may set the environment variable `LD_PRELOAD`, which chooses the libraries that a program loads; name another one",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nparams = { x = { patern = \"a\" } }",
        "11:18: unknown key `patern` in [provider.role.params.x]; did you mean `pattern`?",
    ),
    (
        AWS,
        "[provider.revoker]\ncredentials = { source = \"instance\" }\npolicy = \"x\"",
        "9:1: unknown key `policy` in [provider.revoker]; known keys are `credentials`, `policy_name`, `policy_characters_max`, `agent_share` and `proof_timeout`",
    ),
    (
        AWS,
        "[[provider.role]]\nname = \"r\"\nrole_arn = \"a\"\nsession_policy = \"p\"\nmax_ttl = \"15m\"",
        "7:1: missing key `impact` in [[provider.role]]: give a number from 0 to 3",
    ),
    (
        AWS,
        "[[provider.role]]\nname = \"r\"\nrole_arn = \"a\"\nsession_policy = 5\nmax_ttl = \"15m\"\nimpact = 0",
        "10:18: `session_policy` in [[provider.role]] takes a path in quotes, not an integer",
    ),
];

#[test]
fn every_mistake_is_explained_with_its_place() {
    let mut wrong = Vec::new();
    for (before, text, expected) in TABLE {
        let found = complaints(&format!("{before}{text}"));
        if found.join("\n") != *expected {
            wrong.push(format!(
                "{text}\n  expected {expected}\n  found    {}",
                found.join("\n           ")
            ));
        }
    }
    assert!(TABLE.len() >= 40);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn one_reading_finds_every_mistake_in_the_order_of_the_file() {
    let text = "data_dir = 1\n[limits]\nfoo = 1\nconnections = 0\n[[provider]]\nkind = \"aws\"\nregoin = \"x\"\n";
    assert_eq!(
        complaints(text),
        [
            "1:1: missing key `trust_domain`: give the name of a trust domain in quotes, like \"acme.test\"",
            "1:12: `data_dir` takes a path in quotes, not an integer",
            "3:1: unknown key `foo` in [limits]; `taskpassd config reference` lists the keys",
            "4:15: `connections` in [limits] is 0: it must be from 1 to 1000000",
            "5:1: missing key `credentials` in [[provider]]: give a table",
            "5:1: missing key `name` in [[provider]]: give a short name in quotes, like \"vault-main\"",
            "5:1: missing key `region` in [[provider]]: give a string",
            "7:1: unknown key `regoin` in [[provider]]; did you mean `region`?",
        ]
    );
    let error = Config::parse(Path::new("taskpass.toml"), text, &provider_kinds())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("taskpass.toml:1:1: missing key `trust_domain`"),
        "{error}"
    );
    assert!(
        error.ends_with("(and 7 more: run `taskpassd config check`)"),
        "{error}"
    );
}

#[test]
fn an_almost_empty_file_has_the_defaults() {
    let config = Config::parse(Path::new("/etc/t/taskpass.toml"), TD, &[]).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/t/data"));
    assert_eq!(config.policy.dir, Path::new("/etc/t/policy"));
    assert_eq!(config.listen, Listen::default());
    assert_eq!(config.identity.node.as_str(), "broker");
    assert_eq!(config.config_sha256(), sha256_hex(TD.as_bytes()));
    assert_eq!(config.engine, Settings::default());
    assert_eq!(config.limits, transport::Limits::default());
    assert_eq!(config.ca().unwrap(), taskpass_ca::Config::default());
}

#[test]
fn paths_begin_at_the_directory_of_the_file() {
    let text = format!(
        "{AWS}\n[[provider.role]]\nname = \"r\"\nrole_arn = \"arn:aws:iam::123456789012:role/r\"\nsession_policy = \"p/x.json\"\nmax_ttl = \"15m\"\nimpact = 0\n"
    );
    let config = parse(&text).unwrap();
    let [provider] = config.providers.as_slice() else {
        panic!()
    };
    assert_eq!(provider.roles, ["a/r".parse().unwrap()]);
    let clock = ManualClock::new(Timestamp::EPOCH);
    let unreadable = provider.build(Arc::new(clock)).unwrap_err().to_string();
    assert!(unreadable.contains("`/t/p/x.json`"), "{unreadable}");
    for (file, expected) in [("token", "/t/token"), ("/run/token", "/run/token")] {
        let text = VAULT.replace("\"token\"", &format!("{file:?}"));
        let config = parse(&text).unwrap();
        assert_eq!(config.providers[0].secret_files(), [Path::new(expected)]);
    }
}

/// The files with secrets are found by the schemas, in every place where a provider can name one.
#[test]
fn files_with_secrets_are_found_without_knowing_the_provider() {
    let files = |text: &str| {
        let config = parse(text).unwrap();
        let files = config.providers[0].secret_files();
        files
            .iter()
            .map(|file| file.display().to_string())
            .collect::<Vec<_>>()
    };
    let approle = "[provider.approle]\nrole_id = \"r\"\nsecret_id_file = \"s\"";
    let vault = VAULT.replace("token_file = \"token\"", approle);
    assert_eq!(files(&vault), ["/t/s"]);
    assert!(files(AWS).is_empty());
    let aws = AWS.replace("source = \"instance\"", "source = \"file\", path = \"a\"");
    let revoker = "[provider.revoker]\ncredentials = { source = \"web_identity\", role_arn = \"r\", token_file = \"b\" }";
    assert_eq!(files(&format!("{aws}{revoker}")), ["/t/a", "/t/b"]);
}

/// A reload keeps a provider that is the same, and takes another one over.
#[test]
fn a_provider_is_known_by_its_table_and_the_files_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taskpass.toml");
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let fingerprint = |text: &str| {
        let config = Config::parse(&path, text, &provider_kinds()).unwrap();
        config.providers[0].fingerprint()
    };
    let text = format!("{VAULT}ca_file = \"ca.pem\"\n").replace("http://", "https://");
    put("ca.pem", "one");
    put("token", "one");
    let before = fingerprint(&text);
    let moved = text.replace("token_file = \"token\"\n", "") + "token_file = \"token\"";
    assert_eq!(fingerprint(&moved), before);
    let elsewhere = text.replace("[[provider]]", "[tasks]\nttl_max = \"4h\"\n[[provider]]");
    assert_eq!(fingerprint(&elsewhere), before);
    put("token", "two");
    assert_eq!(fingerprint(&text), before);
    assert_ne!(fingerprint(&text.replace("8200", "8201")), before);
    put("ca.pem", "two");
    assert_ne!(fingerprint(&text), before);
}

/// A misspelt key must not hide other mistakes in the same table.
#[test]
fn a_misspelt_key_hides_no_other_mistake() {
    let role = "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nmaxttl = \"5m\"\nimpact = 5\n";
    assert_eq!(
        complaints(&format!("{VAULT}adress = \"x\"\ntimeout = \"x\"\n{role}")),
        [
            "7:1: unknown key `adress` in [[provider]]; did you mean `address`?",
            "8:11: `timeout` in [[provider]] is wrong: `x` is not a lifetime like 90s, 15m, 8h or 1h30m",
            "13:1: unknown key `maxttl` in [[provider.role]]; did you mean `max_ttl`?",
            "14:10: `impact` in [[provider.role]] is wrong: `5` is not an impact: 0 read, 1 reversible write, 2 irreversible or visible outside, 3 administration",
        ]
    );
}

/// Mistakes that only the provider's package can find have a place in the file, too, and all of
/// them are reported.
#[test]
fn mistakes_beyond_the_schema_have_their_places() {
    let roles = "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npath = \"x\"\npolicies = [\"p\"]\n\
        [[provider.role]]\nname = \"b\"\ntype = \"dynamic\"\npolicies = []\n";
    let text = VAULT.replace("http://127.0.0.1:8200", "ftp://x") + roles;
    assert_eq!(
        complaints(&text),
        [
            "5:11: provider `v`: `address` must begin with https:// or http://",
            "7:1: role `a` of provider `v`: a role of type `token` has no `path`",
            "12:1: role `b` of provider `v`: `policies` is empty; name the Vault policies that its credentials need",
        ]
    );
    assert_eq!(
        complaints(&AWS.replace("eu-central-1", "EU")),
        ["5:10: `EU` is not a region, like eu-central-1"]
    );
}

/// People copy `deploy/examples/taskpass.toml`.
#[test]
fn the_example_is_right() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/examples/taskpass.toml"
    ));
    let config = Config::load(path, &provider_kinds()).unwrap();
    assert_eq!(config.providers.len(), 2);
    assert_eq!(
        config
            .providers
            .iter()
            .map(|p| p.roles.len())
            .sum::<usize>(),
        5
    );
}
