//! Whether the broker's rights to create tokens are as narrow as they can be: Vault follows the
//! settings of the token role before the settings of each request.

use serde_json::Value;
use taskpass_provider::{Health, ProviderError};

use crate::{api::TokenRole, vault::Vault};

/// The tokens that the broker's own token may create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenCreation {
    /// The tokens that the token role allows.
    AsTheRoleAllows,
    /// Through the token role, with `sudo`.
    AnyOfRole,
    /// Orphans with any policy but root.
    AnyOrphan,
}

/// The names under which Vault tells a number of seconds: the second is the older one.
const PERIOD: [&str; 2] = ["token_period", "period"];
const LONGEST: [&str; 2] = ["token_explicit_max_ttl", "explicit_max_ttl"];
const POLICY_LISTS: [&str; 2] = ["allowed_policies", "allowed_policies_glob"];

/// Fails where the token role makes tokens that the broker cannot use, and warns where it allows
/// more than it must.
pub(crate) async fn check_token_role(
    vault: &Vault,
    creation: TokenCreation,
    health: &mut Health,
) -> Result<(), ProviderError> {
    let Some(role) = &vault.token_role else {
        health.warnings.push(
            "without `token_role` the broker's token may create tokens with any policy but root; write a token role that allows the policies of the roles, and name it".to_owned(),
        );
        return Ok(());
    };
    match creation {
        TokenCreation::AsTheRoleAllows => {}
        TokenCreation::AnyOfRole => health.warnings.push(format!(
            "the broker's token has sudo on `auth/token/create/{role}`, which it does not need; take it away"
        )),
        TokenCreation::AnyOrphan => health.warnings.push(
            "the broker's token may use `auth/token/create-orphan` and so create tokens with any policy but root; take that away, since `token_role` is used"
                .to_owned(),
        ),
    }
    let settings = match vault.call(|| TokenRole { role }).await {
        Ok(reply) => reply.data.unwrap_or_default(),
        Err(fault) if fault.status() == Some(404) => {
            return Err(ProviderError::Misconfigured(format!(
                "there is no token role `{role}`; write `auth/token/roles/{role}`"
            )));
        }
        Err(fault) if fault.status() == Some(403) => {
            health.warnings.push(format!(
                "without read on `auth/token/roles/{role}` the settings of the token role are not checked"
            ));
            return Ok(());
        }
        Err(fault) => return Err(fault.while_doing("tell the settings of the token role")),
    };
    if let Some(problem) = unusable(&settings) {
        return Err(ProviderError::Misconfigured(format!(
            "token role `{role}`: {problem}"
        )));
    }
    let warnings = wider_than_needed(&settings);
    let longest = match number(&settings, &LONGEST) {
        0 => String::new(),
        seconds => format!(", for {seconds} s at most: no task may last longer"),
    };
    health.findings.push(format!(
        "tokens are created through token role `{role}`, which allows {}{longest}",
        policies(&settings).join(", ")
    ));
    let about = |words: String| format!("token role `{role}`: {words}");
    health.warnings.extend(warnings.into_iter().map(about));
    Ok(())
}

/// The setting that makes tokens which the broker cannot use.
fn unusable(settings: &Value) -> Option<String> {
    let says = |key: &str, value: bool| settings.get(key).and_then(Value::as_bool) == Some(value);
    if settings.get("token_type").and_then(Value::as_str) == Some("batch") {
        return Some("batch tokens cannot be revoked; set `token_type=service`".to_owned());
    }
    if says("orphan", false) {
        return Some("its tokens end with the broker's own; set `orphan=true`".to_owned());
    }
    if says("renewable", false) {
        return Some("its tokens cannot be renewed; set `renewable=true`".to_owned());
    }
    if number(settings, &PERIOD) > 0 {
        return Some(
            "periodic tokens do not begin with a short life; set `token_period=0`".to_owned(),
        );
    }
    if number(settings, &["token_num_uses"]) > 0 {
        return Some("its tokens wear out; set `token_num_uses=0`".to_owned());
    }
    if policies(settings).is_empty() {
        return Some(
            "it names no policies; set `allowed_policies` or `allowed_policies_glob`".to_owned(),
        );
    }
    None
}

/// The settings that allow more than the broker needs. Vault takes the longest life of a token from
/// its token role at each renewal, and forgets the life that the broker asked for.
fn wider_than_needed(settings: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let any = |name: &String| name.chars().all(|c| c == '*');
    if policies(settings).iter().any(any) {
        found.push(
            "it allows every policy; name those of the roles, or a prefix that they share"
                .to_owned(),
        );
    }
    if settings
        .get("token_no_default_policy")
        .and_then(Value::as_bool)
        != Some(true)
    {
        found.push(
            "its tokens can have the default policy; set `token_no_default_policy=true`".to_owned(),
        );
    }
    if !texts(settings, "allowed_entity_aliases").is_empty() {
        found.push(
            "its tokens can act for entities and get their policies; set `allowed_entity_aliases=`"
                .to_owned(),
        );
    }
    if number(settings, &LONGEST) == 0 {
        found.push(
            "a token that a thief of the broker's token makes outlives the broker's token, and a token whose policies allow `auth/token/renew-self` can be renewed beyond its task while the broker is away; set `token_explicit_max_ttl` to the longest life of a task"
                .to_owned(),
        );
    }
    found
}

fn policies(settings: &Value) -> Vec<String> {
    let lists = POLICY_LISTS.iter();
    lists.flat_map(|key| texts(settings, key)).collect()
}

fn texts(settings: &Value, key: &str) -> Vec<String> {
    let list = settings.get(key).and_then(Value::as_array);
    let texts = list.into_iter().flatten().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The largest number under these names.
fn number(settings: &Value, keys: &[&str]) -> u64 {
    let told = keys.iter().filter_map(|key| settings.get(*key)?.as_u64());
    told.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        json!({
            "orphan": true, "renewable": true, "token_type": "default-service", "token_period": 0,
            "token_explicit_max_ttl": 28800, "token_num_uses": 0, "token_no_default_policy": true,
            "allowed_policies": [], "allowed_policies_glob": ["taskpass-*"],
            "allowed_entity_aliases": null,
        })
    }

    #[test]
    fn each_setting_that_matters_is_named_with_its_remedy() {
        assert_eq!(unusable(&good()), None);
        assert_eq!(wider_than_needed(&good()), Vec::<String>::new());
        for (key, value) in [
            ("orphan", json!(false)),
            ("renewable", json!(false)),
            ("token_type", json!("batch")),
            ("token_period", json!(60)),
            ("token_num_uses", json!(3)),
            ("allowed_policies", json!([])),
        ] {
            let mut settings = good();
            settings[key] = value;
            if key == "allowed_policies" {
                settings["allowed_policies_glob"] = json!([]);
            }
            let problem = unusable(&settings).unwrap_or_default();
            assert!(problem.contains(key), "{key}: {problem}");
        }
        for (key, value) in [
            ("allowed_policies_glob", json!(["*"])),
            ("token_no_default_policy", json!(false)),
            ("allowed_entity_aliases", json!(["admin"])),
            ("token_explicit_max_ttl", json!(0)),
        ] {
            let mut settings = good();
            settings[key] = value;
            assert_eq!(unusable(&settings), None, "{key}");
            let warnings = wider_than_needed(&settings);
            assert_eq!(warnings.len(), 1, "{key}: {warnings:?}");
            let named = warnings[0].contains(key) || key == "allowed_policies_glob";
            assert!(named, "{key}: {warnings:?}");
        }
    }
}
