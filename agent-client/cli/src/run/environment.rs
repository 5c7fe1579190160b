//! Credentials as environment variables of the command. No two credentials may set the same one.

use std::collections::BTreeMap;

use taskpass_client::IssuedCredential;
use taskpass_core::{RoleName, Secret};

use crate::failure::Usage;

/// Names and values for the command.
pub(super) type Variables = BTreeMap<String, Secret>;

/// The variables of all credentials, as the broker names them.
pub(super) fn variables(issued: &[IssuedCredential]) -> Result<Variables, Usage> {
    let mut variables = Variables::new();
    let mut owners: BTreeMap<String, &RoleName> = BTreeMap::new();
    for credential in issued {
        let role = &credential.role;
        for (field, secret) in credential.fields() {
            let Some(name) = credential.variable(field).map(ToString::to_string) else {
                return Err(Usage(format!(
                    "the broker names no environment variable for the field `{field}` of `{role}`; use the library"
                )));
            };
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

fn clash(name: &str, first: &RoleName, second: &RoleName) -> Usage {
    Usage(format!(
        "`{first}` and `{second}` would both set `{name}`; run two commands, or use the library"
    ))
}
