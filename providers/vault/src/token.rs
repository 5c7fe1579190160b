//! Tokens for tasks. Each is minted with a short life, recorded as an anchor, and only then
//! extended.
//!
//! A broker that dies before the record leaves a token that no ledger names; its short life ends
//! it.

use std::{collections::BTreeMap, time::Duration};

use taskpass_core::{AnchorId, CredentialId, Secret, Timestamp};
use taskpass_provider::{Anchors, IssueOrder, ProviderError};
use vaultrs::api::AuthInfo;

use crate::{api::NewToken, consistency::Index, handle::AnchorHandle, vault::Vault};

/// The life of a token that is not on record yet: longer than recording takes on a busy disk.
pub(crate) const PROBATION: Duration = Duration::from_secs(20);

/// The parameters of a new token.
pub(crate) struct TokenSpec {
    pub(crate) policies: Vec<String>,
    /// Its end: at the latest the task's deadline.
    pub(crate) until: Timestamp,
    /// The latest end that a renewal can give it, also a renewal that its holder asks Vault for.
    pub(crate) until_at_most: Timestamp,
    /// The credential that the token is; `None` for a session.
    pub(crate) credential: Option<CredentialId>,
}

/// A token that was recorded and extended.
#[derive(Debug)]
pub(crate) struct AnchoredToken {
    pub(crate) secret: Secret,
    pub(crate) accessor: String,
    /// How far the cluster's storage was when the token was minted.
    pub(crate) minted: Option<Index>,
    pub(crate) anchor: AnchorId,
    /// The token works at least until then, unless it is revoked.
    pub(crate) usable_until: Timestamp,
    /// The token is dead from then on, unless it is renewed.
    pub(crate) dead_by: Timestamp,
    /// The life that Vault gave it.
    pub(crate) granted: Duration,
}

/// Mints an orphan token in two phases.
pub(crate) async fn mint_token(
    vault: &Vault,
    order: &IssueOrder,
    spec: TokenSpec,
    anchors: &dyn Anchors,
) -> Result<AnchoredToken, ProviderError> {
    // The new token hangs on nothing that is on record.
    anchors.intent_durable().await?;
    let now = vault.clock.now();
    let life = whole_seconds(spec.until.since(now))?;
    let life_max = whole_seconds(spec.until_at_most.since(now))?;
    let probation = life.min(PROBATION.as_secs());
    let wanted = new_token(order, &spec.policies, probation, life_max);
    let created = vault.create_token(&wanted).await;
    let (auth, index) = created.map_err(|e| e.while_doing("create the task's token"))?;
    if let Some(fault) = misfit(&auth, &wanted, vault.token_role.as_deref()) {
        return Err(discarded(vault, &auth.accessor, index.as_ref(), fault).await);
    }
    let (secret, accessor) = (Secret::new(auth.client_token), auth.accessor);
    let handle = AnchorHandle {
        accessor: accessor.clone(),
        credential: spec.credential,
        cluster: None,
        namespace: vault.namespace.clone(),
        index,
    };
    let minted = handle.index.clone();
    let anchor = match record(vault, order, handle, anchors).await {
        Ok(anchor) => anchor,
        Err(error) => return Err(discarded(vault, &accessor, minted.as_ref(), error).await),
    };
    let mut seconds = probation;
    let (mut began, mut answered) = (now, vault.clock.now());
    if life > probation {
        began = answered;
        let left = spec.until.since(began).as_secs().max(1);
        match vault.renew_token(&accessor, minted.as_ref(), left).await {
            Ok(granted) => (seconds, answered) = (granted, vault.clock.now()),
            Err(fault) => {
                let error = fault.while_doing("extend the task's token");
                return Err(discarded(vault, &accessor, minted.as_ref(), error).await);
            }
        }
    }
    let granted = Duration::from_secs(seconds);
    Ok(AnchoredToken {
        secret,
        accessor,
        minted,
        anchor,
        usable_until: began.plus(granted).min(spec.until),
        dead_by: answered.plus(granted),
        granted,
    })
}

/// Discards a token that was not brought into use, and returns the error to report. `error` may
/// promise that nothing was minted; that holds only if the token is proven gone.
async fn discarded(
    vault: &Vault,
    accessor: &str,
    minted: Option<&Index>,
    error: ProviderError,
) -> ProviderError {
    if vault.discard_token(accessor, minted).await {
        error
    } else {
        ProviderError::retryable(error.to_string())
    }
}

/// Records a token together with the cluster and namespace that minted it: no other server's answer
/// proves its death.
async fn record(
    vault: &Vault,
    order: &IssueOrder,
    handle: AnchorHandle,
    anchors: &dyn Anchors,
) -> Result<AnchorId, ProviderError> {
    let handle = AnchorHandle {
        cluster: vault.cluster().await?,
        ..handle
    };
    anchors.record(handle.to_json(), order.task_deadline).await
}

/// An orphan that lives for `ttl` seconds and can be extended until it is `ttl_max` seconds old.
/// Were it a child of the broker's own token, revoking that would revoke the sessions of all tasks.
fn new_token(order: &IssueOrder, policies: &[String], ttl: u64, ttl_max: u64) -> NewToken {
    NewToken {
        display_name: format!("taskpass-{}", order.task),
        meta: BTreeMap::from([
            ("task", order.task.to_string()),
            ("agent", order.agent.to_string()),
        ]),
        policies: policies.to_vec(),
        no_default_policy: true,
        ttl: format!("{ttl}s"),
        explicit_max_ttl: format!("{ttl_max}s"),
        renewable: true,
        token_type: "service",
    }
}

/// How a new token differs from the request: the settings of a token role come before the settings
/// of the request.
pub(crate) fn misfit(
    auth: &AuthInfo,
    wanted: &NewToken,
    token_role: Option<&str>,
) -> Option<ProviderError> {
    // Vault writes the names of policies in lower case.
    let asked: Vec<String> = wanted.policies.iter().map(|p| p.to_lowercase()).collect();
    let more = auth.policies.iter().find(|policy| !asked.contains(policy));
    let problem = if auth.token_type != "service" {
        format!(
            "are of type `{}` and cannot be revoked; set `token_type=service`",
            auth.token_type
        )
    } else if !auth.orphan {
        "end with the broker's own token; set `orphan=true`".to_owned()
    } else if wanted.renewable && !auth.renewable {
        "cannot be renewed; set `renewable=true`".to_owned()
    } else if let Some(more) = more {
        format!("get policy `{more}`, which was not asked for; set `token_no_default_policy=true`")
    } else {
        return None;
    };
    let what = match token_role {
        Some(role) => format!("tokens of token role `{role}`"),
        None => "its orphan tokens".to_owned(),
    };
    Some(ProviderError::Misconfigured(format!("{what} {problem}")))
}

/// Rounded down, so that no token outlives the requested end.
fn whole_seconds(span: Duration) -> Result<u64, ProviderError> {
    match span.as_secs() {
        0 => Err(ProviderError::Denied(
            "the task ends within a second; start a new task".to_owned(),
        )),
        seconds => Ok(seconds),
    }
}
