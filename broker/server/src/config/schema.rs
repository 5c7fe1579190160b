//! The schema of the whole file, put together from the schemas of its parts.

use serde_json::{Map, Value, json};
use taskpass_config::{PATH, Section};
use taskpass_engine::{Agents, Budgets, Credentials, ProviderSettings, Requests, Tasks};
use taskpass_provider::ProviderKinds;

use super::{
    change::mark_fixed,
    keys,
    log::Log,
    provider,
    sections::{DATA_DIR, Identity, Ledger, Listen, Policy},
};
use crate::transport;

/// The JSON schema of a `taskpass.toml` with providers of these kinds.
pub fn schema(kinds: &ProviderKinds) -> Value {
    let mut keys = Map::new();
    let mut add = |name: &str, schema: Value| keys.insert(name.to_owned(), schema);
    add(
        "trust_domain",
        json!({
            "type": "string",
            "format": "trust-domain",
            "description": "The SPIFFE trust domain. It is in every identity, \
                `spiffe://<trust domain>/agent/…`, and cannot be changed later.",
        }),
    );
    add(
        "data_dir",
        json!({
            "type": "string",
            "format": PATH,
            "default": DATA_DIR,
            "description": "Where the ledger, the index and the keys of the certificate authority are. \
                Mode 0700. Back it up as one.",
        }),
    );
    add(Listen::TABLE, Listen::schema());
    add(Identity::TABLE, Identity::schema());
    add(Policy::TABLE, Policy::schema());
    add(Ledger::TABLE, Ledger::schema());
    add(
        transport::Limits::TABLE,
        [Requests::schema(), Budgets::schema()]
            .iter()
            .fold(transport::Limits::schema(), both),
    );
    add(Agents::TABLE, Agents::schema());
    add(Tasks::TABLE, Tasks::schema());
    add(Credentials::TABLE, Credentials::schema());
    add(ProviderSettings::TABLE, ProviderSettings::schema());
    add(Log::TABLE, Log::schema());
    add(keys::TABLE, keys::schema(kinds));
    add(provider::TABLE, providers(kinds));
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "taskpass.toml",
        "description": "The configuration of one Taskpass broker.",
        "type": "object",
        "additionalProperties": false,
        "required": ["trust_domain"],
        "properties": keys,
    });
    mark_fixed(&mut schema);
    schema
}

/// One table with the keys of two parts.
fn both(mut first: Value, second: &Value) -> Value {
    let (Some(keys), Some(more)) = (
        first.get_mut("properties").and_then(Value::as_object_mut),
        second.get("properties").and_then(Value::as_object),
    ) else {
        return first;
    };
    keys.extend(more.clone());
    first
}

fn providers(kinds: &ProviderKinds) -> Value {
    let schemas: Vec<&Value> = kinds.iter().map(|kind| kind.schema()).collect();
    json!({
        "type": "array",
        "description": "A back end that mints credentials. `kind` says which other keys there are.",
        "items": { "oneOf": schemas },
    })
}
