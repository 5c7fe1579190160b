//! The formats that a text in a schema can have: a description of each in words, and its check.

use std::{net::SocketAddr, time::Duration};

use taskpass_core::{
    AgentName, EnvName, Impact, ParamName, ProviderName, TrustDomain, Ttl, excerpt,
};

/// The format of a path; relative ones begin at the directory of the file.
pub const PATH: &str = "path";
/// The format of a path to a file that holds a secret.
pub const SECRET_FILE: &str = "secret-file";

/// One format.
#[derive(Debug)]
pub(crate) struct Format {
    name: &'static str,
    /// The expected text, in words for a message.
    pub(crate) expects: &'static str,
    /// The same for the reference. Its introduction explains the word.
    pub(crate) short: &'static str,
    /// The message goes behind the name of the key.
    pub(crate) check: fn(&str) -> Result<(), String>,
}

/// Every known format. Other formats in a schema are left to the schema's owner.
const FORMATS: &[Format] = &[
    Format {
        name: "lifetime",
        expects: "a lifetime in quotes, like \"15m\"",
        short: "lifetime",
        check: parses::<Ttl>,
    },
    Format {
        name: "duration",
        expects: "a duration in quotes, like \"500ms\" or \"15s\"",
        short: "duration",
        check: |text| duration(text).map(|_right| ()),
    },
    Format {
        name: PATH,
        expects: "a path in quotes",
        short: "path",
        check: path,
    },
    Format {
        name: SECRET_FILE,
        expects: "a path in quotes",
        short: "path of a file with a secret",
        check: path,
    },
    Format {
        name: "trust-domain",
        expects: "the name of a trust domain in quotes, like \"acme.test\"",
        short: "trust domain",
        check: parses::<TrustDomain>,
    },
    Format {
        name: "agent-name",
        expects: "a short name in quotes",
        short: "name",
        check: parses::<AgentName>,
    },
    Format {
        name: "provider-name",
        expects: "a short name in quotes, like \"vault-main\"",
        short: "name",
        check: parses::<ProviderName>,
    },
    Format {
        name: "parameter-name",
        expects: "the name of a parameter",
        short: "name",
        check: parses::<ParamName>,
    },
    Format {
        name: "environment-variable",
        expects: "the name of an environment variable in quotes, like \"PGUSER\"",
        short: "name of an environment variable",
        check: parses::<EnvName>,
    },
    Format {
        name: "impact",
        expects: "a number from 0 to 3",
        short: "number",
        check: |text| match text.parse::<u8>().map(Impact::try_from) {
            Ok(Err(e)) => Err(format!("is wrong: {e}")),
            // A number that is no u8 breaks the range, which is checked next.
            Ok(Ok(_)) | Err(_) => Ok(()),
        },
    },
    Format {
        name: "socket-address",
        expects: "an address with port in quotes, like \"127.0.0.1:7443\"",
        short: "address with port",
        check: |text| {
            text.parse::<SocketAddr>().map(|_right| ()).map_err(|_unfit| {
                let text = excerpt(text);
                format!(
                    "is `{text}`: write an IP address and a port, like 127.0.0.1:7443 or [::]:7443"
                )
            })
        },
    },
];

/// The format of this name.
pub(crate) fn format(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|format| format.name == name)
}

/// How long a text of the format `duration` or `lifetime` says; such texts have an order.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || {
        format!(
            "is `{}`: write a duration like 500ms, 15s or 2m",
            excerpt(text)
        )
    };
    match text.strip_suffix("ms") {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            let millis = digits.parse().map_err(|_empty_or_large| wrong())?;
            Ok(Duration::from_millis(millis))
        }
        Some(_) => Err(wrong()),
        None => {
            let ttl: Ttl = text.parse().map_err(|_unfit| wrong())?;
            Ok(ttl.duration())
        }
    }
}

fn parses<T>(text: &str) -> Result<(), String>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    match text.parse::<T>() {
        Ok(_right) => Ok(()),
        Err(e) => Err(format!("is wrong: {e}")),
    }
}

fn path(text: &str) -> Result<(), String> {
    if text.is_empty() || text.contains('\0') {
        return Err("is empty or has a zero byte: write a path".to_owned());
    }
    Ok(())
}
