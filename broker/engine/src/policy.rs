//! Reading the policy set.

use std::sync::Arc;

use taskpass_policy::{Action, PolicySet, Resource};

use crate::{Call, Engine, Error};

impl Engine {
    /// The policy set in force.
    pub async fn policy_set(&self, call: &Call) -> Result<Arc<PolicySet>, Error> {
        self.require_operator(call, Action::PolicyRead).await?;
        self.authorize_read(call, Action::PolicyRead, Resource::Installation)
            .await?;
        Ok(Arc::clone(call.snapshot.policy()))
    }
}
