//! The words of Taskpass in JSON schemas, for the configuration of providers.
//!
//! A `format` names the type; `taskpass-config` knows how its values are written and checks them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{EnvName, Impact, ParamName, ProviderName, Ttl};

macro_rules! text {
    ($($type:ty: $format:literal),* $(,)?) => {$(
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $format.into()
            }

            fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "format": $format })
            }
        }
    )*};
}

text! {
    Ttl: "lifetime",
    ProviderName: "provider-name",
    ParamName: "parameter-name",
    EnvName: "environment-variable",
}

impl JsonSchema for Impact {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "impact".into()
    }

    fn json_schema(_generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "format": "impact", "minimum": 0, "maximum": 3 })
    }
}
