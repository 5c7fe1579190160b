//! `[keys]`: how the private keys of the installation lie on the disk. Each kind of seal has keys
//! of its own in the table.

use std::{fmt, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use taskpass_config::{Complaints, Document, SECRET_FILE, each_formatted};
use taskpass_provider::{BuildError, Finding, ProviderKinds, Seal, SealFactory, SealParts};

use crate::keys;

/// The name of the table.
pub(super) const TABLE: &str = "keys";
/// The word behind `seal` for keys in plain text.
pub const PLAIN: &str = "plain";

/// The table as it was read.
#[derive(Clone)]
pub struct KeysConfig {
    table: Value,
    base_dir: PathBuf,
    /// `None` for keys in plain text.
    factory: Option<Arc<dyn SealFactory>>,
}

impl KeysConfig {
    /// The word behind `seal`.
    pub fn word(&self) -> &str {
        self.factory.as_ref().map_or(PLAIN, |kind| kind.word())
    }

    /// Whether the table names a seal.
    pub const fn is_sealed(&self) -> bool {
        self.factory.is_some()
    }

    /// The files with secrets that it names.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Some(factory) = &self.factory {
            each_formatted(&self.table, factory.schema(), &mut |format, text| {
                if format == SECRET_FILE {
                    files.push(self.base_dir.join(text));
                }
            });
        }
        files
    }

    /// The seal; `None` for keys in plain text. Makes no call.
    pub fn build(
        &self,
        parts: impl FnOnce(PathBuf) -> SealParts,
    ) -> Result<Option<Arc<dyn Seal>>, BuildError> {
        let Some(factory) = &self.factory else {
            return Ok(None);
        };
        let parts = parts(self.base_dir.clone());
        factory.build(&self.table, &parts).map(Some)
    }

    /// The table as data.
    pub(super) fn value(&self) -> Value {
        self.table.clone()
    }

    /// A table with a seal that only a test knows.
    #[cfg(test)]
    pub(crate) fn of(factory: Arc<dyn SealFactory>, base_dir: PathBuf) -> Self {
        Self {
            table: json!({ "seal": factory.word() }),
            base_dir,
            factory: Some(factory),
        }
    }
}

impl fmt::Debug for KeysConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeysConfig").field(&self.table).finish()
    }
}

/// Reads the table of a document that was compared with the schema. `file` is the document as data.
pub(super) fn read(
    document: &Document<'_>,
    file: &Value,
    kinds: &ProviderKinds,
    base_dir: PathBuf,
    complaints: &mut Complaints<'_>,
) -> KeysConfig {
    let table = file.get(TABLE).cloned();
    let mut config = KeysConfig {
        table: json!({ "seal": PLAIN }),
        base_dir,
        factory: None,
    };
    let Some(table) = table else { return config };
    let word = table.get("seal").and_then(Value::as_str);
    let seals = keys::seals(kinds);
    let factory = seals.into_iter().find(|seal| Some(seal.word()) == word);
    let place = format!("/{TABLE}");
    let Some(factory) = factory.filter(|seal| document.fits(&place, seal.schema())) else {
        return config;
    };
    for Finding {
        place: below,
        message,
    } in factory.check(&table)
    {
        complaints.add(document.place(&format!("{place}{below}")), message);
    }
    config.table = table;
    config.factory = Some(factory);
    config
}

/// The schema of the table.
pub(super) fn schema(kinds: &ProviderKinds) -> Value {
    let plain = json!({
        "type": "object",
        "description": "The keys lie in plain text, mode 0600. A copy of `data_dir` signs as this \
            broker.",
        "additionalProperties": false,
        "required": ["seal"],
        "properties": { "seal": { "const": PLAIN } },
    });
    let seals = keys::seals(kinds);
    let variants: Vec<Value> = std::iter::once(plain)
        .chain(seals.iter().map(|seal| seal.schema().clone()))
        .collect();
    json!({
        "description": "How the private keys in `data_dir` lie on the disk: the certificate \
            authority's and the ledger's. A seal wraps the key that they are sealed with, so that a \
            copy of `data_dir` without the seal's own secret holds no private key. After a change, \
            run `taskpassd keys seal`, `reseal` or `unseal`. Without the table, the keys lie in \
            plain text.",
        "oneOf": variants,
    })
}
