//! The index of policies that can apply to a request. Cedar evaluates no others.
//!
//! A policy's scope `(principal …, action …, resource …)` cannot fail; where it does not match, the
//! policy has no effect. The index therefore leaves a policy out if it is about another action, or
//! if its principal or resource must be, or be in, an entity that is neither part of the request
//! nor an ancestor of a part. Cedar evaluates every other policy.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use cedar_policy::{
    ActionConstraint, Entity, EntityUid, Policy, PrincipalConstraint, ResourceConstraint,
};

use crate::{
    Action,
    conditions::{Rule, Rules},
    schema::Language,
};

/// The policies by action.
#[derive(Debug)]
pub(crate) struct Index(BTreeMap<Action, ActionPolicies>);

/// The policies that can apply to one action.
#[derive(Debug)]
pub(crate) struct ActionPolicies {
    /// The action itself. Its groups need not be in the request: it knows them.
    pub(crate) entity: Entity,
    /// Policies that name no single entity in their scope.
    general: Vec<Arc<Rule>>,
    /// Policies that apply only when the request has to do with this entity.
    anchored: HashMap<EntityUid, Vec<Arc<Rule>>>,
}

impl Index {
    /// `rules` are those of `policies`, in the same order.
    pub(crate) fn build(
        language: &Language,
        policies: &[Policy],
        rules: &Rules,
    ) -> Result<Self, String> {
        let mut uses = HashMap::<EntityUid, usize>::new();
        for uid in policies.iter().flat_map(anchors) {
            *uses.entry(uid).or_default() += 1;
        }
        // Of a policy's two anchors the rarer one: each agent may have a policy about one provider.
        let anchor = |policy: &Policy| {
            let named = anchors(policy).into_iter();
            named.min_by_key(|uid| uses.get(uid).copied())
        };
        let anchored: Vec<_> = policies
            .iter()
            .zip(&rules.all)
            .map(|(policy, rule)| (policy.action_constraint(), anchor(policy), rule))
            .collect();
        Action::ALL
            .iter()
            .map(|action| {
                Ok((
                    *action,
                    ActionPolicies::build(language, *action, &anchored)?,
                ))
            })
            .collect::<Result<_, String>>()
            .map(Self)
    }

    pub(crate) fn get(&self, action: Action) -> Option<&ActionPolicies> {
        self.0.get(&action)
    }
}

impl ActionPolicies {
    fn build(
        language: &Language,
        action: Action,
        policies: &[(ActionConstraint, Option<EntityUid>, &Arc<Rule>)],
    ) -> Result<Self, String> {
        let lineage = language.lineage(action)?;
        let matches = |constraint: &ActionConstraint| match constraint {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(named) => lineage.first() == Some(named),
            ActionConstraint::In(named) => named.iter().any(|name| lineage.contains(name)),
        };
        let mut general = Vec::new();
        let mut anchored: HashMap<EntityUid, Vec<Arc<Rule>>> = HashMap::new();
        for (constraint, anchor, rule) in policies {
            if !matches(constraint) {
                continue;
            }
            let rules = match anchor {
                Some(uid) => anchored.entry(uid.clone()).or_default(),
                None => &mut general,
            };
            rules.push(Arc::clone(rule));
        }
        Ok(Self {
            entity: language.action(action)?,
            general,
            anchored,
        })
    }

    /// The policies for a request that has to do with `uids`, each policy once if each of `uids`
    /// comes once.
    pub(crate) fn candidates<'a, 'u>(
        &'a self,
        uids: impl Iterator<Item = &'u EntityUid>,
    ) -> impl Iterator<Item = &'a Rule> {
        let anchored = uids.filter_map(|uid| self.anchored.get(uid));
        std::iter::once(&self.general)
            .chain(anchored)
            .flatten()
            .map(Arc::as_ref)
    }
}

/// The entities that must each be part of a request, or an ancestor of a part, for the policy to
/// apply.
fn anchors(policy: &Policy) -> Vec<EntityUid> {
    let principal = match policy.principal_constraint() {
        PrincipalConstraint::In(uid)
        | PrincipalConstraint::Eq(uid)
        | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
    };
    let resource = match policy.resource_constraint() {
        ResourceConstraint::In(uid)
        | ResourceConstraint::Eq(uid)
        | ResourceConstraint::IsIn(_, uid) => Some(uid),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => None,
    };
    resource.into_iter().chain(principal).collect()
}
