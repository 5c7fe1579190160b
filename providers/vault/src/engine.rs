//! What revoking a lease does at the engine behind the lease.
//!
//! Vault forgets a lease once its engine has answered, also where the engine does nothing: an `aws`
//! engine with STS, a `kubernetes` engine with service accounts that exist, a `kv` engine with
//! leases. So "Vault does not know the lease" proves a death only where the engine makes the
//! credential useless. The type of the mount decides that. A role may claim less for its engine,
//! and never more.

use std::time::Duration;

use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use taskpass_core::{RevocationClass, Timestamp};
use taskpass_provider::{ProviderError, RevokeItem, Revoked};

use crate::{
    api::{MountOf, Mounts, Reply},
    consistency::Index,
    fault::Fault,
    token::AnchoredToken,
    vault::Vault,
};

/// The name of the engine's type in a recorded handle.
pub(crate) const ENGINE_KEY: &str = "engine";

/// Types of engines that delete each credential, or put it on a list of revoked ones, when its
/// lease is revoked. Not on the list: `kubernetes`, whose tokens of existing accounts live on, and
/// every type that this release does not know.
const REVOKING: [&str; 16] = [
    "ad",
    "azure",
    "cassandra",
    "consul",
    "database",
    "ldap",
    "mongodb",
    "mongodbatlas",
    "mssql",
    "mysql",
    "nomad",
    "openldap",
    "pki",
    "postgresql",
    "rabbitmq",
    "ssh",
];
/// Types of engines with static secrets. With leases, Vault forgets the lease and the secret stays.
const STATIC: [&str; 3] = ["cubbyhole", "generic", "kv"];
/// Types of engines that delete some of their credentials and not others.
const MIXED: [&str; 3] = ["alicloud", "aws", "gcp"];

/// How long the broker believes that a mount has the type that it had: an operator may unmount an
/// engine and mount another one at its path.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Mounts that the broker remembers; a role has one or two.
const KNOWN_MAX: usize = 256;

/// The effect of an engine on a credential when its lease is revoked; the later ones promise less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EngineRevokes {
    /// The credential is useless at once.
    Now,
    /// Nothing. The credential works until its own end.
    AtExpiry,
    /// Nothing, and the credential has no end of its own.
    Never,
}

impl EngineRevokes {
    /// As far as an engine of this type is known to do so with a credential of these fields.
    pub(crate) fn of(engine: Option<&str>, data: Option<&Value>) -> Self {
        let has = |field: &str| {
            let value = data.and_then(|data| data.get(field));
            value.is_some_and(|value| !value.is_null() && value != "")
        };
        match engine {
            // A user is deleted. A session of STS, which has a token beside its keys, is not.
            Some("aws" | "alicloud")
                if has("access_key") && !has("security_token") && !has("session_token") =>
            {
                Self::Now
            }
            // A key of a service account is deleted. An access token is not.
            Some("gcp") if has("private_key_data") => Self::Now,
            Some(engine) if REVOKING.contains(&engine) => Self::Now,
            Some(engine) if STATIC.contains(&engine) => Self::Never,
            _ => Self::AtExpiry,
        }
    }

    /// What revoking a credential behind such an engine can truly do.
    pub(crate) const fn class(self) -> RevocationClass {
        match self {
            Self::Now => RevocationClass::Inherits,
            Self::AtExpiry => RevocationClass::ExpiryOnly,
            Self::Never => RevocationClass::None,
        }
    }
}

/// Whether the type of an engine does not tell what revoking does.
pub(crate) fn is_mixed(engine: &str) -> bool {
    MIXED.contains(&engine)
}

/// The mounts that the broker asked about.
#[derive(Debug, Default)]
pub(crate) struct KnownMounts(Mutex<Vec<KnownMount>>);

#[derive(Debug)]
struct KnownMount {
    /// With a slash at its end, so no mount is the beginning of another one.
    path: String,
    engine: String,
    /// Monotonic.
    learnt_at: Duration,
}

impl KnownMounts {
    fn engine(&self, path: &str, now: Duration) -> Option<String> {
        let mut known = self.0.lock();
        known.retain(|mount| now < mount.learnt_at + KNOWN_FOR);
        let mount = known.iter().find(|mount| path.starts_with(&mount.path))?;
        Some(mount.engine.clone())
    }

    fn learn(&self, path: &str, engine: &str, now: Duration) {
        let mut known = self.0.lock();
        known.retain(|mount| mount.path != path);
        if known.len() < KNOWN_MAX && path.ends_with('/') {
            known.push(KnownMount {
                path: path.to_owned(),
                engine: engine.to_owned(),
                learnt_at: now,
            });
        }
    }
}

/// The type of the engine at `path`, by a session that may use the path. `None` where Vault does
/// not tell it to the session.
pub(crate) async fn engine_by_session(
    vault: &Vault,
    session: &AnchoredToken,
    path: &str,
) -> Result<Option<String>, ProviderError> {
    let now = vault.clock.monotonic();
    if let Some(engine) = vault.mounts.engine(path, now) {
        return Ok(Some(engine));
    }
    let minted = session.minted.as_ref();
    let asked = vault.call_with(&session.secret, minted, MountOf { path });
    let reply = told(asked.await)?;
    let reply = reply.as_ref();
    let Some((mount, engine)) = reply.and_then(|r| Some((r.text("path")?, r.text("type")?))) else {
        return Ok(None);
    };
    vault.mounts.learn(mount, engine, now);
    Ok(Some(engine.to_owned()))
}

/// The type of the engine at `path`, by the broker's own token, which may lack the right to ask.
async fn engine_by_broker(
    vault: &Vault,
    path: &str,
    after: Option<&Index>,
) -> Result<Option<String>, ProviderError> {
    let now = vault.clock.monotonic();
    if let Some(engine) = vault.mounts.engine(path, now) {
        return Ok(Some(engine));
    }
    let reply = told(vault.call_after(after, || Mounts {}).await)?;
    let mounts = reply.as_ref().and_then(|reply| reply.data.as_ref());
    let mut mounts = mounts.and_then(Value::as_object).into_iter().flatten();
    let found = mounts.find(|(mount, _)| path.starts_with(mount.as_str()));
    let engine = found.and_then(|(mount, about)| Some((mount, about.get("type")?.as_str()?)));
    let Some((mount, engine)) = engine else {
        return Ok(None);
    };
    vault.mounts.learn(mount, engine, now);
    Ok(Some(engine.to_owned()))
}

/// The effect of the engine on a credential on record with a lease at `path`.
///
/// A record of this release has the type of the engine, and the class that follows from it. An
/// intent, and a record of an earlier release, have only the role's class: the mount tells then,
/// and a mount that cannot be asked proves nothing.
pub(crate) async fn engine_revokes(
    vault: &Vault,
    item: &RevokeItem,
    path: &str,
    after: Option<&Index>,
) -> Result<EngineRevokes, ProviderError> {
    match item.revocation_class {
        RevocationClass::None => Ok(EngineRevokes::Never),
        RevocationClass::ExpiryOnly => Ok(EngineRevokes::AtExpiry),
        RevocationClass::Inherits if recorded_engine(item).is_some() => Ok(EngineRevokes::Now),
        RevocationClass::Inherits | RevocationClass::Immediate | RevocationClass::Denylist => {
            let engine = engine_by_broker(vault, path, after).await?;
            Ok(EngineRevokes::of(engine.as_deref(), None))
        }
    }
}

/// The receipt of a lease that Vault has forgotten, behind an engine that does nothing.
pub(crate) fn forgotten(item: &RevokeItem, never_ends: bool) -> Revoked {
    let engine = recorded_engine(item).unwrap_or("unknown");
    let (until, may_live) = if never_ends {
        (Timestamp::MAX, "a person changes it at its source")
    } else {
        (item.expires_at, "its own end")
    };
    Revoked {
        verified: false,
        proof: format!(
            "Vault does not know the lease any more, but its engine (type `{engine}`) is not known to end what it minted, so it may work until {may_live}"
        ),
        may_live_until: Some(until),
        identity_until: None,
    }
}

fn recorded_engine(item: &RevokeItem) -> Option<&str> {
    engine_in(item.handle.as_ref())
}

/// Whether a recorded credential is a static secret under a lease: a later end of the lease would
/// change nothing.
pub(crate) fn is_static(handle: Option<&Value>) -> bool {
    engine_in(handle).is_some_and(|engine| STATIC.contains(&engine))
}

fn engine_in(handle: Option<&Value>) -> Option<&str> {
    handle?.get(ENGINE_KEY)?.as_str()
}

/// `None` where Vault refuses to tell; another failure may pass.
fn told(asked: Result<Reply, Fault>) -> Result<Option<Reply>, ProviderError> {
    match asked {
        Ok(reply) => Ok(Some(reply)),
        Err(fault) if matches!(fault.status(), Some(400..=405)) => Ok(None),
        Err(fault) => Err(fault.while_doing("tell the type of an engine")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_an_engine_that_is_known_to_revoke_does() {
        use EngineRevokes::{AtExpiry, Never, Now};
        let user = json!({"access_key": "a", "secret_key": "s", "security_token": null});
        let session = json!({"access_key": "a", "secret_key": "s", "security_token": "t"});
        let newer = json!({"access_key": "a", "security_token": null, "session_token": "t"});
        let key = json!({"private_key_data": "k"});
        let access_token = json!({"token": "t"});
        for (engine, data, expected) in [
            (Some("database"), None, Now),
            (Some("pki"), None, Now),
            (Some("aws"), Some(&user), Now),
            (Some("aws"), Some(&session), AtExpiry),
            (Some("aws"), Some(&newer), AtExpiry),
            (Some("aws"), Some(&json!({})), AtExpiry),
            (Some("aws"), None, AtExpiry),
            (Some("gcp"), Some(&key), Now),
            (Some("gcp"), Some(&access_token), AtExpiry),
            (Some("kubernetes"), None, AtExpiry),
            (Some("kv"), None, Never),
            (Some("generic"), None, Never),
            (Some("my-own-plugin"), None, AtExpiry),
            (None, Some(&user), AtExpiry),
            (None, None, AtExpiry),
        ] {
            let found = EngineRevokes::of(engine, data);
            assert_eq!(found, expected, "{engine:?} {data:?}");
        }
        // A role may claim less than its engine does, and never more.
        assert_eq!(Now.max(AtExpiry), AtExpiry);
        assert_eq!(AtExpiry.max(Now), AtExpiry);
        assert_eq!(AtExpiry.max(Never), Never);
    }

    #[test]
    fn the_type_of_a_mount_is_not_believed_for_long() {
        let mounts = KnownMounts::default();
        let at = Duration::from_secs;
        mounts.learn("team/pki/", "pki", at(1));
        assert_eq!(
            mounts.engine("team/pki/issue/x", at(2)).as_deref(),
            Some("pki")
        );
        assert_eq!(mounts.engine("team/pki2/issue", at(2)), None);
        assert_eq!(mounts.engine("team", at(2)), None);
        mounts.learn("team/pki/", "kv", at(3));
        assert_eq!(mounts.engine("team/pki/x", at(4)).as_deref(), Some("kv"));
        assert_eq!(mounts.engine("team/pki/x", at(13)), None);
        // Without its slash it could be the beginning of another mount.
        mounts.learn("a", "kv", at(14));
        assert_eq!(mounts.engine("ab/x", at(14)), None);
    }
}
