//! `[log]`: what is written to standard error, and how.

use std::{fmt, str::FromStr};

use toml::de::DeValue;
use tracing_subscriber::EnvFilter;

use super::{
    section::section,
    value::{Value, parsed, wrong_type},
};

section! {
    /// What is written to standard error, and how. No level shows a secret.
    Log = "log" {
        /// `"text"` for people, `"json"` for collectors: one object on each line.
        format: LogFormat = LogFormat::Text;
        /// The lowest level that is written: `error`, `warn`, `info`, `debug` or `trace`, also by module, as in
        /// `"info,taskpass_engine=debug"`. The environment variable `TASKPASS_LOG` goes before it. What
        /// libraries say about HTTP, TLS and provider calls stays at `info` whatever is written here, since they
        /// would print headers and bodies with secrets.
        level: LogFilter = LogFilter("info".to_owned());
    }
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object on each line.
    Json,
}

impl Value for LogFormat {
    const EXPECTS: &'static str = "\"text\" or \"json\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match value.as_str().ok_or_else(|| wrong_type::<Self>(value))? {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => Err(format!("is `{other}`: write \"text\" or \"json\"")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Text => "\"text\"",
            Self::Json => "\"json\"",
        }
        .to_owned()
    }
}

/// Which levels are written; well formed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd)]
pub struct LogFilter(String);

impl LogFilter {
    /// The filter as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LogFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let usable = !text.trim().is_empty() && EnvFilter::builder().parse(text).is_ok();
        // A bare word that is no level would silently be taken for the name of a module.
        let bare = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.contains(['=', ':', '[', '_']));
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let known = bare
            .into_iter()
            .all(|part| levels.contains(&part.to_ascii_lowercase().as_str()));
        if usable && known {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "`{text}` is not a log level: use error, warn, info, debug or trace, or module=level"
        ))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for LogFilter {
    const EXPECTS: &'static str = "a log level in quotes, like \"info\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        parsed(value)
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}
