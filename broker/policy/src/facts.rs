//! What a decision is made on: who asks, for what, on what, and what is known about it.
//!
//! Nothing here knows Cedar. The engine fills a [`Facts`] from records it has already looked up; names of actions
//! and what they apply to are those of `schema.cedarschema`.

use std::{fmt, net::IpAddr};

use taskpass_core::{
    Agent, Credential, OperatorName, ProviderName, RoleSpec, Scope, Task, TaskId, Timestamp,
    TrustDomain, Ttl,
};

/// Everything one decision is made on.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The installation's trust domain; with the principal it makes the SPIFFE ID in the record.
    pub trust_domain: &'a TrustDomain,
    /// Who asks.
    pub principal: Principal<'a>,
    /// For what.
    pub action: Action,
    /// On what. Each [`Action`] says which resources it takes; any other is refused.
    pub resource: Resource<'a>,
    /// When.
    pub now: Timestamp,
    /// The caller's address, if it came over a network.
    pub ip: Option<IpAddr>,
    /// What is drawn. Required for actions that [draw](Action::grants_access), and refused for every other.
    pub request: Option<CredentialRequest<'a>>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub enum Principal<'a> {
    /// An agent.
    Agent {
        /// The agent's record.
        agent: &'a Agent,
        /// The task its SVID is bound to, if it used one that is.
        bound_to: Option<TaskId>,
    },
    /// An operator.
    Operator(&'a OperatorName),
}

/// On what.
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
        /// Its role; `None` when it is no longer configured. A policy that then asks for an attribute of the role
        /// fails, and that denies.
        role: Option<&'a RoleSpec>,
    },
    /// The installation as a whole: listings of everything, the policy set, the ledger.
    Installation,
}

/// What is drawn by starting a task, or by issuing or renewing a credential.
#[derive(Debug, Clone, Copy)]
pub struct CredentialRequest<'a> {
    /// The task that draws; for [`Action::TaskStart`] the task as it is going to be.
    pub task: &'a Task,
    /// The lifetime asked for: of the task when one is started, else of the credential.
    pub ttl: Ttl,
    /// The scope asked for; for [`Action::TaskStart`] what the task fixes for the role.
    pub scope: &'a Scope,
    /// Live credentials in the task; zero for one that is only starting.
    pub live_in_task: u64,
    /// Live credentials of the agent, over all its tasks.
    pub live_of_agent: u64,
}

macro_rules! actions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What may be allowed or refused. The spelling of [`Action::as_str`] is the one policies and records use.
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
    /// Get a new SVID. By an agent, on itself ([`Resource::Agent`]), or on its task ([`Resource::Task`]) when the
    /// SVID is bound to one. By an operator, on the [`Resource::Installation`].
    SvidRenew = "svid.renew",
    /// Start a task. By an agent. Decided once for each role the task names ([`Resource::Role`], with what the task
    /// fixes for it as scope), so that policy says which roles an agent may put into a task; once on
    /// [`Resource::Installation`] when it names none. All must be allowed. With [`CredentialRequest`].
    TaskStart = "task.start",
    /// Say that a task is still being worked on. By an agent, on a [`Resource::Task`].
    TaskHeartbeat = "task.heartbeat",
    /// End a task. By agents and operators, on a [`Resource::Task`].
    TaskEnd = "task.end",
    /// See tasks. By agents and operators: one ([`Resource::Task`]), all of an agent ([`Resource::Agent`]), or all
    /// there are ([`Resource::Installation`]).
    TaskRead = "task.read",
    /// Issue a credential. By an agent, on a [`Resource::Role`]. With [`CredentialRequest`].
    CredentialIssue = "credential.issue",
    /// Let a credential live longer. By an agent, on a [`Resource::Credential`]. With [`CredentialRequest`].
    CredentialRenew = "credential.renew",
    /// Revoke a credential. By agents and operators, on a [`Resource::Credential`].
    CredentialRevoke = "credential.revoke",
    /// See what was issued, never secrets. By agents and operators: one ([`Resource::Credential`]), all of a task
    /// ([`Resource::Task`]) or of an agent ([`Resource::Agent`]), or all there are ([`Resource::Installation`]).
    CredentialRead = "credential.read",
    /// Register an agent. By an operator, on the [`Resource::Agent`] as it is going to be.
    AgentRegister = "agent.register",
    /// Make a join token. By an operator, on a [`Resource::Agent`].
    AgentToken = "agent.token",
    /// See agents. By an operator: one ([`Resource::Agent`]) or all ([`Resource::Installation`]).
    AgentRead = "agent.read",
    /// See providers and their roles. By an operator: one ([`Resource::Provider`]) or all
    /// ([`Resource::Installation`]).
    ProviderRead = "provider.read",
    /// Have a provider checked, which calls it. By an operator, on a [`Resource::Provider`].
    ProviderCheck = "provider.check",
    /// See the policy set. By an operator, on the [`Resource::Installation`].
    PolicyRead = "policy.read",
    /// Read the ledger. By an operator, on the [`Resource::Installation`].
    LedgerRead = "ledger.read",
}

impl Action {
    /// Whether something is drawn by it, so that facts need a [`CredentialRequest`].
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
