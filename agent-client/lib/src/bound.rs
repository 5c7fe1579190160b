//! Tasks with an identity of their own: the broker binds it to the task, and its key stays in the
//! memory of this process.
//!
//! The identity reaches its task and nothing else, and it ends with the task. A program that works
//! through it needs the identity of the agent for the start of the task only.

use std::sync::Arc;

use taskpass_core::{Identity, TaskId, Timestamp};
use taskpass_proto::v1::{X509Svid, task_service_client::TaskServiceClient};

use crate::{
    Client, EndMode, Error, RPC_TIMEOUT, Task, TaskGuard, TaskOptions,
    attest::{verified, verifies},
    directory::StoredIdentity,
    link::Link,
    renewal::When,
    svid::{PrivateKey, new_key_and_csr},
    wire,
};

/// How many starts may follow answers that came without the identity.
const RESTARTS_MAX: u32 = 3;

impl Client {
    /// Starts a task as [`Client::start_task`] does, and works on it through an identity that is
    /// bound to it: heartbeats, credentials and the end.
    ///
    /// Its key never touches the disk, and it is renewed in the background for as long as the task
    /// needs it. This client is used again only if the task has ended without the guard: the
    /// broker no longer knows the bound identity then, and the guard still reads the receipts.
    pub async fn start_bound_task(&self, options: TaskOptions) -> Result<TaskGuard, Error> {
        let mut unbound = 0;
        loop {
            let (key, csr) = new_key_and_csr()?;
            let request = options
                .clone()
                .into_request(self.new_idempotency_key()?, csr);
            let reply = self
                .send(RPC_TIMEOUT, request, |channel, request| async move {
                    TaskServiceClient::new(channel).start_task(request).await
                })
                .await?;
            let task = Task::from_wire(wire::required(reply.task, "task")?)?;
            let Some(svid) = reply.svid else {
                // The answer with the identity was lost: a repeated request gets the task alone.
                self.give_up(task.id).await;
                if unbound < RESTARTS_MAX {
                    unbound += 1;
                    continue;
                }
                return Err(Error::Reply(
                    "it has no identity for the task that it starts".to_owned(),
                ));
            };
            return match self.bind(&task, key, svid).await {
                Ok(worker) => Ok(TaskGuard::watch(task, worker, Some(self.clone()))),
                Err(error) => {
                    self.give_up(task.id).await;
                    Err(error)
                }
            };
        }
    }

    /// A client with the identity that is bound to `task`.
    async fn bind(&self, task: &Task, key: PrivateKey, svid: X509Svid) -> Result<Self, Error> {
        let now = self.config().clock.now();
        let agent = self.link_for(&svid, now).await?;
        let domain = &agent.svid.leaf.trust_domain;
        let svid = verified(key, svid, domain, &agent.roots, now)?;
        let holder = Identity::parse(svid.leaf.spiffe_id.as_str(), domain)?;
        if holder != Identity::AgentTask(task.agent.clone(), task.id) {
            return Err(Error::Reply(format!(
                "the identity `{}` is not that of the task `{}`",
                svid.leaf.spiffe_id, task.id
            )));
        }
        let identity = StoredIdentity {
            svid,
            bundle: agent.roots.clone(),
        };
        let connection = self.connection().of_task(identity, task.deadline).await?;
        Ok(Self::renewing(Arc::new(connection)))
    }

    /// The link of the agent, with a bundle by which `svid` verifies. The broker may sign under a
    /// root that is younger than the bundle: a renewal brings the bundle, and checks it.
    async fn link_for(&self, svid: &X509Svid, now: Timestamp) -> Result<Arc<Link>, Error> {
        let connection = self.connection();
        let agent = connection.link.load_full();
        if verifies(svid, &agent.svid.leaf.trust_domain, &agent.roots, now) {
            return Ok(agent);
        }
        connection.renew(When::Always).await?;
        Ok(connection.link.load_full())
    }

    /// Ends a task that cannot be worked on. If that fails, its deadline or the missing heartbeats
    /// end it.
    async fn give_up(&self, task: TaskId) {
        if let Err(error) = self.end_task(task, EndMode::Cancelled, None).await {
            tracing::warn!(%task, %error, "a task without an identity could not be ended; the broker ends it at its deadline or when heartbeats are missed");
        }
    }
}
