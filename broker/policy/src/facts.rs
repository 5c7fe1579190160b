//! The facts of a decision: the caller, the action, the resource, and the known circumstances.
//!
//! Nothing here knows Cedar. The engine fills a [`Facts`] from records it has looked up.
//! `schema.cedarschema` has the same names of actions, and the resources that they apply to.

use std::{fmt, net::IpAddr};

use taskpass_core::{
    Agent, Credential, OperatorName, ProviderName, RoleSpec, Scope, Task, TaskId, Timestamp,
    TrustDomain, Ttl,
};

/// The facts of one decision.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The installation's trust domain; with the principal it makes the SPIFFE ID in the record.
    pub trust_domain: &'a TrustDomain,
    /// The caller.
    pub principal: Principal<'a>,
    /// The action that the caller asks for.
    pub action: Action,
    /// The resource of the action. Each [`Action`] names the resources it takes; any other is
    /// refused.
    pub resource: Resource<'a>,
    /// The time of the decision.
    pub now: Timestamp,
    /// The caller's address, if it came over a network.
    pub ip: Option<IpAddr>,
    /// The access that is asked for. Required for actions that [grant
    /// access](Action::grants_access), and refused for every other.
    pub request: Option<CredentialRequest<'a>>,
}

/// The caller.
#[derive(Debug, Clone, Copy)]
pub enum Principal<'a> {
    /// An agent.
    Agent {
        /// The agent's record.
        agent: &'a Agent,
        /// The task that its SVID is bound to, if any.
        bound_to: Option<TaskId>,
    },
    /// An operator.
    Operator(&'a OperatorName),
}

/// The resource of an action.
#[derive(Debug, Clone, Copy)]
pub enum Resource<'a> {
    /// A configured role.
    Role(&'a RoleSpec),
    /// A task.
    Task(&'a Task),
    /// An agent.
    Agent(&'a Agent),
    /// A configured provider.
    Provider(&'a ProviderName),
    /// A credential.
    Credential {
        /// The credential's record.
        credential: &'a Credential,
        /// Its role; `None` when it is no longer configured. A policy that asks for an attribute of
        /// the role then fails, and the request is denied.
        role: Option<&'a RoleSpec>,
    },
    /// The installation as a whole: listings of everything, the policy set, the ledger.
    Installation,
}

/// The access that is asked for when a task starts, or a credential is issued or renewed.
#[derive(Debug, Clone, Copy)]
pub struct CredentialRequest<'a> {
    /// The task; for [`Action::TaskStart`] the task as it would become.
    pub task: &'a Task,
    /// The lifetime asked for: of the task when one is started, else of the credential.
    pub ttl: Ttl,
    /// The scope asked for; for [`Action::TaskStart`] the parameters that the task fixes for the
    /// role.
    pub scope: &'a Scope,
    /// Live credentials in the task, without a renewed one; zero for a task that is only starting.
    pub live_in_task: u64,
    /// Live credentials of the agent, over all its tasks, without a renewed one.
    pub live_of_agent: u64,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// The actions that policies allow or deny. Policies and records spell them as
        /// [`Action::as_str`] does.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Action {
            $($(#[$doc])* $variant,)*
        }

        impl Action {
            /// All actions.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The action as policies and records spell it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

actions! {
    /// Turn a join token into a first SVID. By an agent, on itself ([`Resource::Agent`]).
    SvidAttest = "svid.attest",
    /// Get a new SVID. By an agent, on itself ([`Resource::Agent`]), or on its task
    /// ([`Resource::Task`]) when the SVID is bound to one. By an operator, on the
    /// [`Resource::Installation`].
    SvidRenew = "svid.renew",
    /// Start a task. By an agent, with [`CredentialRequest`]. Decided once for each role that the
    /// task names ([`Resource::Role`], with the parameters that the task fixes for it as scope), so
    /// that policy says which roles an agent may put into a task. A task that names no role is
    /// decided once, on the [`Resource::Installation`]. All decisions must allow it.
    TaskStart = "task.start",
    /// Keep a task alive with a heartbeat. By an agent, on a [`Resource::Task`].
    TaskHeartbeat = "task.heartbeat",
    /// End a task. By agents and operators, on a [`Resource::Task`].
    TaskEnd = "task.end",
    /// Read tasks. By agents and operators: one ([`Resource::Task`]), all of an agent
    /// ([`Resource::Agent`]), or all of the installation ([`Resource::Installation`]).
    TaskRead = "task.read",
    /// Issue a credential. By an agent, on a [`Resource::Role`]. With [`CredentialRequest`].
    CredentialIssue = "credential.issue",
    /// Renew a credential. By an agent, on a [`Resource::Credential`]. With [`CredentialRequest`].
    CredentialRenew = "credential.renew",
    /// Revoke a credential. By agents and operators, on a [`Resource::Credential`].
    CredentialRevoke = "credential.revoke",
    /// Read credentials, never secrets. By agents and operators: one ([`Resource::Credential`]),
    /// all of a task ([`Resource::Task`]) or of an agent ([`Resource::Agent`]), or all of the
    /// installation ([`Resource::Installation`]).
    CredentialRead = "credential.read",
    /// Register an agent. By an operator, on the [`Resource::Agent`] as it would become.
    AgentRegister = "agent.register",
    /// Make a join token. By an operator, on a [`Resource::Agent`].
    AgentToken = "agent.token",
    /// Freeze an agent, also because its owner left. By an operator, on a [`Resource::Agent`].
    AgentFreeze = "agent.freeze",
    /// Release a frozen agent. By an operator, on a [`Resource::Agent`].
    AgentRelease = "agent.release",
    /// Retire an agent for good. By an operator, on a [`Resource::Agent`].
    AgentRetire = "agent.retire",
    /// Make another person answer for an agent. By an operator, on the [`Resource::Agent`] as it
    /// is.
    AgentOwner = "agent.owner",
    /// Withdraw a join token. By an operator, on the [`Resource::Agent`] that it is for.
    AgentWithdrawToken = "agent.withdraw-token",
    /// Read agents and their join tokens. By an operator: one ([`Resource::Agent`]) or all
    /// ([`Resource::Installation`]).
    AgentRead = "agent.read",
    /// Read providers and their roles. By an operator: one ([`Resource::Provider`]) or all
    /// ([`Resource::Installation`]).
    ProviderRead = "provider.read",
    /// Check a provider, which calls it. By an operator, on a [`Resource::Provider`].
    ProviderCheck = "provider.check",
    /// Read the policy set. By an operator, on the [`Resource::Installation`].
    PolicyRead = "policy.read",
    /// Read the ledger. By an operator, on the [`Resource::Installation`].
    LedgerRead = "ledger.read",
}

impl Action {
    /// Whether it grants access, so that its facts need a [`CredentialRequest`].
    pub const fn grants_access(self) -> bool {
        matches!(
            self,
            Self::TaskStart | Self::CredentialIssue | Self::CredentialRenew
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
