//! The configuration reference, and the schema for editors, both made from the schema that checks
//! the file.

use taskpass_provider::ProviderKinds;

use super::schema::schema;

const INTRODUCTION: &str = "\
# Configuration reference

<!-- Made by `taskpassd config reference`; do not edit. -->

`taskpass.toml` is TOML. Every key has a default or is optional unless it says *required*. A key that is not on
this page is an error: `taskpassd config check --config FILE` says where it stands and which key was probably meant.
An editor that knows JSON schemas completes and checks the file with [`taskpass.schema.json`](taskpass.schema.json).
The broker reads the file when it starts, and again with `taskpassd reload` or SIGHUP. The keys of tables and providers
then take effect at once, except those that say that a change needs a restart.

What a value looks like:

- A **duration** is a text of numbers and units: `\"500ms\"`, `\"30s\"`, `\"15m\"`, `\"24h\"`, `\"7d\"`, or a sum like `\"1h30m\"`.
- A **lifetime** is a duration in whole seconds, from `\"1s\"` to `\"366d\"`.
- A **path** is a text. A relative one begins at the directory of the file.
- A **path of a file with a secret** is a path, too. The file must be of mode 0600; no secret stands in `taskpass.toml`.
- A **name** is a text of 1 to 63 of `a-z`, `0-9` and inner `-`.
- An **address with port** is a text like `\"127.0.0.1:7443\"` or `\"[::]:7443\"`.
- A **text** stands in quotes, a **whole number** and **true or false** do not.
";

/// The reference as Markdown.
pub fn markdown(kinds: &ProviderKinds) -> String {
    taskpass_config::reference::markdown(&schema(kinds), INTRODUCTION)
}

/// The JSON schema of the file, as editors read it.
pub fn json_schema(kinds: &ProviderKinds) -> String {
    // A schema has text keys only and can always be written.
    serde_json::to_string_pretty(&schema(kinds)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::provider_kinds;

    fn checked_in(file: &str) -> String {
        let path = format!("{}/../../docs/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn the_checked_in_reference_is_this_one() {
        assert!(
            checked_in("config-reference.md") == markdown(&provider_kinds()),
            "docs/config-reference.md is stale: run `cargo run -p taskpass-broker -- config reference > docs/config-reference.md`"
        );
    }

    #[test]
    fn the_checked_in_schema_is_this_one() {
        assert!(
            checked_in("taskpass.schema.json").trim_end() == json_schema(&provider_kinds()),
            "docs/taskpass.schema.json is stale: run `cargo run -p taskpass-broker -- config schema > docs/taskpass.schema.json`"
        );
    }

    /// Every key below `schema` with its schema.
    fn keys(schema: &Value, found: &mut Vec<(String, Value)>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            found.extend(
                properties
                    .iter()
                    .map(|(name, schema)| (name.clone(), schema.clone())),
            );
        }
        match schema {
            Value::Object(entries) => entries.values().for_each(|value| keys(value, found)),
            Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_key_has_a_text_that_ends_like_a_sentence() {
        let mut found = Vec::new();
        keys(&schema(&provider_kinds()), &mut found);
        assert!(found.len() > 100);
        for (name, schema) in found {
            // A tag says which variant it is; the variant has the text.
            if schema.get("const").is_none() {
                let text = schema
                    .get("description")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                assert!(
                    text.trim_end_matches('`').ends_with(['.', '}']),
                    "{name}: {text}"
                );
            }
        }
    }
}
