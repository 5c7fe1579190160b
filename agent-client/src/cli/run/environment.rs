//! Credentials as environment variables of the command: which names, and that no two of them clash.

use std::{collections::BTreeMap, sync::Arc};

use taskpass_client::Issued;
use taskpass_core::{RoleName, Secret};
use taskpass_proto::v1::Provider;

use crate::cli::failure::Usage;

/// The AWS SDKs' own names, by field.
const AWS: [(&str, &str); 3] = [
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
];
const VAULT_TOKEN: &str = "VAULT_TOKEN";

/// What kind of names a role's fields get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Aws,
    VaultToken,
    Fields,
}

/// Names and values for the command.
pub(super) type Variables = BTreeMap<String, Secret>;

impl Shape {
    /// By what the provider says about the role.
    pub(super) fn of_role(provider: &Provider, role: &RoleName) -> Option<Self> {
        let full = role.to_string();
        let spec = provider
            .roles
            .iter()
            .find(|r| r.name == full || r.name == role.name())?;
        Some(match (provider.kind.as_str(), spec.r#type.as_str()) {
            ("aws", _) => Self::Aws,
            ("vault", "token") => Self::VaultToken,
            _ => Self::Fields,
        })
    }

    /// By the fields that came.
    fn of_fields(issued: &Issued) -> Self {
        let names: Vec<&str> = issued.fields().map(|(name, _)| name).collect();
        if AWS.iter().all(|(field, _)| names.contains(field)) {
            Self::Aws
        } else if names == ["token"] {
            Self::VaultToken
        } else {
            Self::Fields
        }
    }
}

/// Refuses roles whose variables must clash, before anything is issued. The fields of other roles are known only
/// once they are there; [`variables`] checks those.
pub(super) fn check(shapes: &BTreeMap<RoleName, Option<Shape>>) -> Result<(), Usage> {
    let mut owners: BTreeMap<String, &RoleName> = BTreeMap::new();
    for (role, shape) in shapes {
        let claimed = match shape {
            None => continue,
            Some(Shape::Aws) => "AWS_ACCESS_KEY_ID".to_owned(),
            Some(Shape::VaultToken) => VAULT_TOKEN.to_owned(),
            Some(Shape::Fields) => format!("{}_*", upper(role.name())),
        };
        if let Some(other) = owners.insert(claimed.clone(), role) {
            return Err(clash(&claimed, other, role));
        }
    }
    Ok(())
}

/// The variables of all credentials.
pub(super) fn variables(
    issued: &[Arc<Issued>],
    shapes: &BTreeMap<RoleName, Option<Shape>>,
) -> Result<Variables, Usage> {
    let mut variables = Variables::new();
    let mut owners: BTreeMap<String, &RoleName> = BTreeMap::new();
    for credential in issued {
        let role = &credential.role;
        let known = shapes.get(role).copied().flatten();
        let shape = known.unwrap_or_else(|| Shape::of_fields(credential));
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

    fn shapes(roles: &[(&str, Shape)]) -> BTreeMap<RoleName, Option<Shape>> {
        roles
            .iter()
            .map(|(role, shape)| (role.parse().unwrap(), Some(*shape)))
            .collect()
    }

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

    #[test]
    fn what_must_clash_is_refused_before_anything_is_issued() {
        use Shape::{Aws, Fields, VaultToken};
        for clashing in [
            [("a/x", Aws), ("b/y", Aws)],
            [("a/x", VaultToken), ("b/y", VaultToken)],
            [("a/ci-db", Fields), ("b/ci-db", Fields)],
        ] {
            assert!(check(&shapes(&clashing)).is_err(), "{clashing:?}");
        }
        let fine = [("a/x", Aws), ("b/y", VaultToken), ("b/z", Fields)];
        assert!(check(&shapes(&fine)).is_ok());
    }
}
