//! Names of environment variables, which `taskpass run` sets from a credential.

mod refused;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{InvalidValue, RoleName, excerpt, limits};

/// The name of an environment variable: a letter or `_`, then letters, digits and `_`, at most 255.
///
/// Shells can name such a variable, and it cannot smuggle a `=` or a zero byte into the block of
/// variables that a process is started with. Known variables that make programs run code, such as
/// `LD_PRELOAD`, have no [`EnvName`]: configuration, broker and client all parse names into this
/// type, so each of them refuses such a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnvName(String);

impl EnvName {
    /// The usual variable of a field: `CI_DB_USERNAME` for the field `username` of
    /// `vault-main/ci-db`. Refused when the name is too long, or when no credential may set it.
    pub fn of_field(role: &RoleName, field: &str) -> Result<Self, InvalidValue> {
        let name = format!("{}_{}", upper(role.name()), upper(field));
        // A role may begin with a digit, which a variable must not.
        let digit = name.starts_with(|c: char| c.is_ascii_digit());
        format!("{}{name}", if digit { "_" } else { "" }).parse()
    }

    /// The name as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn upper(text: &str) -> String {
    let shown = |c: char| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    };
    text.chars().map(shown).collect()
}

impl FromStr for EnvName {
    type Err = InvalidValue;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let first = s
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        let rest = s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !(first && rest && s.len() <= limits::VARIABLE_BYTES_MAX) {
            return Err(InvalidValue(format!(
                "`{}` is not an environment variable: begin with a letter or `_`, then letters, digits and `_`, at most {}",
                excerpt(s),
                limits::VARIABLE_BYTES_MAX
            )));
        }
        match refused::why(s) {
            Some(why) => Err(InvalidValue(format!(
                "no credential may set the environment variable `{s}`, which {why}; name another one"
            ))),
            None => Ok(Self(s.to_owned())),
        }
    }
}

impl fmt::Display for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EnvName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for EnvName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for EnvName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_table() {
        for good in ["PGUSER", "_x1", "a"] {
            assert!(good.parse::<EnvName>().is_ok(), "{good}");
        }
        let long = "A".repeat(limits::VARIABLE_BYTES_MAX + 1);
        for bad in ["", "1A", "A-B", "A=B", "A B", "Ä", "A\0", long.as_str()] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_role_and_the_field() {
        let name = |role: &str, field: &str| {
            let name = EnvName::of_field(&role.parse().unwrap(), field).ok()?;
            Some(name.to_string())
        };
        assert_eq!(
            name("vault-main/ci-db", "username").as_deref(),
            Some("CI_DB_USERNAME")
        );
        assert_eq!(
            name("vault-main/ci-db", "tls.cert").as_deref(),
            Some("CI_DB_TLS_CERT")
        );
        assert_eq!(name("v/1st", "a").as_deref(), Some("_1ST_A"));
        assert_eq!(name("v/a", &"x".repeat(300)), None);
        // A writer of secrets could otherwise run code through the name of a field.
        for (role, field) in [
            ("v/git", "ssh_command"),
            ("v/ld", "preload"),
            ("v/node", "options"),
            ("v/bash", "env"),
        ] {
            assert_eq!(name(role, field), None, "{role} {field}");
        }
    }

    #[test]
    fn names_that_make_programs_run_code_are_refused_in_any_case() {
        for bad in [
            "LD_PRELOAD",
            "LD_AUDIT",
            "DYLD_INSERT_LIBRARIES",
            "GCONV_PATH",
            "PATH",
            "ENV",
            "BASH_ENV",
            "PROMPT_COMMAND",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "GIT_EXTERNAL_DIFF",
            "NODE_OPTIONS",
            "PYTHONSTARTUP",
            "PYTHONPATH",
            "PERL5OPT",
            "RUBYOPT",
            "JAVA_TOOL_OPTIONS",
            "_JAVA_OPTIONS",
            "DOTNET_STARTUP_HOOKS",
            "EDITOR",
            "PAGER",
            "LESSOPEN",
            "SSH_ASKPASS",
            "RUSTC_WRAPPER",
            "GOFLAGS",
            "MAKEFLAGS",
            "TAR_OPTIONS",
            "npm_config_script_shell",
            "AWS_CONFIG_FILE",
            "KUBECONFIG",
            "HOME",
            "XDG_CONFIG_HOME",
            "TASKPASS_IDENTITY",
            "TASKPASS_TASK",
            "ld_preload",
        ] {
            let error = bad.parse::<EnvName>().unwrap_err().to_string();
            assert!(error.contains(bad) && error.contains("which"), "{error}");
        }
        for good in [
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "CI_DB_SERIAL_NUMBER",
            "CI_DB_SIGNED_KEY",
            "CARGO_REGISTRY_TOKEN",
            "CI_DB_PASSWORD",
            "GITHUB_TOKEN",
            "GIT_TOKEN",
            "NPM_TOKEN",
            "PGPASSWORD",
            "PGUSER",
            "VAULT_TOKEN",
        ] {
            assert!(good.parse::<EnvName>().is_ok(), "{good}");
        }
    }

    #[test]
    fn names_that_tools_find_programs_by_are_refused() {
        for bad in [
            "DELTA_PAGER",
            "CRONTAB_EDITOR",
            "RESTIC_PASSWORD_COMMAND",
            "BORG_RSH",
            "SBT_OPTS",
            "PYTEST_ADDOPTS",
            "PYTEST_PLUGINS",
            "RSYNC_CONNECT_PROG",
            "ANSIBLE_STRATEGY_PLUGINS",
            "ANSIBLE_CONFIG",
            "PIP_CONFIG_FILE",
            "PIP_PYTHON",
            "GOCACHEPROG",
            "GOAUTH",
            "GOPROXY",
            "VAULT_CONFIG_PATH",
            "KUBECTL_EXTERNAL_DIFF",
            "CARGO_REGISTRY_GLOBAL_CREDENTIAL_PROVIDERS",
            "PSModulePath",
            "CONFIG_SITE",
            "PKG_CONFIG",
            "JAVACMD",
            "ODBCSYSINI",
            "ZIPOPT",
            "GNUPGHOME",
            "CONTAINERS_CONF",
        ] {
            assert!(bad.parse::<EnvName>().is_err(), "{bad}");
        }
    }
}
