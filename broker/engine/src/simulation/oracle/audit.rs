//! The rules for each kind of entry at the time when it is made.

use taskpass_core::{
    Credential, CredentialId, CredentialState, CredentialStep, Task, TaskId, TaskState, Timestamp,
    limits,
};

use super::{
    RETRY_MAX_MS,
    book::{Book, CredentialPage, TaskPage, keeps, names, permits},
};

type Checked = Result<(), String>;

impl Book {
    pub(super) fn task_started(&mut self, task: &Task, time: Timestamp) -> Checked {
        let id = task.id;
        let allowed = |role| {
            let mut all = self.allowed.iter();
            all.any(|d| permits(d, "task.start", &task.agent) && names(d, role))
        };
        if self.allowed.is_empty() || !task.roles.keys().all(allowed) {
            return Err(format!(
                "4: task `{id}` was started without a permission for each role"
            ));
        }
        if task.deadline <= time {
            return Err(format!("5: task `{id}` was started after its deadline"));
        }
        if let Some(parent) = task.parent {
            self.below(task, parent, time)?;
        }
        let page = TaskPage {
            task: task.clone(),
            state: TaskState::Open,
            started: self.index(),
            ending: None,
        };
        self.tasks.insert(id, page);
        Ok(())
    }

    /// A child is never wider than its parent.
    fn below(&self, task: &Task, parent: TaskId, time: Timestamp) -> Checked {
        let wider = |what: &str| {
            Err(format!(
                "8: task `{}` is wider than its parent: {what}",
                task.id
            ))
        };
        let Some(above) = self.tasks.get(&parent) else {
            return wider("there is none");
        };
        if above.state != TaskState::Open || above.task.deadline <= time {
            return wider("it has ended");
        }
        if above.task.agent != task.agent {
            return wider("it is another agent's");
        }
        for (role, pins) in &task.roles {
            match above.task.roles.get(role) {
                Some(fixed) if keeps(pins, fixed) => {}
                _ => return wider("a role"),
            }
        }
        if task.deadline > above.task.deadline
            || task.max_credentials > above.task.max_credentials
            || task.depth != above.task.depth + 1
            || task.depth > limits::TASK_DEPTH_MAX
        {
            return wider("deadline, number or depth");
        }
        Ok(())
    }

    pub(super) fn task_ending(&mut self, id: TaskId) -> Checked {
        let index = self.index();
        match self.tasks.get_mut(&id) {
            Some(page) if page.state == TaskState::Open => {
                page.state = TaskState::Ending;
                page.ending = Some(index);
                Ok(())
            }
            _ => Err(format!("7: task `{id}` ends twice, or never began")),
        }
    }

    pub(super) fn task_ended(&mut self, id: TaskId) -> Checked {
        let alive = self
            .credentials
            .values()
            .any(|c| c.task == id && !c.state.is_final());
        let below = self.tasks.values();
        let below = below.filter(|t| t.task.parent == Some(id));
        let open_below = below.into_iter().any(|t| t.state != TaskState::Ended);
        let anchored = self
            .anchors
            .values()
            .any(|anchor| anchor.task == id && anchor.is_live);
        match self.tasks.get_mut(&id) {
            Some(page) if page.state == TaskState::Ending && !alive && !open_below && !anchored => {
                page.state = TaskState::Ended;
                Ok(())
            }
            _ => Err(format!(
                "7: task `{id}` is called ended while something of it may live"
            )),
        }
    }

    pub(super) fn intended(&mut self, credential: &Credential, time: Timestamp) -> Checked {
        let (id, role) = (credential.id, &credential.role);
        let mut allowed = self.allowed.iter();
        let permitted =
            allowed.any(|d| permits(d, "credential.issue", &credential.agent) && names(d, role));
        if !permitted || role.name() == "rule" {
            return Err(format!(
                "4: `{id}` of role `{role}` is intended without a permission"
            ));
        }
        let Some(page) = self.tasks.get(&credential.task) else {
            return Err(format!("7: `{id}` hangs on no task"));
        };
        let task = &page.task;
        if page.state != TaskState::Open || task.deadline <= time {
            return Err(format!("4: `{id}` is intended although its task has ended"));
        }
        let within = task.agent == credential.agent
            && credential.expires_at <= task.deadline
            && task
                .roles
                .get(role)
                .is_some_and(|pins| keeps(&credential.scope, pins));
        if !within {
            return Err(format!("8: `{id}` is wider than its task"));
        }
        let page = CredentialPage {
            agent: credential.agent.clone(),
            task: credential.task,
            state: CredentialState::Intended,
            intended: (self.index(), time),
            issued_at: None,
            revoking: None,
            attempts: 0,
            renewals: 0,
            may_live_until: None,
        };
        match self.credentials.insert(id, page) {
            None => Ok(()),
            Some(_) => Err(format!("1: `{id}` is intended twice")),
        }
    }

    pub(super) fn credential_step(
        &mut self,
        id: CredentialId,
        step: &CredentialStep<'_>,
        time: Timestamp,
    ) -> Checked {
        use CredentialState::{
            Abandoned, Active, Expired, Intended, RevokedUnverified, RevokedVerified, Revoking,
        };
        let (index, allowed) = (self.index(), !self.allowed.is_empty());
        let any_pause = self.clock_was_wrong;
        let Some(page) = self.credentials.get_mut(&id) else {
            return Err(format!("1: `{id}` was never intended"));
        };
        let before = page.state;
        let fits = match *step {
            CredentialStep::Issued { .. } => {
                page.issued_at = Some(index);
                if before == Intended {
                    page.state = Active;
                }
                matches!(before, Intended | Revoking)
            }
            CredentialStep::Abandoned { .. } => {
                page.state = Abandoned;
                page.issued_at.is_none() && matches!(before, Intended | Revoking)
            }
            CredentialStep::RenewIntended { .. } => {
                page.renewals += 1;
                before == Active && allowed
            }
            CredentialStep::Renewed { .. } => page.is_renewed(before),
            CredentialStep::Revoking { .. } => {
                page.state = Revoking;
                page.revoking = Some(index);
                matches!(before, Intended | Active)
            }
            CredentialStep::RevokeFailed {
                attempt, retry_at, ..
            } => {
                let follows = attempt == page.attempts + 1;
                page.attempts = attempt;
                let pause = retry_at.millis() - time.millis();
                before == Revoking && follows && (any_pause || pause <= RETRY_MAX_MS)
            }
            CredentialStep::Revoked {
                verified,
                proof,
                may_live_until,
                identity_until: _,
            } => {
                page.state = if verified {
                    RevokedVerified
                } else {
                    RevokedUnverified
                };
                page.may_live_until = may_live_until;
                before == Revoking && (!verified || !proof.trim().is_empty())
            }
            CredentialStep::Expired => {
                page.state = Expired;
                matches!(before, Active | Revoking)
            }
            // `intended` has checked it.
            CredentialStep::Intended { .. } => true,
        };
        if fits {
            return Ok(());
        }
        Err(format!(
            "3, 10: `{id}` is {} and cannot be {step:?}",
            before.as_str()
        ))
    }

    /// Whether the caller with this SVID may hold the secret of this credential.
    pub(super) fn may_be_delivered(&self, id: CredentialId, serial: &str) -> Checked {
        let Some(page) = self.credentials.get(&id) else {
            return Err(format!("1: `{id}` was handed out and never intended"));
        };
        let Some(issued) = page.issued_at else {
            return Err(format!(
                "2: `{id}` was handed out before its outcome was on record"
            ));
        };
        let (intended, time) = page.intended;
        if !self.counted(serial, intended, time) {
            return Err(format!(
                "4: `{id}` was handed out to a caller that does not count"
            ));
        }
        if page.revoking.is_some_and(|at| at < issued) {
            return Err(format!(
                "4: `{id}` was handed out although it was being revoked"
            ));
        }
        Ok(())
    }
}
