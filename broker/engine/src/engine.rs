//! The engine: its context, the snapshot in force, and the state of running work.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use taskpass_ca::Authority;
use taskpass_core::{Clock, Event, ProviderName, Timestamp, TrustDomain};
use taskpass_ledger::VerifyingKey;
use taskpass_metrics::Prepared;
use taskpass_store::{Batch, Committed, Guard, Priority, Store};
use tokio_util::task::TaskTracker;

use crate::{
    Call, Caller, Configuration, Context, Error, Snapshot, Timer,
    budgets::{Exceeded, Meters},
    credentials::{Ahead, InFlight, Lives, Renewals},
    folds::{EndedBefore, Folds},
    identities::RefusalLog,
    providers::Pacer,
    rate_limits::RateLimits,
    reconcile::Statuses,
    tasks::Heartbeats,
};

/// How far the wall clock may lag behind the newest ledger entry before nothing more is issued.
pub const CLOCK_LAG_MAX: Duration = Duration::from_secs(5);

/// How the broker before this one left the ledger.
#[derive(Debug, Clone, Copy)]
pub struct LastRun {
    /// The time of the newest entry.
    pub newest: Timestamp,
    /// Whether the newest entry says that it stopped in good order.
    pub stopped: bool,
}

/// The broker's use cases. Shared by all connections.
#[derive(Debug)]
pub struct Engine {
    pub(crate) context: Context,
    /// The snapshot in force. A request takes it once, in [`Engine::authenticate`], and keeps it to
    /// its end.
    snapshot: ArcSwap<Snapshot>,
    /// Held while the next snapshot is made from the present one.
    swapping: Mutex<()>,
    /// Held from the making of a configuration's snapshot to the swap, over its record in the
    /// ledger.
    pub(crate) reloading: tokio::sync::Mutex<()>,
    /// The pacers of providers that have credentials on record and are not configured.
    pub(crate) unconfigured: Mutex<BTreeMap<ProviderName, Arc<Pacer>>>,
    pub(crate) heartbeats: Heartbeats,
    pub(crate) in_flight: InFlight,
    pub(crate) ahead: Ahead,
    pub(crate) renewals: Renewals,
    pub(crate) lives: Lives,
    pub(crate) rates: RateLimits,
    pub(crate) refusals: RefusalLog,
    pub(crate) budgets: Meters,
    pub(crate) exceeded: Exceeded,
    pub(crate) folds: Folds,
    pub(crate) ended_before: EndedBefore,
    pub(crate) reconcilers: Statuses,
    /// Held over an order to the roots, on the disk and in the ledger: the next order meets what
    /// this one did.
    pub(crate) root_orders: tokio::sync::Mutex<()>,
    /// The newest committed time: a clock that falls behind it went backwards.
    newest: Mutex<Newest>,
}

impl Engine {
    /// Puts the engine together and takes up the open tasks' heartbeats, which begin anew after a
    /// restart.
    pub async fn new(
        context: Context,
        configuration: Configuration,
        last_run: LastRun,
    ) -> Result<Arc<Self>, Error> {
        let newest = Newest {
            time: last_run.newest,
            at: context.clock.monotonic(),
        };
        let snapshot = Snapshot::first(&context, configuration);
        let engine = Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            swapping: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            unconfigured: Mutex::default(),
            heartbeats: Heartbeats::new(Arc::clone(&context.clock)),
            in_flight: InFlight::default(),
            ahead: Ahead::new(newest.at, !last_run.stopped),
            renewals: Renewals::default(),
            lives: Lives::default(),
            rates: RateLimits::new(Arc::clone(&context.clock)),
            refusals: RefusalLog::default(),
            budgets: Meters::new(Arc::clone(&context.clock)),
            exceeded: Exceeded::default(),
            folds: Folds::default(),
            ended_before: EndedBefore::default(),
            reconcilers: Statuses::default(),
            root_orders: tokio::sync::Mutex::default(),
            newest: Mutex::new(newest),
            context,
        });
        for task in engine.context.store.open_tasks().await? {
            engine.heartbeats.begin(&task);
        }
        Ok(engine)
    }

    /// Puts a snapshot in force, as one. Requests that run keep the snapshot they began with.
    pub(crate) fn put_in_force(&self, next: Snapshot) {
        let _swapping = self.swapping.lock();
        self.snapshot.store(Arc::new(next));
    }

    /// The snapshot in force now. Each piece of work takes it once.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Drops retired back ends of the snapshot that the caller looked at. If another one is in
    /// force by now, a back end may have been resumed, used and retired anew: then all stay until
    /// the caller looks again.
    pub(crate) fn drop_retired(&self, looked_at: &Arc<Snapshot>, names: &[ProviderName]) {
        let _swapping = self.swapping.lock();
        if !names.is_empty() && Arc::ptr_eq(&self.snapshot.load(), looked_at) {
            self.snapshot
                .store(Arc::new(looked_at.without_retired(names)));
        }
    }

    /// The installation's trust domain.
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.context.trust_domain
    }

    /// The authority that signs SVIDs.
    pub const fn authority(&self) -> &Arc<Authority> {
        &self.context.authority
    }

    /// The key with which the ledger's checkpoints are verified.
    pub fn ledger_key(&self) -> &VerifyingKey {
        self.context.roots_signer.verifying_key()
    }

    /// Counts a request against its caller's rate.
    pub fn check_rate(&self, call: &Call) -> Result<(), Error> {
        let settings = call.snapshot.settings();
        match &call.caller {
            Caller::Agent { agent, .. } => self.rates.check_agent(settings, &agent.name),
            Caller::Operator { name, .. } => self.rates.check_operator(settings, name),
        }
    }

    /// Where the time comes from.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.context.clock
    }

    /// How reconcilers wait.
    pub(crate) const fn timer(&self) -> &Arc<dyn Timer> {
        &self.context.timer
    }

    /// The store, for authentication and reconcilers.
    pub(crate) const fn store(&self) -> &Arc<dyn Store> {
        &self.context.store
    }

    /// Where background work is spawned.
    pub(crate) const fn tasks(&self) -> &TaskTracker {
        &self.context.tasks
    }

    /// The time for decisions: the wall clock, but never before the newest ledger entry. While the
    /// wall clock lags behind that, the monotonic clock carries the time on, since retries and
    /// deadlines must still come due. The same holds while the wall clock is in doubt, by the
    /// clock's own rules.
    pub(crate) fn now(&self) -> Timestamp {
        let clock = &self.context.clock;
        clock
            .now()
            .max(self.newest.lock().flowed(clock.monotonic()))
    }

    /// Refuses to mint while the ledger is known to be damaged, or the clock is not right.
    pub(crate) fn require_sound(&self) -> Result<Timestamp, Error> {
        if let Some(at) = self.context.ledger.damage() {
            return Err(Error::LedgerDamaged(Box::new(at.into())));
        }
        self.require_sane_clock()
    }

    /// Refuses while the clock is in doubt, or behind the newest ledger entry: lifetimes would be
    /// computed from a wrong time.
    pub(crate) fn require_sane_clock(&self) -> Result<Timestamp, Error> {
        if let Some(doubt) = self.context.clock.doubt() {
            return Err(Error::ClockInDoubt(doubt));
        }
        let clock = self.context.clock.now();
        let ledger = self.newest.lock().time;
        if ledger.since(clock) > CLOCK_LAG_MAX {
            return Err(Error::ClockWentBack { clock, ledger });
        }
        Ok(clock.max(ledger))
    }

    /// Commits events that issue a thing; the store refuses them when the disk is full.
    pub(crate) async fn commit(
        &self,
        events: Vec<Event>,
        guards: Vec<Guard>,
    ) -> Result<Committed, Error> {
        self.commit_with(events, guards, Priority::Normal).await
    }

    /// Commits revocations and ends, which may use the reserve of a full disk.
    pub(crate) async fn commit_reserved(
        &self,
        events: Vec<Event>,
        guards: Vec<Guard>,
    ) -> Result<Committed, Error> {
        self.commit_with(events, guards, Priority::Reserved).await
    }

    pub(crate) async fn commit_with(
        &self,
        events: Vec<Event>,
        guards: Vec<Guard>,
        priority: Priority,
    ) -> Result<Committed, Error> {
        let counted = self.context.metrics.events.prepare(&events);
        let batch = Batch {
            events,
            guards,
            priority,
        };
        let committed = self.context.store.commit(batch).await?;
        self.note_committed(&committed, counted);
        if priority == Priority::Normal {
            self.ahead.took_intent(true);
        }
        Ok(committed)
    }

    /// Events are durable.
    pub(crate) fn note_committed(&self, committed: &Committed, counted: Prepared) {
        counted.committed();
        self.newest
            .lock()
            .advance(committed.time, self.context.clock.monotonic());
    }
}

/// The newest time the ledger has, and when that was on the monotonic clock.
#[derive(Debug, Clone, Copy)]
struct Newest {
    time: Timestamp,
    at: Duration,
}

impl Newest {
    fn flowed(&self, monotonic: Duration) -> Timestamp {
        self.time.plus(monotonic.saturating_sub(self.at))
    }

    /// A time that the ledger repeats, because the wall clock lags, is no news.
    fn advance(&mut self, time: Timestamp, monotonic: Duration) {
        if time > self.time {
            *self = Self {
                time,
                at: monotonic,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use taskpass_core::{CredentialState, TaskId};

    use super::*;
    use crate::{
        EndTask, Ending, Settings,
        testing::{Bench, Fake, NOW, builder_name},
    };

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    const YEARS: Duration = Duration::from_secs(5 * 365 * 86_400);

    async fn refused(bench: &Bench, fake: &Arc<Fake>, task: TaskId) -> Error {
        let issuing = bench.begin(fake, task).await;
        issuing.await.unwrap().unwrap_err()
    }

    #[tokio::test]
    async fn a_clock_that_ran_away_stops_issuing_and_not_revoking() {
        for jumped in [HOUR, DAY, YEARS]
            .into_iter()
            .flat_map(|far| [NOW.plus(far), NOW.minus(far)])
        {
            let bench = Bench::new(&["a"], Settings::default()).await;
            let (engine, fake) = (&bench.engine, &bench.fakes[0]);
            let task = bench.task().await;
            let id = bench.issued(fake, task, HOUR / 2).await.id;
            engine.rotate_authority().await.unwrap();
            let authorities = engine.authority().authorities();

            bench.clock.set(jumped);
            let error = refused(&bench, fake, task).await;
            assert!(matches!(error, Error::ClockInDoubt(_)), "{error}");
            assert!(error.message().contains("taskpassd clock accept"));
            engine.rotate_authority().await.unwrap();
            assert_eq!(engine.authority().authorities(), authorities);
            // Nothing is over because the clock says so.
            engine.reap().await.unwrap();
            assert_eq!(bench.credential(id).await.state, CredentialState::Active);

            fake.revokes.add_permits(9);
            let end = EndTask {
                task,
                how: Ending::Complete,
                wait: Some(Duration::from_millis(1)),
            };
            engine.end_task(&bench.agent, &end).await.unwrap();
            let name = "a".parse().unwrap();
            let permit = engine.revoke_permit(&name, &builder_name(), true).unwrap();
            engine
                .revoke_group(&name, task, &[id], permit)
                .await
                .unwrap();
            let credential = bench.credential(id).await;
            assert_eq!(credential.state, CredentialState::RevokedVerified);
            let done = credential.revocation.clone().unwrap().done_at.unwrap();
            assert_eq!(done, NOW, "after a jump to {jumped}");

            // The clock is set right, and the broker goes on by itself.
            bench.clock.set(NOW);
            let task = bench.task().await;
            bench.issued(fake, task, HOUR / 2).await;
        }
    }

    /// A minute back is within what time servers do. Issuing waits for that minute, without a
    /// commit that would show the time.
    #[tokio::test]
    async fn a_clock_a_minute_behind_the_ledger_is_waited_for() {
        let bench = Bench::new(&["a"], Settings::default()).await;
        let (fake, task) = (&bench.fakes[0], bench.task().await);
        let minute = Duration::from_secs(60);
        bench.clock.set(NOW.minus(minute));
        let error = refused(&bench, fake, task).await;
        assert!(matches!(error, Error::ClockWentBack { .. }), "{error}");
        bench.clock.advance(minute);
        assert_eq!(bench.engine.require_sane_clock().unwrap(), NOW);
        bench.issued(fake, task, HOUR / 2).await;
    }

    #[test]
    fn time_flows_on_while_the_wall_clock_lags() {
        let (day, second) = (Duration::from_secs(86_400), Duration::from_secs(1));
        let tomorrow = Timestamp::EPOCH.plus(day);
        let mut newest = Newest {
            time: tomorrow,
            at: second,
        };
        assert_eq!(newest.flowed(second * 3), tomorrow.plus(second * 2));
        newest.advance(tomorrow, second * 5);
        assert_eq!(newest.flowed(second * 6), tomorrow.plus(second * 5));
        newest.advance(tomorrow.plus(day), second * 7);
        assert_eq!(newest.flowed(second * 7), tomorrow.plus(day));
    }
}
