//! The broker's own credentials at AWS, and the revoker's.
//!
//! A file is read for every call: it is small, and a rotation takes effect at once. Other sources
//! are asked again 60 s before their credentials expire. The environment is never read.

use std::{
    fmt,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_credential_types::{
    Credentials,
    provider::{
        self, ProvideCredentials, SharedCredentialsProvider, error::CredentialsError, future,
    },
};
use serde::Deserialize;
use taskpass_core::{Clock, Secret, Timestamp};

use crate::transport::system_time;

/// Larger files are not credentials files.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// Credentials are replaced this long before they expire.
const EARLY: Duration = Duration::from_secs(60);

/// Where credentials come from; cheap to clone.
#[derive(Clone)]
pub(crate) struct Source(Arc<Inner>);

struct Inner {
    kind: Kind,
    clock: Arc<dyn Clock>,
    cached: tokio::sync::Mutex<Option<Credentials>>,
}

/// The kinds of sources.
pub(crate) enum Kind {
    /// A file, and the section of it.
    File {
        path: PathBuf,
        profile: Option<String>,
    },
    /// A provider of the SDK that calls AWS or the instance.
    Remote(SharedCredentialsProvider),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.kind {
            Kind::File { path, .. } => write!(f, "Source({})", path.display()),
            Kind::Remote(_) => f.write_str("Source(remote)"),
        }
    }
}

impl Source {
    pub(crate) fn new(kind: Kind, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            kind,
            clock,
            cached: tokio::sync::Mutex::new(None),
        }))
    }

    /// Credentials that are valid now.
    pub(crate) async fn load(&self) -> Result<Credentials, CredentialsError> {
        match &self.0.kind {
            Kind::File { path, profile } => read_file(path, profile.as_deref())
                .await
                .map_err(CredentialsError::invalid_configuration),
            Kind::Remote(provider) => {
                let mut cached = self.0.cached.lock().await;
                let soon = system_time(self.0.clock.now().plus(EARLY));
                if let Some(credentials) = cached.as_ref()
                    && credentials.expiry().is_some_and(|expiry| expiry > soon)
                {
                    return Ok(credentials.clone());
                }
                let fresh = provider.provide_credentials().await?;
                *cached = Some(fresh.clone());
                Ok(fresh)
            }
        }
    }

    /// Drops the cached credentials, after AWS called them expired.
    pub(crate) async fn discard_cached(&self) {
        *self.0.cached.lock().await = None;
    }
}

impl ProvideCredentials for Source {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { provider::Result::from(self.load().await) })
    }
}

async fn read_file(path: &Path, profile: Option<&str>) -> Result<Credentials, String> {
    let shown = path.display();
    let unreadable = |e| format!("the credentials file `{shown}` cannot be read: {e}");
    let metadata = tokio::fs::metadata(path).await.map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!(
            "the credentials file `{shown}` is open to other users (mode {mode:04o}); run chmod 600 on it"
        ));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!(
            "the credentials file `{shown}` has more than {FILE_BYTES_MAX} bytes; is it the right one?"
        ));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(unreadable)?;
    let text = Secret::new(text);
    parse(text.expose(), profile)
        .map_err(|message| format!("the credentials file `{shown}` {message}"))
}

fn parse(text: &str, profile: Option<&str>) -> Result<Credentials, String> {
    if text.trim_start().starts_with('{') {
        parse_json(text)
    } else {
        parse_ini(text, profile.unwrap_or("default"))
    }
}

/// The output of a `credential_process`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProcessOutput {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    session_token: Option<String>,
    #[serde(default)]
    expiration: Option<Timestamp>,
}

fn parse_json(text: &str) -> Result<Credentials, String> {
    // The parser's message may quote the file's content; the place is enough.
    let output: ProcessOutput = serde_json::from_str(text).map_err(|e| {
        format!(
            "is not the JSON of a credential_process (line {}, column {})",
            e.line(),
            e.column()
        )
    })?;
    if output.version != 1 {
        return Err(format!("has version {}; write version 1", output.version));
    }
    Ok(Credentials::new(
        output.access_key_id,
        output.secret_access_key,
        output.session_token,
        output.expiration.map(system_time),
        "file",
    ))
}

fn parse_ini(text: &str, profile: &str) -> Result<Credentials, String> {
    let (mut id, mut secret, mut token, mut here, mut found) = (None, None, None, false, false);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') || line.starts_with(';') {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            here = section.trim() == profile;
            found |= here;
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(format!(
                "has neither `[section]` nor `key = value` in line {}",
                number + 1
            ));
        };
        let value = value.trim().to_owned();
        match key.trim() {
            "aws_access_key_id" if here => id = Some(value),
            "aws_secret_access_key" if here => secret = Some(value),
            "aws_session_token" if here => token = Some(value),
            _ => {}
        }
    }
    match (id, secret) {
        (Some(id), Some(secret)) => Ok(Credentials::new(id, secret, token, None, "file")),
        _ if found => Err(format!(
            "lacks `aws_access_key_id` or `aws_secret_access_key` in `[{profile}]`"
        )),
        _ => Err(format!("has no section `[{profile}]`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read() {
        let ini = "# c\n[other]\naws_access_key_id=no\n[default]\naws_access_key_id = AKIA\naws_secret_access_key= s=1\naws_session_token =t\n";
        let read = parse(ini, None).unwrap();
        assert_eq!(
            (
                read.access_key_id(),
                read.secret_access_key(),
                read.session_token()
            ),
            ("AKIA", "s=1", Some("t"))
        );
        let json = r#" {"Version":1,"AccessKeyId":"A","SecretAccessKey":"S","Expiration":"2026-11-22T10:00:00Z"}"#;
        let read = parse(json, None).unwrap();
        assert_eq!((read.access_key_id(), read.session_token()), ("A", None));
        assert!(read.expiry().is_some());
    }

    #[test]
    fn refusals_name_the_reason_and_never_the_content() {
        for (text, profile) in [
            ("[default]\naws_access_key_id = hunter2\n", None),
            ("[default]\nhunter2\n", None),
            ("[default]\naws_access_key_id = hunter2\n", Some("prod")),
            (r#"{"Version":1,"AccessKeyId":"hunter2"}"#, None),
            (
                r#"{"Version":2,"AccessKeyId":"hunter2","SecretAccessKey":"hunter2"}"#,
                None,
            ),
            (r#"{"Version":"hunter2"}"#, None),
        ] {
            let message = parse(text, profile).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        std::fs::write(
            &path,
            "[default]\naws_access_key_id=a\naws_secret_access_key=b\n",
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            read_file(&path, None)
                .await
                .unwrap_err()
                .contains("chmod 600")
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_file(&path, None).await.is_ok());
    }
}
