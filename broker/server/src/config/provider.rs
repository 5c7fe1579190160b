//! `[[provider]]`: the names here, the meaning of everything else in the provider's own package.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Value, json};
use taskpass_config::{Complaints, Document, PATH, SECRET_FILE, each_formatted};
use taskpass_core::{Clock, ProviderName, RoleName, sha256_hex};
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

    /// Digest of its table and of the files without secrets that it names. A provider with the same
    /// digest need not be built again. Files with secrets are not part of it: a provider reads them
    /// whenever it uses them.
    pub fn fingerprint(&self) -> String {
        let mut table = self.table.clone();
        table.sort_all_objects();
        let mut files = Vec::new();
        each_formatted(&self.table, self.factory.schema(), &mut |format, text| {
            if format == PATH {
                let content = fs::read(self.base_dir.join(text));
                // A file that cannot be read is another one as soon as it can be.
                files.push(content.map_or_else(|e| e.to_string(), |bytes| sha256_hex(&bytes)));
            }
        });
        sha256_hex(json!([table, files]).to_string().as_bytes())
    }

    /// Digests of the configuration that revoking needs: of the table without its roles, and of
    /// each role by name. The keys that only the broker's own rules read are left out.
    pub fn place(&self) -> BTreeMap<String, String> {
        const RULES: [&str; 7] = [
            "max_ttl",
            "max_total_ttl",
            "impact",
            "environment",
            "data_classes",
            "params",
            "env",
        ];
        let mut table = self.table.clone();
        table.sort_all_objects();
        let roles = table.as_object_mut().and_then(|keys| keys.remove("role"));
        let mut place = BTreeMap::from([(String::new(), sha256_hex(table.to_string().as_bytes()))]);
        let roles = roles.as_ref().and_then(Value::as_array);
        for mut role in roles.into_iter().flatten().cloned() {
            if let Some(keys) = role.as_object_mut() {
                keys.retain(|key, _| !RULES.contains(&key.as_str()));
            }
            let name = role.get("name").map(Value::to_string).unwrap_or_default();
            place.insert(name, sha256_hex(role.to_string().as_bytes()));
        }
        place
    }

    /// The mistakes that its package finds.
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
