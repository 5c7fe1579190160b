//! Roots, and what hangs on each: SVIDs with a chain that ends in it, and unused join tokens that
//! carry its fingerprint. A root is not retired before nothing hangs on it, unless a person says
//! so; then all of it ends with the root, and with it every task of an agent that has no other
//! SVID.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use taskpass_core::{
    Actor, AgentName, EndCause, Event, Identity, RecordedRoot, RootCertificate, RootNumber,
    RootStage, Timestamp,
};

use super::{
    Change, State,
    refusal::{Refusal, wrong},
    table::Table,
};
use crate::{
    JoinTokenRecord, RootUse, SvidRecord,
    index::{IndexError, LiveRows, Rows, Value, id_in, record},
};

/// Where the index keeps roots, by number.
const ROOT: &str = "ro/";

/// Roots as the ledger has them, by number.
pub(crate) enum Roots {}

impl Table for Roots {
    type Key = RootNumber;
    type Record = RecordedRoot;

    const ROWS: Option<&'static str> = Some(ROOT);

    fn set(
        state: &mut State,
        number: &RootNumber,
        root: Option<&Arc<RecordedRoot>>,
    ) -> Option<Arc<RecordedRoot>> {
        match root {
            Some(root) => state.roots.insert(*number, Arc::clone(root)),
            None => state.roots.remove(number),
        }
    }

    fn rows<'a>(number: &'a RootNumber, root: Option<&'a RecordedRoot>, rows: &mut Rows<'a>) {
        rows.put(record(ROOT, number), Value::of(root));
    }

    fn all(state: &State) -> impl Iterator<Item = (RootNumber, Arc<RecordedRoot>)> {
        let all = state.roots.iter();
        all.map(|(key, record)| (*key, Arc::clone(record)))
    }

    fn load(rows: &LiveRows<'_>, state: &mut State) -> Result<(), IndexError> {
        let mut found = Vec::new();
        rows.each_record(ROOT, |name, root: Arc<RecordedRoot>| {
            found.push((id_in(name, ROOT)?, root));
            Ok(())
        })?;
        state.roots.extend(found);
        Ok(())
    }
}

impl State {
    /// Every root that the ledger names.
    pub(crate) fn recorded_roots(&self) -> BTreeMap<RootNumber, RecordedRoot> {
        let roots = self.roots.iter();
        roots
            .map(|(number, root)| (*number, root.as_ref().clone()))
            .collect()
    }

    fn root_stage(&self, root: RootNumber) -> Option<RootStage> {
        self.roots.get(&root).map(|root| root.stage)
    }

    /// The root that the installation was made with: it signs from then on.
    pub(super) fn first_root(certificate: &RootCertificate) -> Change {
        let root = RecordedRoot {
            stage: RootStage::Active,
            certificate: certificate.clone(),
        };
        Change::Root(RootNumber::FIRST, Some(Arc::new(root)))
    }

    /// What hangs on a root at `now`.
    pub(crate) fn root_use(&self, root: RootNumber, now: Timestamp) -> RootUse {
        let mut found = RootUse::default();
        for svid in self.svids_on(root) {
            if self.live_svid(&svid.serial, now).is_none() {
                continue;
            }
            found.last_end = found.last_end.max(svid.not_after);
            match &svid.holder {
                Identity::Agent(name) => drop(found.agents.insert(name.clone())),
                Identity::AgentTask(_, task) => drop(found.tasks.insert(*task)),
                Identity::Operator(name) => {
                    let end = found.operators.entry(name.clone()).or_default();
                    *end = svid.not_after.max(*end);
                }
                Identity::Broker(_) => {}
            }
        }
        for record in self.tokens_on(root, now) {
            found.join_tokens = found.join_tokens.saturating_add(1);
            found.last_end = found.last_end.max(record.token.expires_at);
        }
        found
    }

    pub(super) fn admit_root(
        &self,
        (root, stage): (RootNumber, RootStage),
        certificate_sha256: &str,
        forced: bool,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if let Some(before) = self.roots.get(&root) {
            if before.stage >= stage {
                return wrong(format!("root {root}"), before.stage.as_str());
            }
            if before.certificate.certificate_sha256 != certificate_sha256 {
                return wrong(format!("root {root}"), "on record with another certificate");
            }
        }
        // A renewal may have put something on record since the caller looked.
        if stage == RootStage::Retired && !forced && !self.root_use(root, now).is_empty() {
            return wrong(format!("root {root}"), "in use");
        }
        Ok(())
    }

    /// Refuses what was signed before its root was retired and is recorded after it.
    pub(super) fn root_not_retired(&self, root: RootNumber) -> Result<(), Refusal> {
        match self.root_stage(root) {
            Some(RootStage::Retired) => wrong(format!("root {root}"), "retired"),
            _ => Ok(()),
        }
    }

    /// The changes by a step of a root. With a retired root ends everything that hangs on it.
    pub(super) fn root_moved(&self, root: RootNumber, to: RecordedRoot) -> Vec<Change> {
        let stage = to.stage;
        let mut changes = vec![Change::Root(root, Some(Arc::new(to)))];
        if stage == RootStage::Retired {
            let svids = self.svids_on(root);
            changes.extend(svids.map(|svid| Change::Svid(svid.serial.clone(), None)));
            let tokens = self.tokens_on(root, Timestamp::EPOCH);
            changes.extend(tokens.map(|record| {
                let mut withdrawn = record.as_ref().clone();
                withdrawn.withdrawn = true;
                Change::Token(record.token.id, Some(Arc::new(withdrawn)))
            }));
        }
        changes
    }

    /// The events that the retirement of a root brings along: the end of every open task of an
    /// agent that loses its last SVID with it. Such an agent cannot end a task itself, and a thief
    /// of the root's identities may have opened any of them.
    pub(super) fn root_cascade(
        &self,
        root: RootNumber,
        stage: RootStage,
        now: Timestamp,
    ) -> Vec<Event> {
        if stage != RootStage::Retired {
            return Vec::new();
        }
        let mut cut_off = BTreeSet::new();
        for svid in self.svids_on(root) {
            if let Identity::Agent(name) | Identity::AgentTask(name, _) = &svid.holder
                && self.live_svid(&svid.serial, now).is_some()
                && !self.has_svid_beside(root, name, now)
            {
                cut_off.insert(name.clone());
            }
        }
        let ending = |name| self.tasks_ending(name, EndCause::IdentityReplaced, &Actor::Broker);
        let mut events: Vec<Event> = cut_off.iter().flat_map(ending).collect();
        // A task may be below a task of another agent that ends here, too.
        let mut seen = (BTreeSet::new(), BTreeSet::new());
        events.retain(|event| {
            if let Event::TaskEnding { task, .. } = event {
                seen.0.insert(*task)
            } else if let Event::CredentialRevoking { credential, .. } = event {
                seen.1.insert(*credential)
            } else {
                true
            }
        });
        events
    }

    /// Whether an agent has an SVID for itself on another root.
    fn has_svid_beside(&self, root: RootNumber, name: &AgentName, now: Timestamp) -> bool {
        let holder = Identity::Agent(name.clone());
        let on_other_root = |serial: &str| {
            let live = self.live_svid(serial, now);
            live.is_some_and(|svid| svid.root != root)
        };
        self.serials_of(&holder).any(on_other_root)
    }

    fn svids_on(&self, root: RootNumber) -> impl Iterator<Item = &Arc<SvidRecord>> {
        self.svids.values().filter(move |svid| svid.root == root)
    }

    /// The join tokens on a root that are neither used nor withdrawn, and that end after `now`.
    fn tokens_on(
        &self,
        root: RootNumber,
        now: Timestamp,
    ) -> impl Iterator<Item = &Arc<JoinTokenRecord>> {
        self.tokens.values().filter(move |record| {
            let usable = !record.used && !record.withdrawn && record.token.expires_at > now;
            usable && record.token.root == root
        })
    }
}
