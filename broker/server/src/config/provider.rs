//! `[[provider]]`: the names here, the meaning of everything else in the provider's own package.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::Value;
use taskpass_config::{Complaints, Document, SECRET_FILE, each_formatted};
use taskpass_core::{Clock, ProviderName, RoleName};
use taskpass_provider::{BuildError, Finding, Parts, Provider, ProviderFactory, ProviderKinds};

/// The key of the list.
pub(super) const TABLE: &str = "provider";

/// One configured provider.
#[derive(Clone)]
pub struct ProviderConfig {
    /// Its name, unique in the file.
    pub name: ProviderName,
    /// Its roles, in the order of the file.
    pub roles: Vec<RoleName>,
    /// Its table, as data.
    pub table: Value,
    factory: Arc<dyn ProviderFactory>,
    base_dir: PathBuf,
}

impl ProviderConfig {
    /// The word behind `kind`.
    pub fn kind(&self) -> &str {
        self.factory.kind()
    }

    /// The files with secrets that it names.
    pub fn secret_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        each_formatted(&self.table, self.factory.schema(), &mut |format, text| {
            if format == SECRET_FILE {
                files.push(self.base_dir.join(text));
            }
        });
        files
    }

    /// What its package finds wrong with it.
    pub fn findings(&self) -> Vec<Finding> {
        self.factory.check(&self.table)
    }

    /// Builds it, without calling its back end.
    pub fn build(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn Provider>, BuildError> {
        let parts = Parts {
            base_dir: self.base_dir.clone(),
            clock,
        };
        self.factory.build(&self.table, &parts)
    }
}

impl fmt::Debug for ProviderConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderConfig")
            .field("name", &self.name)
            .field("kind", &self.kind())
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// Reads every provider of a document that was compared with the schema. `file` is the document as
/// data.
pub(super) fn read(
    document: &Document<'_>,
    file: &Value,
    kinds: &ProviderKinds,
    base_dir: &Path,
    complaints: &mut Complaints<'_>,
) -> Vec<ProviderConfig> {
    let tables = file.get(TABLE).and_then(Value::as_array);
    let mut seen = BTreeMap::new();
    let mut providers = Vec::new();
    for (index, table) in tables.into_iter().flatten().enumerate() {
        let place = format!("/{TABLE}/{index}");
        let Some(name) = text(table, "name").and_then(|name| name.parse::<ProviderName>().ok())
        else {
            continue;
        };
        if let Some(earlier) = seen.insert(name.clone(), document.place(&place)) {
            let (line, _) = complaints.position(earlier);
            complaints.add(
                document.place(&format!("{place}/name")),
                format!("the provider `{name}` is there already, in line {line}"),
            );
        }
        let before = complaints.count();
        let roles = roles(document, table, &place, &name, complaints);
        let kind =
            text(table, "kind").and_then(|word| kinds.iter().find(|kind| kind.kind() == word));
        let Some(factory) = kind.filter(|kind| document.fits(&place, kind.schema())) else {
            continue;
        };
        let provider = ProviderConfig {
            name,
            roles,
            table: table.clone(),
            factory: Arc::clone(factory),
            base_dir: base_dir.to_owned(),
        };
        if complaints.count() == before {
            for Finding {
                place: below,
                message,
            } in provider.findings()
            {
                complaints.add(document.place(&format!("{place}{below}")), message);
            }
        }
        providers.push(provider);
    }
    providers
}

/// The roles' names, each checked and unique.
fn roles(
    document: &Document<'_>,
    table: &Value,
    place: &str,
    provider: &ProviderName,
    complaints: &mut Complaints<'_>,
) -> Vec<RoleName> {
    let roles = table.get("role").and_then(Value::as_array);
    let mut names: Vec<RoleName> = Vec::new();
    for (index, role) in roles.into_iter().flatten().enumerate() {
        let Some(name) = text(role, "name") else {
            continue;
        };
        let offset = document.place(&format!("{place}/role/{index}/name"));
        match RoleName::new(provider.clone(), name) {
            Ok(name) if names.contains(&name) => {
                let message = format!("the provider has a role `{}` already", name.name());
                complaints.add(offset, message);
            }
            Ok(name) => names.push(name),
            Err(e) => complaints.add(offset, e.to_string()),
        }
    }
    names
}

fn text<'v>(table: &'v Value, key: &str) -> Option<&'v str> {
    table.get(key)?.as_str()
}
