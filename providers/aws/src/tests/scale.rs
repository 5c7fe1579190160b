//! The writer of a deny list over many tasks, with a policy store in memory.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use taskpass_core::{AgentName, ManualClock, SeededEntropy, Share, TaskId, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    deny_list::{CLOCK_MARGIN, Mark},
    iam::{Found, PolicyStore, Room},
    revoker::RoleDenyList,
};

/// IAM reduced to one inline policy and its limit.
#[derive(Debug, Default)]
pub(super) struct MemoryIam {
    pub(super) document: Mutex<Option<String>>,
    pub(super) writes: AtomicUsize,
    pub(super) limit: AtomicUsize,
    pub(super) down: Mutex<bool>,
    /// IAM's own clock; without it the answers have no date.
    pub(super) clock: Mutex<Option<Arc<ManualClock>>>,
}

#[async_trait]
impl PolicyStore for MemoryIam {
    async fn read(&self, _role: &str) -> Result<Found, ProviderError> {
        if *self.down.lock() {
            return Err(ProviderError::retryable("down"));
        }
        let clock = self.clock.lock().clone();
        Ok(Found {
            document: self.document.lock().clone(),
            at: clock.map(|clock| taskpass_core::Clock::now(&*clock)),
        })
    }

    async fn write(&self, _role: &str, document: &str) -> Result<Room, ProviderError> {
        // Other tasks run meanwhile, as during a real write.
        tokio::task::yield_now().await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        let limit = self.limit.load(Ordering::SeqCst);
        if limit > 0 && document.len() > limit {
            return Ok(Room::TooLittle);
        }
        *self.document.lock() = Some(document.to_owned());
        Ok(Room::Enough)
    }
}

/// The ids that a document denies exactly.
pub(super) fn exact_ids(document: &str) -> BTreeSet<String> {
    document
        .split('"')
        .filter(|part| part.parse::<TaskId>().is_ok())
        .map(str::to_owned)
        .collect()
}

fn builder() -> AgentName {
    "builder".parse().unwrap()
}

fn start() -> (Arc<ManualClock>, SeededEntropy, Arc<MemoryIam>) {
    let now: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    let clock = Arc::new(ManualClock::new(now));
    let iam = MemoryIam::default();
    *iam.clock.lock() = Some(clock.clone());
    (clock, SeededEntropy::new(5), Arc::new(iam))
}

pub(super) fn list(
    iam: &Arc<MemoryIam>,
    clock: &Arc<ManualClock>,
    characters_max: usize,
) -> RoleDenyList {
    let share = Share::percent(50);
    RoleDenyList::new(
        "r".to_owned(),
        iam.clone(),
        clock.clone(),
        characters_max,
        share,
    )
}

#[tokio::test]
async fn over_five_thousand_tasks_the_list_is_exact_pruned_and_within_its_limit() {
    let (clock, entropy, iam) = start();
    let list = list(&iam, &clock, 8192);
    let life = Duration::from_secs(900);
    let mut wanted: Vec<(String, Timestamp)> = Vec::new();
    let mut largest = 0;
    for _ in 0..1000 {
        let mut marks = Vec::new();
        for _ in 0..5 {
            clock.advance(Duration::from_secs(3));
            let task = TaskId::generate(&*clock, &entropy).unwrap();
            let end = taskpass_core::Clock::now(&*clock).plus(life);
            marks.push((Mark::Task(task), end));
            wanted.push((task.to_string(), end.plus(CLOCK_MARGIN)));
        }
        let now = taskpass_core::Clock::now(&*clock);
        assert_eq!(list.deny(&builder(), &marks).await.unwrap().windows.all, 0);
        wanted.retain(|(_, until)| *until > now);
        let document = iam.document.lock().clone().unwrap();
        let ids: BTreeSet<String> = wanted.iter().map(|(id, _)| id.clone()).collect();
        assert_eq!(exact_ids(&document), ids);
        largest = largest.max(document.len());
    }
    assert!(largest <= 8192, "{largest}");
    clock.advance(life + CLOCK_MARGIN);
    list.refresh().await.unwrap();
    assert!(exact_ids(&iam.document.lock().clone().unwrap()).is_empty());
    let writes = iam.writes.load(Ordering::SeqCst);
    list.refresh().await.unwrap();
    assert_eq!(
        iam.writes.load(Ordering::SeqCst),
        writes,
        "nothing changed, nothing written"
    );
}

#[tokio::test]
async fn revocations_that_come_together_are_written_together() {
    let (clock, entropy, iam) = start();
    let list = Arc::new(list(&iam, &clock, 10_240));
    let end = taskpass_core::Clock::now(&*clock).plus(Duration::from_secs(900));
    let tasks: Vec<TaskId> = (0..400)
        .map(|_| TaskId::generate(&*clock, &entropy).unwrap())
        .collect();
    let running: Vec<_> = tasks
        .iter()
        .map(|task| {
            let (list, task) = (list.clone(), *task);
            tokio::spawn(async move { list.deny(&builder(), &[(Mark::Task(task), end)]).await })
        })
        .collect();
    for outcome in running {
        outcome.await.unwrap().unwrap();
    }
    let ids: BTreeSet<String> = tasks.iter().map(ToString::to_string).collect();
    assert_eq!(exact_ids(&iam.document.lock().clone().unwrap()), ids);
    let writes = iam.writes.load(Ordering::SeqCst);
    assert!(writes <= 4, "{writes} writes");
}

#[tokio::test]
async fn a_failed_write_fails_all_that_wait_and_the_next_has_their_ids() {
    let (clock, entropy, iam) = start();
    let list = list(&iam, &clock, 8192);
    let end = taskpass_core::Clock::now(&*clock).plus(Duration::from_secs(900));
    let lost = TaskId::generate(&*clock, &entropy).unwrap();
    *iam.down.lock() = true;
    assert!(
        list.deny(&builder(), &[(Mark::Task(lost), end)])
            .await
            .unwrap_err()
            .is_retryable()
    );
    *iam.down.lock() = false;
    list.refresh().await.unwrap();
    assert!(exact_ids(&iam.document.lock().clone().unwrap()).contains(&lost.to_string()));
}

#[tokio::test]
async fn a_call_that_is_cancelled_loses_nothing() {
    let (clock, entropy, iam) = start();
    let list = list(&iam, &clock, 8192);
    let end = taskpass_core::Clock::now(&*clock).plus(Duration::from_secs(900));
    let cut = TaskId::generate(&*clock, &entropy).unwrap();
    {
        let marks = [(Mark::Task(cut), end)];
        let builder = builder();
        let mut deny = Box::pin(list.deny(&builder, &marks));
        // Polled once, up to the write, and then dropped.
        tokio::select! { biased; _ = &mut deny => panic!("finished"), () = std::future::ready(()) => {} }
    }
    let next = TaskId::generate(&*clock, &entropy).unwrap();
    list.deny(&builder(), &[(Mark::Task(next), end)])
        .await
        .unwrap();
    let ids = exact_ids(&iam.document.lock().clone().unwrap());
    assert!(ids.contains(&cut.to_string()) && ids.contains(&next.to_string()));
}

#[tokio::test]
async fn two_brokers_on_one_role_keep_each_others_ids() {
    let (clock, entropy, iam) = start();
    let (one, two) = (list(&iam, &clock, 8192), list(&iam, &clock, 8192));
    let end = taskpass_core::Clock::now(&*clock).plus(Duration::from_secs(900));
    let mut all = BTreeSet::new();
    for broker in [&one, &two, &one, &two] {
        let task = TaskId::generate(&*clock, &entropy).unwrap();
        broker
            .deny(&builder(), &[(Mark::Task(task), end)])
            .await
            .unwrap();
        all.insert(task.to_string());
        assert_eq!(exact_ids(&iam.document.lock().clone().unwrap()), all);
    }
    // After a lost update, the loser's next round brings its ids back.
    *iam.document.lock() = Some("{}".to_owned());
    one.refresh().await.unwrap();
    two.refresh().await.unwrap();
    assert_eq!(exact_ids(&iam.document.lock().clone().unwrap()), all);
}

#[tokio::test]
async fn a_role_with_less_room_than_configured_gets_a_smaller_list_or_a_clear_refusal() {
    let (clock, entropy, iam) = start();
    iam.limit.store(3000, Ordering::SeqCst);
    let list = list(&iam, &clock, 8192);
    let end = taskpass_core::Clock::now(&*clock).plus(Duration::from_secs(900));
    let marks: Vec<_> = (0..300)
        .map(|_| {
            clock.advance(Duration::from_secs(1));
            (
                Mark::Task(TaskId::generate(&*clock, &entropy).unwrap()),
                end,
            )
        })
        .collect();
    let written = list.deny(&builder(), &marks).await.unwrap();
    assert!(written.windows.all > 0);
    assert!(iam.document.lock().as_ref().unwrap().len() <= 3000);
    iam.limit.store(100, Ordering::SeqCst);
    let more = (
        Mark::Task(TaskId::generate(&*clock, &entropy).unwrap()),
        end,
    );
    assert_eq!(
        list.deny(&builder(), &[more]).await.unwrap_err().kind(),
        "misconfigured"
    );
}

#[tokio::test]
async fn a_clock_that_jumps_forward_removes_no_id() {
    let (clock, entropy, iam) = start();
    let true_time = Arc::new(ManualClock::new(taskpass_core::Clock::now(&*clock)));
    *iam.clock.lock() = Some(true_time.clone());
    let life = Duration::from_secs(900);
    let end = taskpass_core::Clock::now(&*clock).plus(life);
    let ended = TaskId::generate(&*clock, &entropy).unwrap();
    let before = list(&iam, &clock, 8192);
    before
        .deny(&builder(), &[(Mark::Task(ended), end)])
        .await
        .unwrap();
    let is_denied =
        || exact_ids(&iam.document.lock().clone().unwrap()).contains(&ended.to_string());
    clock.set(taskpass_core::Clock::now(&*clock).plus(Duration::from_secs(3600)));
    // The same for a broker that reads the list and never saw the session end.
    for broker in [&before, &list(&iam, &clock, 8192)] {
        let written = broker.refresh().await.unwrap();
        assert!(is_denied() && written.at.earliest < end, "{written:?}");
    }
    // If IAM's answers have no date, no id leaves the list.
    *iam.clock.lock() = None;
    clock.advance(Duration::from_secs(7200));
    before.refresh().await.unwrap();
    assert!(is_denied());
    *iam.clock.lock() = Some(true_time.clone());
    true_time.advance(life);
    before.refresh().await.unwrap();
    assert!(is_denied(), "the margin is not over");
    true_time.advance(CLOCK_MARGIN);
    before.refresh().await.unwrap();
    assert!(!is_denied());
}

#[tokio::test]
async fn ids_folded_by_a_slow_clock_stay_denied() {
    let (clock, entropy, iam) = start();
    let issued = taskpass_core::Clock::now(&*clock);
    let lagging = Arc::new(ManualClock::new(
        issued.minus(Duration::from_secs(20 * 3600)),
    ));
    let list = list(&iam, &lagging, 2048);
    let marks: Vec<_> = (0..200)
        .map(|_| Mark::Task(TaskId::generate(&*clock, &entropy).unwrap()))
        .map(|mark| (mark, issued.plus(Duration::from_secs(900))))
        .collect();
    assert!(list.deny(&builder(), &marks).await.unwrap().windows.all > 0);
    let document = iam.document.lock().clone().unwrap();
    let cutoff = document.split("aws:TokenIssueTime\":\"").nth(1).unwrap();
    let cutoff: Timestamp = cutoff.split('"').next().unwrap().parse().unwrap();
    assert!(cutoff > issued, "{cutoff} is before {issued}");
    list.refresh().await.unwrap();
    assert!(iam.document.lock().as_deref().unwrap().contains("Windows"));
}
