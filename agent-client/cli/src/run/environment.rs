//! Credentials as environment variables of the command: which names, and that no two of them clash.

use std::collections::BTreeMap;

use taskpass_client::{IssuedCredential, RevocationClass};
use taskpass_core::{RoleName, Secret};

use crate::failure::Usage;

/// The AWS SDKs' own names, by field.
const AWS: [(&str, &str); 3] = [
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
];
const VAULT_TOKEN: &str = "VAULT_TOKEN";

/// What kind of names a role's fields get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Aws,
    VaultToken,
    Fields,
}

/// Names and values for the command.
pub(super) type Variables = BTreeMap<String, Secret>;

impl Shape {
    /// By the fields that came: agents may not read what kind a provider is.
    fn of(issued: &IssuedCredential) -> Self {
        let names: Vec<&str> = issued.fields().map(|(name, _)| name).collect();
        if AWS.iter().all(|(field, _)| names.contains(field)) {
            Self::Aws
        // A stored secret may be a token for anything.
        } else if names == ["token"] && issued.revocation_class != RevocationClass::None {
            Self::VaultToken
        } else {
            Self::Fields
        }
    }
}

/// The variables of all credentials.
pub(super) fn variables(issued: &[IssuedCredential]) -> Result<Variables, Usage> {
    let mut variables = Variables::new();
    let mut owners: BTreeMap<String, &RoleName> = BTreeMap::new();
    for credential in issued {
        let role = &credential.role;
        let shape = Shape::of(credential);
        for (field, secret) in credential.fields() {
            let name = name(shape, role, field);
            if let Some(other) = owners.insert(name.clone(), role) {
                return Err(clash(&name, other, role));
            }
            if secret.expose().contains('\0') {
                return Err(Usage(format!(
                    "the field `{field}` of `{role}` has a zero byte and cannot be in an environment"
                )));
            }
            variables.insert(name, secret.duplicate());
        }
    }
    Ok(variables)
}

fn name(shape: Shape, role: &RoleName, field: &str) -> String {
    let fixed = match shape {
        Shape::Aws => AWS.iter().find(|(f, _)| *f == field).map(|(_, name)| *name),
        Shape::VaultToken if field == "token" => Some(VAULT_TOKEN),
        _ => None,
    };
    fixed.map_or_else(
        || format!("{}_{}", upper(role.name()), upper(field)),
        str::to_owned,
    )
}

fn upper(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
            _ => '_',
        })
        .collect()
}

fn clash(name: &str, first: &RoleName, second: &RoleName) -> Usage {
    Usage(format!(
        "`{first}` and `{second}` would both set `{name}`; run two commands, or use the library"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_role_and_the_field() {
        let role: RoleName = "vault-main/ci-db".parse().unwrap();
        assert_eq!(name(Shape::Fields, &role, "username"), "CI_DB_USERNAME");
        assert_eq!(name(Shape::Fields, &role, "tls.cert"), "CI_DB_TLS_CERT");
        assert_eq!(name(Shape::VaultToken, &role, "token"), "VAULT_TOKEN");
        assert_eq!(
            name(Shape::Aws, &role, "session_token"),
            "AWS_SESSION_TOKEN"
        );
    }
}
