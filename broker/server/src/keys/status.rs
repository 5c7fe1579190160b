//! Which private keys lie how on the disk.

use std::{fmt, fs, path::PathBuf};

use serde::Serialize;
use taskpass_core::with_sources;
use taskpass_seal::{Error, Keyring, is_sealed, read_private};

use super::open;
use crate::{app::Deps, config::Config};

/// The form of a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A thief of the file has the key.
    Plain,
    /// Without the seal's own secret the file holds nothing.
    Sealed,
}

/// One private key on the disk.
#[derive(Debug, Clone, Serialize)]
pub struct KeyFile {
    /// The file.
    pub path: PathBuf,
    /// The key's name, which is sealed along with it.
    #[serde(skip)]
    pub(crate) name: String,
    /// Its form.
    pub form: Form,
}

/// How the keys of an installation lie on the disk.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The seal in `[keys]`.
    pub configured: String,
    /// The seals that wrapped the data keys in `seal.json`, the newest first.
    pub sealed_by: Vec<String>,
    /// Every private key.
    pub files: Vec<KeyFile>,
    /// Why a broker would not start with these keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Looks at the keys, and asks the seal for the data key. Takes no lock and changes nothing.
pub async fn status(config: &Config, deps: &Deps) -> Result<Status, Error> {
    let files = key_files(config)?;
    let keyring = Keyring::load(&config.keyring())?;
    let wrapped = keyring.map(|keyring| keyring.keys).unwrap_or_default();
    let problem = match open(config, deps).await {
        Ok(keys) => files.iter().find_map(|file| {
            let content = read_private(&file.path);
            let revealed = content.and_then(|content| keys.reveal(&file.name, &content));
            let error = revealed.err()?;
            Some(format!(
                "`{}`: {}",
                file.path.display(),
                with_sources(&error)
            ))
        }),
        Err(error) => Some(with_sources(&error)),
    };
    Ok(Status {
        configured: config.keys.word().to_owned(),
        sealed_by: wrapped.into_iter().map(|key| key.seal).collect(),
        files,
        problem,
    })
}

/// The key files of the certificate authority and of the ledger.
pub(crate) fn key_files(config: &Config) -> Result<Vec<KeyFile>, Error> {
    let dir = config.ca_dir();
    let failed = |source| Error::Io {
        action: "list",
        path: dir.clone(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(name) = name.filter(|name| name.ends_with(".key")) {
            found.push((format!("ca/{name}"), path));
        }
    }
    found.sort();
    found.push(("ledger.key".to_owned(), config.ledger_key()));
    let with_form = found.into_iter().map(|(name, path)| {
        let form = if is_sealed(&read_private(&path)?) {
            Form::Sealed
        } else {
            Form::Plain
        };
        Ok(KeyFile { path, name, form })
    });
    with_form.collect()
}

/// The names of the keys that lie in plain text.
pub(crate) fn plain_files(config: &Config) -> Result<Vec<String>, Error> {
    let files = key_files(config)?.into_iter();
    let plain = files.filter(|file| file.form == Form::Plain);
    Ok(plain.map(|file| file.name).collect())
}

impl Status {
    /// The status as JSON with stable names.
    pub fn to_json(&self) -> String {
        // Cannot fail: the fields are texts, which JSON can always represent.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Whether a broker would start with these keys.
    pub const fn is_good(&self) -> bool {
        self.problem.is_none()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            configured,
            sealed_by,
            files,
            problem,
        } = self;
        writeln!(f, "[keys] names `{configured}`")?;
        match sealed_by.as_slice() {
            [] => writeln!(f, "the data key is not there: nothing is sealed")?,
            [one] => writeln!(f, "the data key is wrapped by `{one}`")?,
            several => writeln!(
                f,
                "a change was interrupted: the data keys are wrapped by {}",
                several.join(", ")
            )?,
        }
        for file in files {
            let form = match file.form {
                Form::Plain => "plain ",
                Form::Sealed => "sealed",
            };
            writeln!(f, "{form}  {}", file.path.display())?;
        }
        match problem {
            None => f.write_str("a broker can use the keys"),
            Some(why) => write!(f, "a broker cannot use the keys: {why}"),
        }
    }
}
