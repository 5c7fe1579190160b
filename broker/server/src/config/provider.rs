//! `[[provider]]`: names and keys here, the meaning of everything else in the provider's own package.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use taskpass_core::{ProviderName, RoleName, excerpt};
use taskpass_provider_aws::AwsConfig;
use taskpass_provider_vault::VaultConfig;
use toml::{
    Spanned,
    de::{DeTable, DeValue, ValueDeserializer},
};

use super::{
    provider_keys::{Kind, Presence, ProviderKey, Shape},
    reader::{Reader, Table, list, path_to},
    value::{Value, parsed},
};

/// The key of the list.
pub(crate) const TABLE: &str = "provider";

/// One configured provider. Paths in it are absolute.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// Its name, unique in the file.
    pub name: ProviderName,
    /// Its roles, in the order of the file.
    pub roles: Vec<RoleName>,
    /// What its own package reads.
    pub kind: ProviderKind,
}

/// The configuration of a provider by kind.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ProviderKind {
    /// HashiCorp Vault or OpenBao.
    Vault(Box<VaultConfig>),
    /// Amazon Web Services.
    Aws(Box<AwsConfig>),
}

impl ProviderKind {
    /// The word for it in the file.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Vault(_) => Kind::Vault.as_str(),
            Self::Aws(_) => Kind::Aws.as_str(),
        }
    }
}

/// Reads every provider; complaints go to the reader.
pub(crate) fn read(reader: &mut Reader<'_>, top: &Table<'_>, base: &Path) -> Vec<ProviderConfig> {
    let tables = reader.tables(top, TABLE, "[[provider]]");
    let mut seen = BTreeMap::new();
    let mut providers = Vec::new();
    for table in &tables {
        let name = reader.required::<ProviderName>(table, "name");
        if let Some(name) = &name
            && let Some(earlier) = seen.insert(name.clone(), table.offset)
        {
            let (line, _) = reader.position(earlier);
            let message = format!("the provider `{name}` is there already, in line {line}");
            reader.complain(value_offset(table, "name"), message);
        }
        providers.extend(read_one(reader, table, name, base));
    }
    providers
}

fn read_one(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    name: Option<ProviderName>,
    base: &Path,
) -> Option<ProviderConfig> {
    let kind = reader.required::<Kind>(table, "kind")?;
    let keys_fit = check_keys(reader, table, kind.keys());
    let roles = role_names(reader, table, name.as_ref());
    if !keys_fit {
        return None;
    }
    let mut entries = table.entries.clone();
    anchor_paths(&mut entries, kind.keys(), base);
    let kind = typed(reader, table, kind, entries)?;
    Some(ProviderConfig {
        name: name?,
        roles,
        kind,
    })
}

/// Complains about keys that are unknown or missing, in `table` and all below it. Returns whether there were none.
fn check_keys(reader: &mut Reader<'_>, table: &Table<'_>, keys: &'static [ProviderKey]) -> bool {
    let names: Vec<&'static str> = keys.iter().map(|key| key.name).collect();
    let mut fit = reader.known_keys(table, &names);
    for key in keys {
        let Some(value) = table.entries.get(key.name) else {
            // Name and kind have been asked for already.
            if key.presence == Presence::Required && !["name", "kind"].contains(&key.name) {
                reader.missing(table, key.name, key.shape.expects());
                fit = false;
            }
            continue;
        };
        for below in tables_below(table, key, value) {
            fit &= match &key.shape {
                Shape::Table(keys) | Shape::Tables(keys) | Shape::Named(keys) => {
                    check_keys(reader, &below, keys)
                }
                Shape::Plain(_) | Shape::Path => true,
            };
        }
    }
    fit
}

/// The tables behind a key. A value of another type has none: the provider's package complains about it.
fn tables_below<'a>(
    table: &Table<'_>,
    key: &ProviderKey,
    value: &'a Spanned<DeValue<'a>>,
) -> Vec<Table<'a>> {
    let path = table.name.trim_matches(['[', ']']);
    let of = |name: String, value: &'a Spanned<DeValue<'a>>| {
        let entries = value.get_ref().as_table()?;
        Some(Table {
            name,
            offset: value.span().start,
            entries,
        })
    };
    match (&key.shape, value.get_ref()) {
        (Shape::Table(_), _) => of(format!("[{path}.{}]", key.name), value)
            .into_iter()
            .collect(),
        (Shape::Tables(_), DeValue::Array(items)) => items
            .iter()
            .filter_map(|item| of(format!("[[{path}.{}]]", key.name), item))
            .collect(),
        (Shape::Named(_), DeValue::Table(named)) => named
            .iter()
            .filter_map(|(name, item)| {
                of(format!("[{path}.{}.{}]", key.name, name.get_ref()), item)
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The roles' names, each checked and unique.
fn role_names(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    provider: Option<&ProviderName>,
) -> Vec<RoleName> {
    let (Some(provider), true) = (provider, table.entries.contains_key("role")) else {
        return Vec::new();
    };
    let mut names: Vec<RoleName> = Vec::new();
    for role in reader.tables(table, "role", "[[provider.role]]") {
        // A missing name is complained about with the other keys.
        let Some(name) = role
            .entries
            .get("name")
            .and_then(|name| name.get_ref().as_str())
        else {
            continue;
        };
        let offset = value_offset(&role, "name");
        match RoleName::new(provider.clone(), name) {
            Ok(name) if names.contains(&name) => {
                reader.complain(
                    offset,
                    format!("the provider has a role `{}` already", name.name()),
                );
            }
            Ok(name) => names.push(name),
            Err(e) => reader.complain(offset, e.to_string()),
        }
    }
    names
}

/// Makes every path absolute, since the provider does not know where the file is.
fn anchor_paths(entries: &mut DeTable<'_>, keys: &'static [ProviderKey], base: &Path) {
    for key in keys {
        let Some(value) = entries.get_mut(key.name) else {
            continue;
        };
        match (&key.shape, value.get_mut()) {
            (Shape::Path, DeValue::String(path)) if !path.is_empty() => {
                if let Ok(absolute) = base
                    .join(PathBuf::from(path.as_ref()))
                    .into_os_string()
                    .into_string()
                {
                    *path = absolute.into();
                }
            }
            (Shape::Table(keys), DeValue::Table(table)) => anchor_paths(table, keys, base),
            (Shape::Tables(keys), DeValue::Array(items)) => {
                for item in items.iter_mut() {
                    if let DeValue::Table(table) = item.get_mut() {
                        anchor_paths(table, keys, base);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Hands the table to the provider's package.
fn typed(
    reader: &mut Reader<'_>,
    table: &Table<'_>,
    kind: Kind,
    entries: DeTable<'_>,
) -> Option<ProviderKind> {
    let end = table.offset;
    let value = Spanned::new(end..end, DeValue::Table(entries));
    let deserializer = ValueDeserializer::from(value);
    let read = match kind {
        Kind::Vault => {
            VaultConfig::deserialize(deserializer).map(|c| ProviderKind::Vault(Box::new(c)))
        }
        Kind::Aws => AwsConfig::deserialize(deserializer).map(|c| ProviderKind::Aws(Box::new(c))),
    };
    match read {
        Ok(kind) => valid(reader, table, kind),
        Err(error) => {
            let span = error.span().unwrap_or(end..end);
            let path = path_to(table.entries, &span);
            let place = match path.as_slice() {
                [] => "[[provider]]".to_owned(),
                path => format!("`{}` in [[provider]]", path.join(".")),
            };
            reader.complain(span.start, format!("{place} is wrong: {}", error.message()));
            None
        }
    }
}

/// What the provider's package can tell without files and network.
fn valid(reader: &mut Reader<'_>, table: &Table<'_>, kind: ProviderKind) -> Option<ProviderKind> {
    if let ProviderKind::Vault(vault) = &kind
        && let Err(e) = vault.validate()
    {
        reader.complain(table.offset, e.to_string());
        return None;
    }
    Some(kind)
}

fn value_offset(table: &Table<'_>, key: &str) -> usize {
    table
        .entries
        .get(key)
        .map_or(table.offset, |value| value.span().start)
}

impl Shape {
    /// What is written there, in words.
    pub(crate) const fn expects(&self) -> &'static str {
        match self {
            Self::Plain(expects) => expects,
            Self::Path => PathBuf::EXPECTS,
            Self::Table(_) | Self::Named(_) => "a table",
            Self::Tables(_) => "a list of tables",
        }
    }
}

impl Value for Kind {
    const EXPECTS: &'static str = "\"vault\" or \"aws\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let text = value
            .as_str()
            .ok_or_else(|| super::value::wrong_type::<Self>(value))?;
        let known = Self::ALL.map(Self::as_str);
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| match super::nearest::nearest(text, known) {
                Some(meant) => format!("is `{}`; did you mean `{meant}`?", excerpt(text)),
                None => format!("is `{}`: known kinds are {}", excerpt(text), list(&known)),
            })
    }

    fn show(&self) -> String {
        format!("\"{}\"", self.as_str())
    }
}

impl Value for ProviderName {
    const EXPECTS: &'static str = "a short name in quotes, like \"vault-main\"";

    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        parsed(value)
    }

    fn show(&self) -> String {
        format!("\"{self}\"")
    }
}
