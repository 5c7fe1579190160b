//! Revoking: put the ids on the deny lists of their IAM roles, then prove it with a canary.
//!
//! The intent alone is enough, because a session's tags are the task's and the credential's ids. It
//! does not matter whether STS ever answered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use taskpass_core::{RevocationClass, RoleName, Timestamp};
use taskpass_provider::{
    Health, Liveness, ProviderError, RevokeItem, RevokeOrder, RevokeScope, Revoked,
};

use crate::{
    canary::{Prober, Proof, Tags, Verdict},
    deny_list::{CLOCK_MARGIN, Mark, Windows},
    provider::SESSION_SECONDS_MIN,
    revoker::{Moment, RoleDenyList, Written},
    role::Role,
};

/// The roles, their deny lists, and the means of proof.
#[derive(Debug)]
pub(crate) struct Revocation {
    pub(crate) roles: Arc<BTreeMap<RoleName, Role>>,
    /// Keyed by the ARN of the IAM role; empty without a revoker.
    pub(crate) lists: BTreeMap<String, RoleDenyList>,
    pub(crate) prober: Prober,
    pub(crate) proof_timeout: Duration,
}

/// The handle's field with the ARN of the IAM role.
pub(crate) const ROLE_KEY: &str = "role";
/// The handle's field with the end of the session itself, in milliseconds of Unix time. Its session
/// policy may end its access earlier.
pub(crate) const UNTIL_KEY: &str = "session_until";
/// The least life of a session.
const SESSION_LIFE_MIN: Duration = Duration::from_secs(SESSION_SECONDS_MIN);

/// AWS does not tell who accepts its word for a login, so this is said of every provider.
const IDENTITY_STAYS: &str = "a session answers sts:GetCallerIdentity until its own end, also when it is revoked; map none of these roles where that is a login, as in EKS, Vault's `auth/aws` or Teleport";

type Outcome = Result<Revoked, ProviderError>;

impl Revocation {
    pub(crate) fn class(&self) -> RevocationClass {
        if self.lists.is_empty() {
            RevocationClass::ExpiryOnly
        } else {
            RevocationClass::Denylist
        }
    }

    /// Returns one outcome for each item, in order. The roles of a task are handled concurrently.
    ///
    /// Fails as a whole if AWS could not be reached for any role: no other order would succeed
    /// either.
    pub(crate) async fn revoke(&self, order: &RevokeOrder) -> Result<Vec<Outcome>, ProviderError> {
        let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
        let mut unwritten = Vec::new();
        let mut by_role = BTreeMap::new();
        for (place, item) in order.items.iter().enumerate() {
            match self.role_and_list(item) {
                Some((role, list)) => {
                    let of_role = by_role.entry(&role.name);
                    let (_, _, items) = of_role.or_insert((role, list, Vec::new()));
                    items.push((place, item));
                }
                None => drop(outcomes.insert(place, self.revoke_unlisted(item).await)),
            }
        }
        let roles = by_role
            .into_values()
            .map(|(role, list, items)| self.revoke_of_role(order, role, list, items));
        for of_role in futures_util::future::join_all(roles).await {
            match of_role {
                Ok(of_role) => outcomes.extend(of_role),
                Err((places, error)) => {
                    let of_role = places.into_iter().map(|place| (place, error.clone()));
                    unwritten.extend(of_role);
                }
            }
        }
        // A failure that concerns one role only says nothing about other orders.
        if let (true, Some((_, error))) = (outcomes.is_empty(), unwritten.first())
            && error.is_retryable()
        {
            return Err(error.clone());
        }
        let unwritten = unwritten.into_iter();
        outcomes.extend(unwritten.map(|(place, error)| (place, Err(error))));
        Ok(outcomes.into_values().collect())
    }

    async fn revoke_of_role(
        &self,
        order: &RevokeOrder,
        role: &Role,
        list: &RoleDenyList,
        items: Vec<(usize, &RevokeItem)>,
    ) -> Result<Vec<(usize, Outcome)>, (Vec<usize>, ProviderError)> {
        let (task, agent) = (order.task.to_string(), order.agent.as_str());
        let marks: Vec<(Mark, Timestamp)> = match order.scope {
            RevokeScope::Task => {
                let end = items.iter().map(|(_, item)| item.expires_at).max();
                vec![(Mark::Task(order.task), end.unwrap_or(Timestamp::EPOCH))]
            }
            RevokeScope::Credentials => items
                .iter()
                .map(|(_, i)| (Mark::Credential(i.credential), i.expires_at))
                .collect(),
        };
        let places = || items.iter().map(|(place, _)| *place).collect();
        let written = list
            .deny(&order.agent, &marks)
            .await
            .map_err(|error| (places(), error))?;
        let mut outcomes = Vec::new();
        let mut of_task = None;
        for (place, item) in items {
            if has_expired(item, written.at) {
                outcomes.push((place, Ok(expired(item, written.at))));
                continue;
            }
            let proved = match (&of_task, order.scope) {
                (Some(proved), RevokeScope::Task) => Result::clone(proved),
                (_, RevokeScope::Task) => {
                    let tags = Tags {
                        task: Some(&task),
                        agent: Some(agent),
                        credential: None,
                    };
                    let deny = || list.deny(&order.agent, &marks);
                    of_task
                        .insert(self.prove(role, deny, tags, written).await)
                        .clone()
                }
                (_, RevokeScope::Credentials) => {
                    let id = item.credential.to_string();
                    let tags = Tags {
                        task: None,
                        agent: Some(agent),
                        credential: Some(&id),
                    };
                    let deny = || list.deny(&order.agent, &marks);
                    self.prove(role, deny, tags, written).await
                }
            };
            outcomes.push((place, proved.map(|proved| proved.revoked(item))));
        }
        Ok(outcomes)
    }

    /// Proves that the deny list is in force for `tags`, which it holds since `written`. `deny`
    /// puts them there again.
    async fn prove<F, R>(
        &self,
        role: &Role,
        deny: F,
        tags: Tags<'_>,
        written: Written,
    ) -> Result<Proved, ProviderError>
    where
        F: Fn() -> R + Send + Sync,
        R: Future<Output = Result<Written, ProviderError>> + Send,
    {
        let Some(probe) = &role.probe else {
            return Ok(Proved::unproven(
                written,
                "it is on the role's deny list; the role has no `probe` to try it with",
            ));
        };
        let repair = || async { deny().await.map(drop) };
        match self
            .prober
            .prove(role, probe, tags, self.proof_timeout, repair)
            .await
        {
            Ok(Proof::Denied(how)) => Ok(Proved {
                verified: true,
                how,
                written,
            }),
            Ok(Proof::Allowed(how) | Proof::Unclear(how)) => {
                Err(ProviderError::retryable(format!(
                    "it is on the deny list of role `{}`, but after {} s {how}",
                    role.iam_name,
                    self.proof_timeout.as_secs()
                )))
            }
            Ok(Proof::Useless(why)) => Ok(Proved::unproven(
                written,
                &format!("it is on the role's deny list, but that is unproven: {why}"),
            )),
            Err(error) if error.is_retryable() => Err(error),
            Err(error) => Ok(Proved::unproven(
                written,
                &format!("it is on the role's deny list, but that is unproven: {error}"),
            )),
        }
    }

    /// The outcome for an item of an IAM role without a deny list.
    async fn revoke_unlisted(&self, item: &RevokeItem) -> Outcome {
        // Reading any deny list tells AWS's time.
        if let Some(list) = self.lists.values().next() {
            let at = list.time().await?;
            if has_expired(item, at) {
                return Ok(expired(item, at));
            }
            return Err(ProviderError::Misconfigured(format!(
                "the IAM role of `{}`{} is not configured any more, so its deny list cannot be found; configure it until {}",
                item.role,
                recorded_arn(item).map_or_else(String::new, |arn| format!(" (`{arn}`)")),
                item.expires_at
            )));
        }
        let until = identity_until(item);
        Ok(Revoked {
            verified: false,
            proof: format!(
                "AWS cannot end a session and no revoker is configured; its session policy denies everything from {}, and its identity lasts until {until}",
                item.expires_at
            ),
            may_live_until: Some(item.expires_at),
            identity_until: Some(until),
        })
    }

    /// The role of the item's session, by the recorded ARN: since then the configuration may have
    /// given the role another name, or its name to another role.
    fn role_and_list(&self, item: &RevokeItem) -> Option<(&Role, &RoleDenyList)> {
        let named = self.roles.get(&item.role);
        let role = match recorded_arn(item) {
            Some(arn) => named
                .filter(|role| role.arn == arn)
                .or_else(|| self.roles.values().find(|role| role.arn == arn)),
            None => named,
        }?;
        Some((role, self.lists.get(&role.arn)?))
    }

    /// Whether AWS denies new sessions with the tags of the order's items. Changes nothing.
    pub(crate) async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        let task = order.task.to_string();
        let mut proofs = BTreeSet::new();
        let mut tried: BTreeSet<(&RoleName, Option<String>)> = BTreeSet::new();
        for item in &order.items {
            let Some((role, list)) = self.role_and_list(item) else {
                return Ok(Liveness::Unknown(format!(
                    "the IAM role of `{}` is not configured, or no revoker is; the session policy denies everything from {}",
                    item.role, item.expires_at
                )));
            };
            let Some(probe) = &role.probe else {
                return Ok(Liveness::Unknown(format!(
                    "role `{}` has no `probe`; the session policy denies everything from {}",
                    role.name, item.expires_at
                )));
            };
            if has_expired(item, list.time().await?) {
                continue;
            }
            let credential =
                (order.scope == RevokeScope::Credentials).then(|| item.credential.to_string());
            if !tried.insert((&role.name, credential.clone())) {
                continue;
            }
            let tags = Tags {
                task: Some(&task),
                agent: Some(order.agent.as_str()),
                credential: credential.as_deref(),
            };
            let (canary, control) = self.prober.sessions(role, probe, tags).await?;
            match self.prober.compare(probe, &canary, &control).await? {
                // A window denies only sessions issued before it was folded, and a canary is new.
                Proof::Allowed(_) if list.windows().await.all > 0 => {
                    return Ok(Liveness::Unknown(
                        "the role's deny list is folded, and a canary cannot be as old as the sessions it denies".to_owned(),
                    ));
                }
                Proof::Allowed(how) => return Ok(Liveness::Alive(how)),
                Proof::Unclear(why) | Proof::Useless(why) => return Ok(Liveness::Unknown(why)),
                Proof::Denied(how) => drop(proofs.insert(how)),
            }
        }
        if proofs.is_empty() {
            return Ok(Liveness::Unknown(
                "all are past their deadline, from which their session policies deny everything; it was not tried".to_owned(),
            ));
        }
        Ok(Liveness::Dead(
            proofs.into_iter().collect::<Vec<_>>().join("; "),
        ))
    }

    /// Prunes and repairs every list; returns the first failure after trying all.
    pub(crate) async fn maintain(&self) -> Result<(), ProviderError> {
        let mut failure = None;
        for list in self.lists.values() {
            if let Err(error) = list.refresh().await {
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Assumes the role, with a session that may do no more than the probe.
    pub(crate) async fn check_role(
        &self,
        role: &Role,
        health: &mut Health,
    ) -> Result<(), ProviderError> {
        let session = self
            .prober
            .session(
                role,
                role.probe.as_ref(),
                Tags::default(),
                self.prober.end(),
            )
            .await?;
        health.findings.push(format!(
            "role `{}`: `{}` can be assumed",
            role.name, role.arn
        ));
        if !self.lists.contains_key(&role.arn) {
            return Ok(());
        }
        let Some(probe) = &role.probe else {
            health.warnings.push(format!(
                "role `{}`: no `probe` is configured, so a revocation is never verified; configure one",
                role.name
            ));
            return Ok(());
        };
        match self.prober.attempt(probe, &session).await {
            Ok(Verdict::Allowed) => {
                health
                    .findings
                    .push(format!("role `{}`: {probe} works as a probe", role.name));
            }
            Ok(Verdict::Denied) => health.warnings.push(format!(
                "role `{}`: the IAM role does not allow {probe}, so a revocation is never verified; allow it",
                role.name
            )),
            Ok(Verdict::Unclear(why)) => {
                health.warnings.push(format!("role `{}`: {why}", role.name))
            }
            Err(error) => health
                .warnings
                .push(format!("role `{}`: {error}", role.name)),
        }
        Ok(())
    }

    /// Reads every deny list as the revoker.
    pub(crate) async fn check_lists(&self, health: &mut Health) {
        if self.lists.is_empty() {
            health.warnings.push(
                "no revoker is configured: credentials cannot be revoked, they live until their deadline".to_owned(),
            );
        }
        for (arn, list) in &self.lists {
            match list.inspect().await {
                Ok(size) => health
                    .findings
                    .push(format!("deny list of `{arn}`: {size}")),
                Err(error) => health
                    .warnings
                    .push(format!("deny list of `{arn}`: {error}")),
            }
            if let Some(words) = overflow(list.windows().await) {
                health
                    .warnings
                    .push(format!("deny list of `{arn}`: {words}"));
            }
        }
        health.findings.push(IDENTITY_STAYS.to_owned());
    }
}

/// The ARN of the session's IAM role, as recorded by the intent.
fn recorded_arn(item: &RevokeItem) -> Option<&str> {
    item.handle.as_ref()?.get(ROLE_KEY)?.as_str()
}

/// Whether the deadline in the item's session policy has passed by AWS's clock, which decides.
fn has_expired(item: &RevokeItem, at: Moment) -> bool {
    item.expires_at.plus(CLOCK_MARGIN) <= at.earliest
}

fn expired(item: &RevokeItem, at: Moment) -> Revoked {
    let identity = identity_left(item, at);
    let words = identity.map_or_else(String::new, identity_words);
    Revoked {
        verified: false,
        proof: format!(
            "its session policy has denied everything since {}{words}",
            item.expires_at
        ),
        may_live_until: Some(item.expires_at),
        identity_until: identity,
    }
}

/// When AWS forgets the session. Until then it answers `sts:GetCallerIdentity`, which no policy can
/// deny, and others take that for a login: Kubernetes in EKS, Vault's `auth/aws`, Teleport.
fn identity_until(item: &RevokeItem) -> Timestamp {
    let recorded = item
        .handle
        .as_ref()
        .and_then(|handle| handle.get(UNTIL_KEY));
    let recorded = recorded.and_then(Value::as_i64).map(Timestamp::from_millis);
    let asked_for = item.lifetime.max(SESSION_LIFE_MIN) + CLOCK_MARGIN;
    recorded
        .unwrap_or_else(|| item.intended_at.plus(asked_for))
        .max(item.expires_at)
}

/// The same, unless that time has passed by AWS's clock.
fn identity_left(item: &RevokeItem, at: Moment) -> Option<Timestamp> {
    let until = identity_until(item);
    (until.plus(CLOCK_MARGIN) > at.earliest).then_some(until)
}

fn identity_words(until: Timestamp) -> String {
    format!("; access denied, identity until {until}")
}

/// The harm of a list that overflowed.
fn overflow(windows: Windows) -> Option<String> {
    let of_whom = match windows {
        Windows { all: 0, .. } => return None,
        Windows {
            of_any_agent: 0, ..
        } => "of the same agents",
        Windows { .. } => "of any agent",
    };
    Some(format!(
        "the list overflowed: it denies {} windows of time, with older sessions {of_whom} in them",
        windows.all
    ))
}

/// The outcome of a write and its proof.
#[derive(Debug, Clone)]
struct Proved {
    verified: bool,
    how: String,
    written: Written,
}

impl Proved {
    fn unproven(written: Written, why: &str) -> Self {
        Self {
            verified: false,
            how: why.to_owned(),
            written,
        }
    }

    fn revoked(&self, item: &RevokeItem) -> Revoked {
        let mut proof = self.how.clone();
        if let Some(words) = overflow(self.written.windows) {
            proof.push_str(&format!("; {words}"));
        }
        let verified = self.verified && recorded_arn(item).is_some();
        if verified != self.verified {
            proof
                .push_str("; still unproven, because the IAM role of its session is not on record");
        }
        let may_live_until = (!verified).then_some(item.expires_at);
        let identity = identity_left(item, self.written.at);
        match identity {
            Some(until) if verified => proof.push_str(&identity_words(until)),
            Some(until) => proof.push_str(&format!("; identity until {until}")),
            None => {}
        }
        Revoked {
            verified,
            proof,
            may_live_until,
            identity_until: identity,
        }
    }
}
