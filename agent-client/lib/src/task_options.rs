//! The options a task is started with.

use std::collections::BTreeMap;

use taskpass_core::{RoleName, Scope, TaskId, Ttl};
use taskpass_proto::v1::{StartTaskRequest, TaskRole};

use crate::wire;

/// The options a task is started with.
#[derive(Debug, Clone, Default)]
pub struct TaskOptions {
    purpose: String,
    requester: String,
    roles: Vec<(RoleName, Scope)>,
    ttl: Option<Ttl>,
    heartbeat: Option<Ttl>,
    parent: Option<TaskId>,
    labels: BTreeMap<String, String>,
    max_credentials: u32,
}

impl TaskOptions {
    /// A task for `purpose`, one line that people read.
    pub fn new(purpose: impl Into<String>) -> Self {
        Self {
            purpose: purpose.into(),
            ..Self::default()
        }
    }

    /// Asks for the right to have credentials of `role` issued.
    #[must_use]
    pub fn role(self, role: RoleName) -> Self {
        self.role_within(role, Scope::default())
    }

    /// As [`TaskOptions::role`], with scope parameters fixed for the whole task.
    #[must_use]
    pub fn role_within(mut self, role: RoleName, scope: Scope) -> Self {
        self.roles.push((role, scope));
        self
    }

    /// The task ends by itself after `ttl`; after the broker's default when not given.
    #[must_use]
    pub const fn ttl(mut self, ttl: Ttl) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The task ends when no heartbeat comes for `interval`. Its guard sends three in that time.
    #[must_use]
    pub const fn heartbeat(mut self, interval: Ttl) -> Self {
        self.heartbeat = Some(interval);
        self
    }

    /// The task is delegated by `parent` and ends with it.
    #[must_use]
    pub const fn parent(mut self, parent: TaskId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Names the person or system that asked for the work. The broker records it as self-declared.
    #[must_use]
    pub fn requester(mut self, requester: impl Into<String>) -> Self {
        self.requester = requester.into();
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Allows at most `count` live credentials at once; the broker's limit when not given.
    #[must_use]
    pub const fn max_credentials(mut self, count: u32) -> Self {
        self.max_credentials = count;
        self
    }

    /// The request, with the signing request of an identity that is bound to the task, or empty.
    pub(crate) fn into_request(self, idempotency_key: String, csr: Vec<u8>) -> StartTaskRequest {
        let roles = self.roles.into_iter().map(|(role, scope)| TaskRole {
            role: role.to_string(),
            scope: wire::pairs(&scope),
        });
        StartTaskRequest {
            idempotency_key,
            purpose: self.purpose,
            requester: self.requester,
            roles: roles.collect(),
            ttl_seconds: self.ttl.map_or(0, Ttl::seconds),
            heartbeat_seconds: self.heartbeat.map_or(0, Ttl::seconds),
            parent: self.parent.map(|id| id.to_string()).unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
            max_credentials: self.max_credentials,
            csr,
        }
    }
}
