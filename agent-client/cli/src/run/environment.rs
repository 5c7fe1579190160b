//! The environment of the command: the caller's variables without its secrets, and the credentials.

use std::{collections::BTreeMap, ffi::OsString, str::FromStr};

use taskpass_client::IssuedCredential;
use taskpass_core::{InvalidValue, RoleName, Secret};

use crate::failure::Usage;

/// What begins the variables that Taskpass itself reads. None reaches the command: they lead to the
/// broker and to the identity.
const OURS: &str = "TASKPASS_";
/// Part of a name of a secret, at the end of a word: `PGPASSWORD`, `GITHUB_TOKEN`, `DB_SECRETS`.
const ENDINGS: [&str; 18] = [
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWORDS",
    "PASSWD",
    "PASSPHRASE",
    "PASSCODE",
    "CREDENTIAL",
    "CREDENTIALS",
    "CREDS",
    "APIKEY",
    "PRIVKEY",
    "PRIVATEKEY",
    "SECRETKEY",
    "ACCESSKEY",
    "PASS",
    "CONNECTIONSTRING",
];
/// Words that end in `PASS` and are no passwords.
const NO_PASSWORDS: [&str; 2] = ["COMPASS", "BYPASS"];
/// git reads configuration from these, in pairs that are of no use alone. A value may be a header
/// with a token, so the command gets all of them or none.
const GIT_CONFIG: [&str; 4] = [
    "GIT_CONFIG_COUNT",
    "GIT_CONFIG_KEY_",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_VALUE_",
];
/// The same where only a whole word counts: `AWS_ACCESS_KEY_ID`, `DB_PASS`, `SSH_AUTH_SOCK`.
const WORDS: [&str; 11] = [
    "KEY", "KEYS", "PASS", "PW", "PIN", "AUTH", "PAT", "JWT", "COOKIE", "COOKIES", "DSN",
];

/// Names and values for the command.
pub(super) type Variables = BTreeMap<String, Secret>;

/// The name of a variable of the caller that the command gets although it looks like a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeptName(OsString);

/// The caller's variables: the variables that the command gets, and the names of the withheld
/// variables.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) passed: Vec<(OsString, OsString)>,
    pub(super) withheld: Vec<String>,
}

impl FromStr for KeptName {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.is_empty() || s.contains(['=', '\0']) {
            return Err(InvalidValue::new(format!(
                "`{}` is not the name of a variable",
                s.escape_debug()
            )));
        }
        if is_ours(s) {
            return Err(InvalidValue::new(format!(
                "`{s}` leads to the broker or to the identity, and no command gets it; the command's credentials are all that it needs"
            )));
        }
        Ok(Self(s.into()))
    }
}

/// Divides the caller's environment.
pub(super) fn inherited(caller: &[(OsString, OsString)], keep: &[KeptName]) -> Inherited {
    let (mut passed, mut withheld) = (Vec::new(), Vec::new());
    for (name, value) in caller {
        let shown = name.to_string_lossy();
        let kept = keep.iter().any(|k| {
            k.0 == *name || (is_git_config(&shown) && is_git_config(&k.0.to_string_lossy()))
        });
        if is_ours(&shown) {
            continue;
        }
        if kept || !(is_secret_name(&shown) || holds_password(&value.to_string_lossy())) {
            passed.push((name.clone(), value.clone()));
        } else {
            withheld.push(shown.escape_debug().to_string());
        }
    }
    withheld.sort();
    Inherited { passed, withheld }
}

fn is_ours(name: &str) -> bool {
    name.to_ascii_uppercase().starts_with(OURS)
}

fn is_git_config(name: &str) -> bool {
    GIT_CONFIG.iter().any(|start| name.starts_with(start))
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    let ends_as_secret = |word: &str| {
        ENDINGS.iter().any(|end| word.ends_with(end))
            && !NO_PASSWORDS.iter().any(|end| word.ends_with(end))
    };
    // `TOKEN2` is a token as well.
    let mut words = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit()));
    // The working directory is in PWD and OLDPWD; MYSQL_PWD is a password.
    let whole = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '_');
    whole.ends_with("_PWD")
        || whole.ends_with("CONNECTION_STRING")
        || is_git_config(&name)
        || words.any(|word| WORDS.contains(&word) || ends_as_secret(word))
}

/// Whether a value is a URL with a user or a password, or a private key. A token may stand in the
/// place of the user: `https://TOKEN@host`.
fn holds_password(value: &str) -> bool {
    let mut after_schemes = value.split("://").skip(1);
    let user_in_url = after_schemes.any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        authority.contains('@')
    });
    let lower = value.to_ascii_lowercase();
    let parameter_of_url = lower.contains("://") && lower.contains("password=");
    user_in_url
        || parameter_of_url
        || (value.contains("-----BEGIN ") && value.contains("PRIVATE KEY-----"))
}

/// The variables that the roles declare. Two credentials must not set the same one, and each sets
/// at least one: a command without its credential would fail later, and less clearly.
pub(super) fn variables(issued: &[IssuedCredential]) -> Result<Variables, Usage> {
    let mut variables = Variables::new();
    let mut owners: BTreeMap<String, &RoleName> = BTreeMap::new();
    for credential in issued {
        let role = &credential.role;
        let mut sets_any = false;
        for (field, secret) in credential.fields() {
            let Some(name) = credential.variable(field).map(ToString::to_string) else {
                continue;
            };
            sets_any = true;
            if let Some(other) = owners.insert(name.clone(), role) {
                return Err(clash(&name, other, role));
            }
            if secret.expose().contains('\0') {
                return Err(Usage(format!(
                    "the field `{field}` of `{role}` has a zero byte and cannot be in an environment"
                )));
            }
            variables.insert(name, secret.duplicate());
        }
        if !sets_any {
            return Err(Usage(format!(
                "the role `{role}` declares no environment variable for its credential; an operator adds `env = {{ FIELD = \"NAME\" }}` to the role, or use `taskpass credential issue`"
            )));
        }
    }
    Ok(variables)
}

fn clash(name: &str, first: &RoleName, second: &RoleName) -> Usage {
    Usage(format!(
        "`{first}` and `{second}` would both set `{name}`; run two commands, or use the library"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divided(name: &str, value: &str) -> Inherited {
        inherited(&[(name.into(), value.into())], &[])
    }

    #[test]
    fn variables_that_look_like_secrets_are_withheld() {
        for name in [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GITHUB_TOKEN",
            "CI_JOB_TOKEN",
            "PGPASSWORD",
            "MYSQL_PWD",
            "OPENAI_API_KEY",
            "ANTHROPIC_APIKEY",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "SSH_AUTH_SOCK",
            "NPM_CONFIG__AUTH",
            "db_password",
            "SENTRY_DSN",
            "GITLAB_PAT",
            "SSHPASS",
            "DBPASS",
            "DEPLOY_PRIVATEKEY",
            "S3SECRETKEY",
            "S3_ACCESSKEY",
            "AZURE_STORAGE_CONNECTION_STRING",
            "SERVICEBUS_CONNECTIONSTRING",
            "GITHUB_TOKEN2",
            "DB_PASSWORD1",
            "MYSQL_PWD_2",
            "GIT_CONFIG_COUNT",
            "GIT_CONFIG_KEY_0",
            "GIT_CONFIG_VALUE_0",
        ] {
            assert_eq!(divided(name, "x").withheld, [name], "{name}");
        }
        for name in [
            "PATH",
            "HOME",
            "PWD",
            "OLDPWD",
            "LANG",
            "TOKENIZERS_PARALLELISM",
            "MAX_THINKING_TOKENS",
            "KEYBOARD",
            "MONKEY",
            "XDG_SESSION_ID",
            "AUTHOR",
            "COMPASS_HOME",
            "COMPASS",
            "PROXY_BYPASS",
            "PYTHON3",
            "GIT_CONFIG_GLOBAL",
        ] {
            assert!(divided(name, "x").withheld.is_empty(), "{name}");
        }
    }

    #[test]
    fn values_with_a_password_are_withheld_under_any_name() {
        for value in [
            "postgres://ci:pw@db/x",
            "a b redis://:pw@cache",
            "https://ghp_token@github.com/x",
            "ssh://git@host/x",
            "jdbc:postgresql://db/x?user=ci&Password=pw",
            "-----BEGIN EC PRIVATE KEY-----\nx",
        ] {
            assert_eq!(divided("DATABASE", value).withheld, ["DATABASE"], "{value}");
        }
        for value in ["https://proxy:3128/a@b:c", "a:b@c", "password=", ""] {
            assert!(divided("X", value).withheld.is_empty(), "{value}");
        }
    }

    #[test]
    fn kept_names_pass_and_those_of_taskpass_never_do() {
        let caller: Vec<(OsString, OsString)> = [
            ("NPM_TOKEN", "n"),
            ("GH_TOKEN", "g"),
            ("TASKPASS_IDENTITY", "/x"),
            ("taskpass_addr", "h:1"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec();
        let both = inherited(&caller, &["NPM_TOKEN".parse().unwrap()]);
        assert_eq!(both.passed, [("NPM_TOKEN".into(), "n".into())]);
        assert_eq!(both.withheld, ["GH_TOKEN"]);
        let git = ["GIT_CONFIG_COUNT", "GIT_CONFIG_KEY_0", "GIT_CONFIG_VALUE_0"];
        let git = git.map(|name| (name.into(), "x".into()));
        let all = inherited(&git, &["GIT_CONFIG_COUNT".parse().unwrap()]);
        assert_eq!(all.passed, git);
        for bad in ["", "A=B", "TASKPASS_IDENTITY", "TASKPASS_ADDR"] {
            assert!(bad.parse::<KeptName>().is_err(), "{bad}");
        }
    }
}
