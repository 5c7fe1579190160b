//! The port to the open connections of agents. The transport fills it.

use std::fmt;

use taskpass_core::AgentName;

/// The open connections.
pub trait Connections: fmt::Debug + Send + Sync {
    /// Closes every open connection of an agent and its tasks at once, with the requests on it.
    /// Returns how many there were. The store refuses the agent before this is called, so a later
    /// connection gets nothing.
    fn cut_agent(&self, name: &AgentName) -> usize;
}

/// No connections: for an engine that no transport serves.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoConnections;

impl Connections for NoConnections {
    fn cut_agent(&self, _name: &AgentName) -> usize {
        0
    }
}
