//! Agents, their join tokens, and the SVIDs that were issued to them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Actor, AgentName, Digest, Identity, InvalidValue, JoinTokenId, LabelKey, Owner, RootNumber,
    SpiffeId, TaskId, Text, Timestamp, limits,
};

/// Labels of an agent or a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(BTreeMap<LabelKey, Text>);

impl Labels {
    /// Reads `key=value` pairs; refuses duplicates and more than [`limits::LABELS_MAX`].
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, InvalidValue> {
        let mut labels = BTreeMap::new();
        for (key, value) in pairs {
            let key: LabelKey = key.as_ref().parse()?;
            if labels
                .insert(key.clone(), value.as_ref().parse()?)
                .is_some()
            {
                return Err(InvalidValue::new(format!("label `{key}` is given twice")));
            }
        }
        if labels.len() > limits::LABELS_MAX {
            return Err(InvalidValue::new(format!(
                "at most {} labels are possible",
                limits::LABELS_MAX
            )));
        }
        Ok(Self(labels))
    }

    /// All labels in order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }
}

/// Where an agent stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It may attest and work.
    #[default]
    Active,
    /// A person or the broker stopped it. A person may release it.
    Frozen,
    /// It never works again, and its name is never given out again.
    Retired,
}

impl AgentState {
    /// The word used in the API, the ledger and the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Frozen => "frozen",
            Self::Retired => "retired",
        }
    }

    const fn is_active(&self) -> bool {
        matches!(self, Self::Active)
    }
}

/// How an agent came into its present state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentChange {
    /// When.
    pub at: Timestamp,
    /// The actor that changed it.
    pub by: Actor,
    /// Why, in the actor's words.
    pub reason: Text,
}

/// A registered AI workload and the person who answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Unique name.
    pub name: AgentName,
    /// The person who answers for it.
    pub owner: Owner,
    /// The owner's team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub team: Option<AgentName>,
    /// Its kind; policies speak about classes of agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<AgentName>,
    /// Free labels.
    #[serde(default)]
    pub labels: Labels,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// The operator that registered it.
    pub registered_by: SpiffeId,
    /// Where it stands.
    #[serde(default, skip_serializing_if = "AgentState::is_active")]
    pub state: AgentState,
    /// How it came into its state; absent until the first change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<AgentChange>,
    /// Whether its owner left. It stays frozen until another person answers for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub owner_departed: bool,
}

/// A single-use token that an agent attests with the first time. Only a digest of its secret is
/// kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Names the token in lists and in the ledger.
    pub id: JoinTokenId,
    /// The agent that may attest with it.
    pub agent: AgentName,
    /// SHA-256 of the secret part, in hex.
    pub secret_sha256: String,
    /// Until when it can be used.
    pub expires_at: Timestamp,
    /// The operator that made it.
    pub created_by: SpiffeId,
    /// The root whose fingerprint it carries.
    #[serde(default, skip_serializing_if = "RootNumber::is_first")]
    pub root: RootNumber,
}

/// Whether an issued SVID counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SvidState {
    /// Issued, not used yet. The SVID before it still counts, so that an agent can go on if the
    /// reply with the new one was lost.
    Pending,
    /// In use.
    Active,
}

/// How the holder of an SVID came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SvidOrigin {
    /// An agent logged in with a join token. The first use of the SVID ends everything that the
    /// earlier identity of the agent had.
    Login,
    /// The holder renewed an SVID.
    Renewal,
    /// An agent started the task that the SVID is bound to.
    Task,
    /// `taskpassd init` or `taskpassd operator issue` made it on the broker's own machine.
    Machine,
}

/// An X.509-SVID that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Svid {
    /// The certificate's serial number as 32 hex digits.
    pub serial: String,
    /// The agent it belongs to.
    pub agent: AgentName,
    /// The task it is bound to, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// SHA-256 of the public key (SubjectPublicKeyInfo), in hex.
    pub key_sha256: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// Whether it counts already.
    pub state: SvidState,
    /// The root that its chain ends in.
    #[serde(default, skip_serializing_if = "RootNumber::is_first")]
    pub root: RootNumber,
}

impl Svid {
    /// The identity in the certificate.
    pub fn identity(&self) -> Identity {
        match self.task {
            None => Identity::Agent(self.agent.clone()),
            Some(task) => Identity::AgentTask(self.agent.clone(), task),
        }
    }
}

impl JoinToken {
    /// The digest by which the secret part of a token is recognised; the secret is not kept.
    pub fn digest_of(secret: &[u8]) -> String {
        Digest::of(secret).to_string()
    }
}
