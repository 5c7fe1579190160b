use super::*;

fn complaints(text: &str) -> Vec<String> {
    match Config::parse(Path::new("/t/taskpass.toml"), text) {
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

/// Complaints go into logs: what stands in the file must not become lines of its own there, nor bury them.
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

/// What is written behind one of the beginnings above, and the complaints, a line each.
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
        "3:1: unknown key `port` in [listen]; known keys are `grpc` and `reflection`",
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
        "3:15: `connections` in [limits] is `-1`: it must be from 0 to 18446744073709551615",
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
    // What must fit together.
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
        "4:8: `kind` in [[provider]] is `volt`: known kinds are `vault` and `aws`",
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
        "7:11: `timeout` in [[provider]] is wrong: invalid type: integer `5`, expected a string",
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
        "9:8: `role.type` in [[provider]] is wrong: unknown variant `tokn`, expected one of `dynamic`, `token`, `kv`",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nmaxttl = \"5m\"",
        "11:1: unknown key `maxttl` in [[provider.role]]; did you mean `max_ttl`?",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nimpact = 4",
        "11:10: `role.impact` in [[provider]] is wrong: `4` is not an impact: 0 read, 1 reversible write, 2 irreversible or visible outside, 3 administration",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nmax_ttl = \"x\"",
        "11:11: `role.max_ttl` in [[provider]] is wrong: `x` is not a lifetime like 90s, 15m, 8h or 1h30m",
    ),
    (
        VAULT,
        "[[provider.role]]\nname = \"a\"\ntype = \"token\"\npolicies = [\"p\"]\nparams = { x = { patern = \"a\" } }",
        "11:18: unknown key `patern` in [provider.role.params.x]; did you mean `pattern`?",
    ),
    (
        AWS,
        "[provider.revoker]\ncredentials = { source = \"instance\" }\npolicy = \"x\"",
        "9:1: unknown key `policy` in [provider.revoker]; known keys are `credentials`, `policy_name`, `policy_characters_max` and `proof_timeout`",
    ),
    (
        AWS,
        "[[provider.role]]\nname = \"r\"\nrole_arn = \"a\"\nsession_policy = \"p\"\nmax_ttl = \"15m\"",
        "7:1: missing key `impact` in [[provider.role]]: give a number from 0 to 3",
    ),
    (
        AWS,
        "[[provider.role]]\nname = \"r\"\nrole_arn = \"a\"\nsession_policy = 5\nmax_ttl = \"15m\"\nimpact = 0",
        "10:18: `role.session_policy` in [[provider]] is wrong: invalid type: integer `5`, expected path string",
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
    let error = Config::parse(Path::new("taskpass.toml"), text)
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
    let config = Config::parse(Path::new("/etc/t/taskpass.toml"), TD).unwrap();
    assert_eq!(config.data_dir, Path::new("/etc/t/data"));
    assert_eq!(config.policy.dir, Path::new("/etc/t/policy"));
    assert_eq!(config.listen, Listen::default());
    assert_eq!(config.identity.node.as_str(), "broker");
    assert_eq!(config.config_sha256(), sha256_hex(TD.as_bytes()));
    let expected = taskpass_engine::Settings::default();
    assert_eq!(format!("{:?}", config.settings()), format!("{expected:?}"));
    assert_eq!(
        config.transport_limits(),
        crate::transport::Limits::default()
    );
    assert_eq!(config.ca().unwrap(), taskpass_ca::Config::default());
}

#[test]
fn paths_begin_at_the_directory_of_the_file() {
    let text = format!(
        "{AWS}\n[[provider.role]]\nname = \"r\"\nrole_arn = \"a\"\nsession_policy = \"p/x.json\"\nmax_ttl = \"15m\"\nimpact = 0\n"
    );
    let config = Config::parse(Path::new("/t/taskpass.toml"), &text).unwrap();
    let [provider] = config.providers.as_slice() else {
        panic!()
    };
    assert_eq!(provider.roles, ["a/r".parse().unwrap()]);
    let ProviderKind::Aws(aws) = &provider.kind else {
        panic!()
    };
    assert_eq!(aws.roles[0].session_policy, Path::new("/t/p/x.json"));
    let absolute = VAULT.replace("\"token\"", "\"/run/token\"");
    let config = Config::parse(Path::new("/t/taskpass.toml"), &absolute).unwrap();
    let ProviderKind::Vault(vault) = &config.providers[0].kind else {
        panic!()
    };
    assert_eq!(vault.token_file.as_deref(), Some(Path::new("/run/token")));
}

/// `deploy/examples/taskpass.toml` is what people copy.
#[test]
fn the_example_is_right() {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/examples/taskpass.toml"
    ));
    let config = Config::load(path).unwrap();
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

/// The tables of keys say what the providers' packages read: no key more, no key less, and the same ones required.
mod provider_tables {
    use std::collections::BTreeSet;

    use serde::de::DeserializeOwned;
    use taskpass_provider_aws as aws;
    use taskpass_provider_vault as vault;

    use super::super::{
        aws_keys,
        provider_keys::{PARAM, Presence, ProviderKey, Shape},
        vault_keys,
    };

    /// The words in backticks behind `expected`, which serde's message has.
    fn known<T: DeserializeOwned>() -> BTreeSet<String> {
        let Err(error) = toml::from_str::<T>("no_such_key = 1") else {
            panic!("a key was not refused")
        };
        let (_, expected) = error.message().split_once("expected ").unwrap();
        expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    }

    fn compare<T: DeserializeOwned>(keys: &[ProviderKey], sample: &str) {
        let listed: BTreeSet<String> = keys.iter().map(|key| key.name.to_owned()).collect();
        assert_eq!(listed, known::<T>());
        let sample: toml::Table = sample.parse().unwrap();
        assert!(
            T::deserialize(sample.clone()).is_ok(),
            "{:?}",
            T::deserialize(sample).err()
        );
        for key in keys {
            let mut without = sample.clone();
            let is_in_sample = without.remove(key.name).is_some();
            let required = T::deserialize(without).is_err();
            assert!(is_in_sample || !required);
            assert_eq!(required, key.presence == Presence::Required, "{}", key.name);
        }
    }

    fn below(keys: &'static [ProviderKey], name: &str) -> &'static [ProviderKey] {
        match keys.iter().find(|key| key.name == name).unwrap().shape {
            Shape::Table(keys) | Shape::Tables(keys) | Shape::Named(keys) => keys,
            Shape::Plain(_) | Shape::Path => panic!("{name}"),
        }
    }

    #[test]
    fn vault_keys_are_complete() {
        let top = vault_keys::PROVIDER;
        compare::<vault::VaultConfig>(top, "name='v'\nkind='vault'\naddress='x'\ntoken_file='t'");
        compare::<vault::AppRoleConfig>(below(top, "approle"), "role_id='r'\nsecret_id_file='f'");
        compare::<vault::RoleConfig>(below(top, "role"), "name='r'\ntype='token'\npolicies=['p']");
    }

    #[test]
    fn aws_keys_are_complete() {
        let top = aws_keys::PROVIDER;
        let credentials = "credentials={source='instance'}";
        compare::<aws::AwsConfig>(
            top,
            &format!("name='a'\nkind='aws'\nregion='r'\n{credentials}"),
        );
        compare::<aws::RevokerConfig>(below(top, "revoker"), credentials);
        let role = "name='r'\nrole_arn='a'\nsession_policy='p'\nmax_ttl='15m'\nimpact=0";
        compare::<aws::RoleConfig>(below(top, "role"), role);
        // Tagged: each source has keys of its own, and the table is all of them together.
        for sample in [
            "source='file'\npath='p'\nprofile='x'",
            "source='web_identity'\nrole_arn='r'\ntoken_file='f'",
        ] {
            assert!(toml::from_str::<aws::CredentialsConfig>(sample).is_ok());
            let sample: toml::Table = sample.parse().unwrap();
            let listed = below(top, "credentials");
            assert!(
                sample
                    .keys()
                    .all(|key| listed.iter().any(|known| known.name == key))
            );
        }
    }

    #[test]
    fn param_keys_are_complete() {
        compare::<taskpass_provider::config::ParamConfig>(PARAM, "max=5");
    }
}
