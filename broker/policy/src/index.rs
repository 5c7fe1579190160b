//! The index of policies that can apply to a request. Cedar evaluates no others.
//!
//! A policy's scope `(principal …, action …, resource …)` cannot fail; where it does not match, the
//! policy has no effect. The index therefore leaves a policy out if it is about another action, or
//! if its principal or resource must be, or be in, an entity that is neither part of the request
//! nor an ancestor of a part. Cedar evaluates every other policy.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{
    ActionConstraint, Entity, EntityUid, Policy, PolicySet, PrincipalConstraint, ResourceConstraint,
};

use crate::{Action, schema::Language};

/// The policies by action.
#[derive(Debug)]
pub(crate) struct Index(BTreeMap<Action, ActionPolicies>);

/// The policies that can apply to one action.
#[derive(Debug)]
pub(crate) struct ActionPolicies {
    /// The action itself. Its groups need not be in the request: it knows them.
    pub(crate) entity: Entity,
    /// Policies that name no single entity in their scope.
    general: PolicySet,
    /// Policies that apply only when the request has to do with this entity.
    anchored: HashMap<EntityUid, PolicySet>,
}

impl Index {
    pub(crate) fn build(language: &Language, policies: &[Policy]) -> Result<Self, String> {
        Action::ALL
            .iter()
            .map(|action| Ok((*action, ActionPolicies::build(language, *action, policies)?)))
            .collect::<Result<_, String>>()
            .map(Self)
    }

    pub(crate) fn get(&self, action: Action) -> Option<&ActionPolicies> {
        self.0.get(&action)
    }
}

impl ActionPolicies {
    fn build(language: &Language, action: Action, policies: &[Policy]) -> Result<Self, String> {
        let lineage = language.lineage(action)?;
        let matches = |constraint: ActionConstraint| match constraint {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(named) => lineage.first() == Some(&named),
            ActionConstraint::In(named) => named.iter().any(|name| lineage.contains(name)),
        };
        let mut general = PolicySet::new();
        let mut anchored: HashMap<EntityUid, PolicySet> = HashMap::new();
        for policy in policies.iter().filter(|p| matches(p.action_constraint())) {
            let set = match anchor(policy) {
                Some(uid) => anchored.entry(uid).or_default(),
                None => &mut general,
            };
            set.add(policy.clone()).map_err(|e| e.to_string())?;
        }
        Ok(Self {
            entity: language.action(action)?,
            general,
            anchored,
        })
    }

    /// The policies for a request that has to do with `uids`, each policy once if each of `uids`
    /// comes once.
    pub(crate) fn candidates<'a>(
        &'a self,
        uids: impl Iterator<Item = &'a EntityUid>,
    ) -> impl Iterator<Item = &'a PolicySet> {
        std::iter::once(&self.general).chain(uids.filter_map(|uid| self.anchored.get(uid)))
    }
}

/// The one entity that must be part of a request, or an ancestor of a part, for the policy to
/// apply.
fn anchor(policy: &Policy) -> Option<EntityUid> {
    match policy.resource_constraint() {
        ResourceConstraint::In(uid)
        | ResourceConstraint::Eq(uid)
        | ResourceConstraint::IsIn(_, uid) => return Some(uid),
        ResourceConstraint::Any | ResourceConstraint::Is(_) => {}
    }
    match policy.principal_constraint() {
        PrincipalConstraint::In(uid)
        | PrincipalConstraint::Eq(uid)
        | PrincipalConstraint::IsIn(_, uid) => Some(uid),
        PrincipalConstraint::Any | PrincipalConstraint::Is(_) => None,
    }
}
