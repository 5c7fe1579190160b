//! `[log]`: the level and form of the log on standard error.

use std::{fmt, str::FromStr};

use serde_json::{Value, json};
use taskpass_config::Setting;
use tracing_subscriber::EnvFilter;

taskpass_config::section! {
    /// The log on standard error. No level shows a secret.
    pub struct Log in "log" {
        /// `"text"` for people, `"json"` for collectors: one object on each line.
        format: LogFormat = LogFormat::Text;
        /// The lowest level that is written: `error`, `warn`, `info`, `debug` or `trace`, also by
        /// module, as in `"info,taskpass_engine=debug"`. The environment variable `TASKPASS_LOG`
        /// overrides it. Messages of libraries about HTTP, TLS and provider calls stay at `info` in
        /// any case, since their lower levels print headers and bodies with secrets.
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

impl Setting for LogFormat {
    fn schema() -> Value {
        json!({ "enum": ["text", "json"] })
    }

    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str() {
            Some("json") => Ok(Self::Json),
            // The schema has refused every other word.
            _ => Ok(Self::Text),
        }
    }

    fn write(&self) -> Value {
        match self {
            Self::Text => Value::from("text"),
            Self::Json => Value::from("json"),
        }
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

taskpass_config::text_setting!(LogFilter);
