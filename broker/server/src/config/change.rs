//! The differences between two readings of the file, and which of them a running broker can take
//! over.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;
use taskpass_config::{Complaints, Document};

use super::sections::DATA_DIR;

/// The tables and keys that only take effect when a broker starts: sockets that are open, files
/// that are locked or attached, the lifetimes that the authority signs with, the seal of the keys,
/// the log that is set up once per process, and two limits that are built into the server.
const FIXED: [&str; 9] = [
    "trust_domain",
    "data_dir",
    "listen",
    "identity",
    "keys",
    "ledger",
    "log",
    "limits.handshakes",
    "limits.request_bytes",
];
/// The note about them in the reference and in editors.
const NOTE: &str = "A change needs a restart of the broker.";

/// A key outside of providers that has another value.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The key, as `table.key`.
    pub key: String,
    /// Its value before.
    pub from: Value,
    /// Its value now.
    pub to: Value,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, from, to } = self;
        write!(f, "`{key}`: {from} is now {to}")
    }
}

/// The values of all keys outside of providers.
pub(super) type Values = BTreeMap<String, Value>;

/// The keys that have other values in `after`.
pub(super) fn differences(before: &Values, after: &Values) -> Vec<Difference> {
    let pairs = before.iter().map(|(key, from)| {
        let to = after.get(key).unwrap_or(&Value::Null);
        (key, from, to)
    });
    pairs
        .filter(|(_, from, to)| from != to)
        .map(|(key, from, to)| Difference {
            key: key.clone(),
            from: from.clone(),
            to: to.clone(),
        })
        .collect()
}

/// The keys outside of tables.
pub(super) fn top_level(file: &Value) -> Values {
    let value = |key: &str, default: Value| {
        let value = file.get(key).cloned().unwrap_or(default);
        (key.to_owned(), value)
    };
    [
        value("trust_domain", Value::Null),
        value("data_dir", Value::from(DATA_DIR)),
    ]
    .into()
}

/// Complains about every key that has another value than the one in force and cannot change.
pub(super) fn refuse_fixed(
    document: &Document<'_>,
    in_force: &Values,
    read: &Values,
    complaints: &mut Complaints<'_>,
) {
    for Difference { key, from, .. } in differences(in_force, read) {
        let place = document.place(&format!("/{}", key.replace('.', "/")));
        // A wrong value has its own complaint already.
        if is_fixed(&key) && !complaints.has(place) {
            complaints.add(
                place,
                format!(
                    "cannot change while the broker runs: `{key}`, which is {from}; restart the broker"
                ),
            );
        }
    }
}

fn is_fixed(key: &str) -> bool {
    let table = key.split_once('.').map_or(key, |(table, _)| table);
    FIXED.contains(&key) || FIXED.contains(&table)
}

/// Adds to the texts of a schema which tables and keys are fixed. The trust domain's own text says
/// more.
pub(super) fn mark_fixed(schema: &mut Value) {
    for name in FIXED.iter().filter(|name| **name != "trust_domain") {
        let pointer = format!("/properties/{}", name.replace('.', "/properties/"));
        let text = schema
            .pointer_mut(&pointer)
            .and_then(|node| node.get_mut("description"));
        if let Some(Value::String(text)) = text {
            text.push(' ');
            text.push_str(NOTE);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::{Config, ConfigError},
        provider_kinds,
    };

    const FILE: &str = "/t/taskpass.toml";
    const BEFORE: &str = "trust_domain = \"acme.test\"
[listen]
grpc = \"127.0.0.1:7443\"
[limits]
requests = 7
[tasks]
ttl_max = \"8h\"
";

    fn read(text: &str) -> Config {
        Config::parse(Path::new(FILE), text, &provider_kinds()).unwrap()
    }

    fn read_again(change: impl Fn(&str) -> String) -> Result<Config, Vec<String>> {
        let in_force = read(BEFORE);
        let text = change(BEFORE);
        let kinds = provider_kinds();
        Config::parse_beside(Path::new(FILE), &text, &kinds, Some(&in_force)).map_err(|error| {
            let ConfigError::Invalid(problems) = error else {
                panic!("{error}");
            };
            problems.iter().map(ToString::to_string).collect()
        })
    }

    #[test]
    fn fixed_keys_are_refused_with_their_place() {
        let says = |place: &str, key: &str, value: &str| {
            format!(
                "{FILE}:{place}: cannot change while the broker runs: `{key}`, which is {value}; restart the broker"
            )
        };
        for (from, to, complaint) in [
            (
                "acme.test",
                "b.test",
                says("1:16", "trust_domain", "\"acme.test\""),
            ),
            (
                "[listen]",
                "data_dir = \"d\"\n[listen]",
                says("2:12", "data_dir", "\"data\""),
            ),
            (
                "7443",
                "7444",
                says("3:8", "listen.grpc", "\"127.0.0.1:7443\""),
            ),
            // Left out, it has its default; the table is the nearest place.
            (
                "grpc = \"127.0.0.1:7443\"",
                "reflection = true",
                says("3:14", "listen.reflection", "false"),
            ),
            (
                "[limits]",
                "[limits]\nhandshakes = 3",
                says("5:14", "limits.handshakes", "1"),
            ),
            (
                "[limits]",
                "[limits]\nrequest_bytes = 20000",
                says("5:17", "limits.request_bytes", "262144"),
            ),
            (
                "[limits]",
                "[identity]\nsvid_ttl = \"30m\"\n[limits]",
                says("5:12", "identity.svid_ttl", "\"1h\""),
            ),
            (
                "[limits]",
                "[log]\nlevel = \"debug\"\n[limits]",
                says("5:9", "log.level", "\"info\""),
            ),
        ] {
            let complaints = read_again(|text| text.replace(from, to)).unwrap_err();
            assert_eq!(complaints, [complaint], "{to}");
        }
    }

    #[test]
    fn every_mistake_and_every_fixed_key_are_named_at_once() {
        let text = BEFORE
            .replace("7443", "7444")
            .replace("requests", "reqests");
        let complaints = read_again(|_| text.clone()).unwrap_err();
        assert_eq!(complaints.len(), 2, "{complaints:?}");
    }

    #[test]
    fn other_keys_change_and_the_same_value_is_no_change() {
        let in_force = read(BEFORE);
        let text = BEFORE
            .replace("8h", "4h")
            .replace("requests = 7", "requests = 8");
        let next = read_again(|_| text.clone()).unwrap();
        let changes: Vec<String> = in_force
            .differences(&next)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            changes,
            [
                "`limits.requests`: 7 is now 8",
                "`tasks.ttl_max`: \"8h\" is now \"4h\"",
            ]
        );
        let text = BEFORE.replace("8h", "480m") + "[identity]\nsvid_ttl = \"60m\"";
        let next = read_again(|_| text.clone()).unwrap();
        assert_eq!(in_force.differences(&next), []);
    }

    /// A key that is renamed must not drop out of the list unseen.
    #[test]
    fn every_fixed_key_is_in_the_schema_and_marked() {
        let schema = crate::config::schema(&provider_kinds());
        for name in FIXED.iter().filter(|name| **name != "trust_domain") {
            let pointer = format!("/properties/{}", name.replace('.', "/properties/"));
            let text = schema
                .pointer(&pointer)
                .and_then(|node| node["description"].as_str());
            assert!(text.is_some_and(|text| text.ends_with(NOTE)), "{name}");
        }
    }

    #[test]
    fn the_data_directory_is_found_in_files_that_are_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("taskpass.toml");
        for (text, expected) in [
            ("data_dir = \"d\"\nnonsense = 1", "d"),
            ("data_dir = \"d\"\n[limits\nrequests = ", "d"),
            ("[limits\n", "data"),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(
                Config::data_dir_of(&file),
                dir.path().join(expected),
                "{text}"
            );
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Config::data_dir_of(&file), dir.path().join("data"));
    }
}
