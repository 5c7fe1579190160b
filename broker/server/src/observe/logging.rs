//! Log lines on standard error, as text or JSON, without anything that could be a secret.
//!
//! Below `info`, HTTP, TLS and cloud libraries print headers, bodies and key material; some of
//! their spans do so at any level. The log therefore drops their events below `info` and all of
//! their spans, before it applies the user's filter. A list of such libraries would miss the next
//! one, so the rule is the other way around: only our own packages may log below `info`.

use std::io::IsTerminal;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterExt, filter_fn},
    fmt::MakeWriter,
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::config::{Log, LogFilter, LogFormat};

/// The environment variable that overrides `level` in `[log]`.
pub const ENVIRONMENT: &str = "TASKPASS_LOG";
/// The prefix of the targets of our own packages.
const OURS: &str = "taskpass";

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value of the environment variable is not a filter.
    #[error("{ENVIRONMENT} is wrong: {0}")]
    Environment(String),
    /// This process has a log already.
    #[error("logging was set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
}

/// Sends the log lines of this process to standard error from now on. `environment` is the value of
/// [`ENVIRONMENT`]; an empty one counts as none.
pub fn start(log: &Log, environment: Option<&str>) -> Result<(), Error> {
    let level = level(log, environment)?;
    let colours = std::io::stderr().is_terminal();
    let layer = layer(log.format, colours, &level, std::io::stderr);
    tracing_subscriber::registry()
        .with(layer)
        .try_init()
        .map_err(Error::Twice)
}

fn level(log: &Log, environment: Option<&str>) -> Result<LogFilter, Error> {
    match environment {
        None | Some("") => Ok(log.level.clone()),
        Some(text) => text.parse().map_err(Error::Environment),
    }
}

fn layer<S, W>(format: LogFormat, colours: bool, level: &LogFilter, writer: W) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours);
    let lines = match format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    lines.with_filter(EnvFilter::new(level.as_str()).and(filter_fn(may_be_shown)))
}

/// Whether an event or span comes from our own code, or from a library at a level at which it
/// prints no secrets.
fn may_be_shown(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with(OURS) || (metadata.is_event() && *metadata.level() <= Level::INFO)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::Arc,
    };

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: &str, talk: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = {
            let buffer = buffer.clone();
            move || buffer.clone()
        };
        let layer = layer(format, false, &level.parse().unwrap(), writer);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), talk);
        let bytes = buffer.0.lock().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn libraries_cannot_print_the_data_that_passes_through_them() {
        let everything = "trace,hyper=trace,rustls=trace,[{secret}]=trace";
        let lines = logged(LogFormat::Text, everything, || {
            tracing::trace!(target: "hyper::proto", "authorization: hunter2");
            tracing::debug!(target: "rustls::client", "hunter2");
            tracing::debug!(target: "aws_smithy_runtime", "hunter2");
            tracing::debug!(target: "a_crate_of_next_year", "hunter2");
            let span =
                tracing::error_span!(target: "rustify::client", "request", secret = "hunter2");
            let _inside = span.enter();
            tracing::info!(target: "hyper::proto", "connected");
            tracing::trace!(target: "taskpass_engine", "our own");
        });
        assert!(!lines.contains("hunter2"), "{lines}");
        assert!(
            lines.contains("connected") && lines.contains("our own"),
            "{lines}"
        );
    }

    #[test]
    fn json_lines_are_objects_with_the_fields_on_top() {
        let lines = logged(LogFormat::Json, "info", || {
            tracing::info!(target: "taskpass_broker", agent = "builder", "registered");
            tracing::debug!(target: "taskpass_broker", "not asked for");
        });
        let value: serde_json::Value = serde_json::from_str(&lines).unwrap();
        assert_eq!(value["message"], "registered");
        assert_eq!(value["agent"], "builder");
        assert_eq!(value["level"], "INFO");
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let log = Log::default();
        assert_eq!(level(&log, None).unwrap().as_str(), "info");
        assert_eq!(level(&log, Some("")).unwrap().as_str(), "info");
        assert_eq!(level(&log, Some("debug")).unwrap().as_str(), "debug");
        let message = level(&log, Some("loud")).unwrap_err().to_string();
        assert!(
            message.starts_with("TASKPASS_LOG is wrong: `loud` is not a log level"),
            "{message}"
        );
    }
}
