use taskpass_core::EnvName;

use super::*;
use crate::role::Role;

const HEAD: &str = "name = \"v\"\nkind = \"vault\"\naddress = \"http://127.0.0.1:8200\"\n";

fn with(rest: &str) -> Result<(), String> {
    let text = format!("{HEAD}token_file = \"t\"\n{rest}");
    let config: VaultConfig = toml::from_str(&text).map_err(|e| e.to_string())?;
    config.validate().map_err(|e| e.to_string())
}

fn role(rest: &str) -> Result<(), String> {
    with(&format!(
        "[[role]]\nname = \"r\"\npolicies = [\"p\"]\n{rest}"
    ))
}

#[test]
fn addresses_are_refused_unless_they_keep_secrets() {
    let address = |address: &str, rest: &str| {
        let text = format!(
            "name = \"v\"\nkind = \"vault\"\naddress = \"{address}\"\ntoken_file = \"t\"\n{rest}"
        );
        toml::from_str::<VaultConfig>(&text).unwrap().validate()
    };
    for good in [
        "https://vault:8200",
        "http://127.0.0.1:1",
        "http://[::1]:1",
        "http://localhost",
        "https://x/prefix/",
    ] {
        assert!(address(good, "").is_ok(), "{good}");
    }
    for bad in [
        "vault:8200",
        "ftp://x",
        "http://vault:8200",
        "https://u:p@x",
        "https://x?y",
        "https://x#y",
        "",
    ] {
        assert!(address(bad, "").is_err(), "{bad}");
    }
    assert!(address("http://vault:8200", "allow_plaintext = true").is_ok());
}

#[test]
fn the_broker_has_exactly_one_way_in() {
    let parse = |rest: &str| {
        toml::from_str::<VaultConfig>(&format!("{HEAD}{rest}"))
            .unwrap()
            .validate()
    };
    let approle = "[approle]\nrole_id = \"r\"\nsecret_id_file = \"s\"\n";
    assert!(parse("token_file = \"t\"").is_ok() && parse(approle).is_ok());
    assert!(parse("").is_err());
    assert!(parse(&format!("token_file = \"t\"\n{approle}")).is_err());
    assert!(parse(&format!("{approle}mount = \"../sys\"")).is_err());
    assert!(parse("token_file = \"t\"\nnamespace = \"a\\nb\"").is_err());
}

#[test]
fn roles_table() {
    for good in [
        "type = \"dynamic\"\npath = \"database/creds/ci\"",
        "type = \"dynamic\"\npath = \"database/creds/${db}\"\nparams = { db = { one_of = [\"a\"] } }",
        "type = \"dynamic\"\npath = \"pki/issue/web\"\nmethod = \"write\"\nttl_field = \"ttl\"\nbody = { format = \"pem\" }\nparams = { common_name = { pattern = \"[a-z.]+\" } }",
        "type = \"token\"\nmax_ttl = \"1h\"\nimpact = 0",
        "type = \"kv\"\npath = \"secret/data/app\"",
        "type = \"kv\"\npath = \"old/app\"\nversion = 1",
    ] {
        assert_eq!(role(good), Ok(()), "{good}");
    }
    for (bad, words) in [
        ("type = \"dynamic\"", "`path` is missing"),
        (
            "type = \"dynamic\"\npath = \"sys/raw\"",
            "not a path of a secrets engine",
        ),
        (
            "type = \"dynamic\"\npath = \"a/${x}\"",
            "`params` does not have",
        ),
        (
            "type = \"dynamic\"\npath = \"a/b\"\nparams = { x = { max = 1 } }",
            "no effect",
        ),
        (
            "type = \"dynamic\"\npath = \"a/b\"\nbody = { x = 1 }",
            "need `method",
        ),
        (
            "type = \"dynamic\"\npath = \"a/b\"\nmethod = \"write\"\nbody = { x = 1 }\nparams = { x = { max = 1 } }",
            "both",
        ),
        (
            "type = \"dynamic\"\npath = \"a/b\"\nmethod = \"write\"\nttl_field = \"x\"\nparams = { x = { max = 1 } }",
            "both",
        ),
        (
            "type = \"kv\"\npath = \"secret/data/${x}\"\nparams = { x = { max = 1, optional = true } }",
            "cannot be optional",
        ),
        ("type = \"token\"\npath = \"a/b\"", "has no `path`"),
        (
            "type = \"token\"\nparams = { x = { max = 1 } }",
            "no effect",
        ),
        (
            "type = \"kv\"\npath = \"secret/app\"",
            "`data` after the mount",
        ),
        (
            "type = \"kv\"\npath = \"secret/data/app\"\nversion = 3",
            "neither 1 nor 2",
        ),
        (
            "type = \"kv\"\npath = \"secret/data/app\"\nttl_field = \"x\"",
            "has no `ttl_field`",
        ),
        ("type = \"lease\"\npath = \"a/b\"", "unknown variant"),
        ("type = \"token\"\nttl = \"1h\"", "unknown field"),
        ("type = \"token\"\nmax_ttl = \"0s\"", "not a lifetime"),
        (
            "type = \"token\"\nmax_ttl = \"1h\"\nmax_total_ttl = \"1m\"",
            "shorter than `max_ttl`",
        ),
    ] {
        let said = role(bad).unwrap_err();
        assert!(said.contains(words), "{bad}: {said}");
    }
}

#[test]
fn roles_need_policies_and_distinct_names() {
    let policies = |list: &str| {
        with(&format!(
            "[[role]]\nname = \"r\"\ntype = \"token\"\npolicies = {list}"
        ))
    };
    assert_eq!(policies("[\"a\", \"b\"]"), Ok(()));
    for bad in ["[]", "[\"\"]", "[\"root\"]", "[\"Root\"]", "[\"a b\"]"] {
        assert!(policies(bad).is_err(), "{bad}");
    }
    let twice = "[[role]]\nname = \"r\"\ntype = \"token\"\npolicies = [\"p\"]\n".repeat(2);
    assert!(with(&twice).unwrap_err().contains("twice"));
}

/// An engine's default for a value that is left out may be wider than every value that the role
/// allows.
#[test]
fn an_agent_leaves_out_only_optional_parameters() {
    let text = "name = \"ssh\"\ntype = \"dynamic\"\npath = \"ssh/sign/${host}\"\nmethod = \"write\"\npolicies = [\"p\"]\n\
                [params]\nhost = { one_of = [\"a\"] }\nvalid_principals = { one_of = [\"ci\"] }\n\
                extensions = { one_of = [\"none\"], optional = true }\n";
    let config: RoleConfig = toml::from_str(text).unwrap();
    let role = crate::role::Role::new(&"v".parse().unwrap(), &config).unwrap();
    let spec = &role.spec;
    let scope = |pairs: &[(&str, &str)]| {
        let scope = taskpass_core::Scope::from_pairs(pairs.iter().copied()).unwrap();
        spec.check_scope(&scope).map_err(|e| e.to_string())
    };
    let all = [
        ("host", "a"),
        ("valid_principals", "ci"),
        ("extensions", "none"),
    ];
    assert_eq!(scope(&all), Ok(()));
    assert_eq!(scope(&all[..2]), Ok(()));
    assert!(scope(&all[..1]).unwrap_err().contains("valid_principals"));
    assert!(scope(&all[1..]).unwrap_err().contains("host"));
}

/// The fields of a static secret are in the hands of its writer, who must not name variables.
#[test]
fn only_the_declaration_of_a_role_names_variables() {
    let env = |name: &str, rest: &str| {
        let text = format!(
            "{HEAD}token_file = \"t\"\n[[role]]\nname = \"{name}\"\npolicies = [\"p\"]\nmax_ttl = \"5m\"\n{rest}"
        );
        let config: VaultConfig = toml::from_str(&text).map_err(|e| e.to_string())?;
        let role = Role::new(&config.name, &config.roles[0]).map_err(|e| e.to_string())?;
        let shown = |(field, name): (&String, &EnvName)| format!("{field}={name}");
        Ok::<Vec<String>, String>(role.spec.env.iter().map(shown).collect())
    };
    let kv = "type = \"kv\"\npath = \"secret/data/x\"\n";
    assert_eq!(env("git", kv).unwrap(), [""; 0]);
    let declared = format!("{kv}env = {{ key = \"SIGNING_KEY\" }}");
    assert_eq!(env("git", &declared).unwrap(), ["key=SIGNING_KEY"]);
    for bad in ["GIT_SSH_COMMAND", "NODE_OPTIONS", "BASH_ENV", "PATH"] {
        let error = env("git", &format!("{kv}env = {{ key = \"{bad}\" }}")).unwrap_err();
        assert!(error.contains(bad), "{error}");
    }

    let dynamic = "type = \"dynamic\"\npath = \"db/creds/x\"\n";
    let usual = env("ci-db", dynamic).unwrap();
    assert!(usual.contains(&"username=CI_DB_USERNAME".to_owned()));
    let one = format!("{dynamic}env = {{ username = \"PGUSER\" }}");
    let named = env("ci-db", &one).unwrap();
    assert!(named.contains(&"username=PGUSER".to_owned()), "{named:?}");
    assert!(named.contains(&"password=CI_DB_PASSWORD".to_owned()));
    // The usual names of this role would be read by the dynamic linker.
    let error = env("ld", dynamic).unwrap_err();
    assert!(error.contains("`v/ld` needs `env`"), "{error}");
    assert_eq!(env("ld", &one).unwrap(), ["username=PGUSER"]);
    let twice = format!("{dynamic}env = {{ username = \"CI_DB_PASSWORD\" }}");
    assert!(env("ci-db", &twice).unwrap_err().contains("two fields"));
    assert_eq!(
        env("t", "type = \"token\"\n").unwrap(),
        ["token=VAULT_TOKEN"]
    );
}
