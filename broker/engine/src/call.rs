//! The caller of a request, as authentication found it. The engine trusts it and looks nothing up
//! again.

use std::{net::IpAddr, sync::Arc};

use taskpass_core::{Agent, AgentName, OperatorName, SpiffeId, Task, TaskId};
use taskpass_policy::Principal;

use crate::Snapshot;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub enum Caller {
    /// An agent, by an SVID that counts.
    Agent {
        /// Its record.
        agent: Arc<Agent>,
        /// The SPIFFE ID in the SVID.
        id: SpiffeId,
        /// The SVID's serial.
        serial: String,
        /// The open task the SVID is bound to, if it is bound to one.
        bound_to: Option<Arc<Task>>,
    },
    /// A person.
    Operator {
        /// The name.
        name: OperatorName,
        /// The SPIFFE ID.
        id: SpiffeId,
        /// The certificate's serial.
        serial: String,
    },
}

/// One call: the caller and its address.
#[derive(Debug, Clone)]
pub struct Call {
    /// The caller.
    pub caller: Caller,
    /// The caller's address.
    pub ip: Option<IpAddr>,
    /// The snapshot in force when the call began. It decides the call to its end.
    pub(crate) snapshot: Arc<Snapshot>,
}

impl Caller {
    /// The caller's SPIFFE ID.
    pub const fn id(&self) -> &SpiffeId {
        match self {
            Self::Agent { id, .. } | Self::Operator { id, .. } => id,
        }
    }

    /// The serial of the certificate the caller came with.
    pub fn serial(&self) -> &str {
        match self {
            Self::Agent { serial, .. } | Self::Operator { serial, .. } => serial,
        }
    }

    /// The caller as policy sees it.
    pub(crate) fn principal(&self) -> Principal<'_> {
        match self {
            Self::Agent {
                agent, bound_to, ..
            } => Principal::Agent {
                agent,
                bound_to: bound_to.as_ref().map(|task| task.id),
            },
            Self::Operator { name, .. } => Principal::Operator(name),
        }
    }
}

impl Call {
    /// The hash of the policy set that decides the call.
    pub fn policy_set(&self) -> &str {
        self.snapshot.policy().hash()
    }

    /// The calling agent; `None` for an operator.
    pub(crate) const fn agent(&self) -> Option<&Arc<Agent>> {
        match &self.caller {
            Caller::Agent { agent, .. } => Some(agent),
            Caller::Operator { .. } => None,
        }
    }

    /// The task the caller's SVID is bound to.
    pub(crate) const fn bound_to(&self) -> Option<&Arc<Task>> {
        match &self.caller {
            Caller::Agent { bound_to, .. } => bound_to.as_ref(),
            Caller::Operator { .. } => None,
        }
    }

    /// Whether the caller may know of a task of this agent: an agent of its own, through an SVID
    /// bound to a task of just that one; an operator of any.
    pub(crate) fn reaches(&self, owner: &AgentName, task: TaskId) -> bool {
        match &self.caller {
            Caller::Agent {
                agent, bound_to, ..
            } => *owner == agent.name && bound_to.as_ref().is_none_or(|bound| bound.id == task),
            Caller::Operator { .. } => true,
        }
    }
}
