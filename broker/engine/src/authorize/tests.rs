//! What is recorded of denials and readings, and for whom budgets hold.

use std::time::Duration;

use taskpass_core::{Budget, Repeated, Ttl};

use super::*;
use crate::{
    Budgets, EndTask, Ended, Ending, RevokeCredential, Settings, StartTask, StartedTask, TaskRoles,
    budgets::Spending,
    testing::{Bench, key_of},
};

mod ended_before;
mod ten_minutes;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

async fn bench(budgets: Budgets) -> Bench {
    let settings = Settings {
        budgets,
        ..Settings::default()
    };
    Bench::new(&["a"], settings).await
}

/// The number of a task that does not exist.
fn stranger(number: u64) -> TaskId {
    format!("t{number:016x}").parse().unwrap()
}

async fn denied(bench: &Bench, id: TaskId) -> Error {
    bench.engine.task(&bench.agent, id).await.unwrap_err()
}

/// The decisions among the entries since `first`, with what they stand for.
fn decisions(bench: &Bench, first: u64) -> Vec<(Outcome, Option<Repeated>)> {
    let events = bench.events_since(first).into_iter();
    let decision = |event| match event {
        Event::Decided { decision, repeated } => Some((decision.outcome, repeated)),
        _ => None,
    };
    events.filter_map(decision).collect()
}

fn start(call: &Bench) -> impl Future<Output = Result<StartedTask, Error>> {
    start_with(call, "")
}

async fn start_with(bench: &Bench, key: &str) -> Result<StartedTask, Error> {
    let request = StartTask {
        purpose: "a test".parse().unwrap(),
        requester: None,
        roles: TaskRoles::default(),
        ttl: Some(Ttl::from_seconds(7200).unwrap()),
        heartbeat: None,
        parent: None,
        labels: taskpass_core::Labels::default(),
        max_credentials: None,
        key: None,
    };
    let key = key_of(key);
    bench
        .engine
        .start_task(&bench.agent, key.as_ref(), &request)
        .await
}

async fn end(bench: &Bench, task: TaskId) -> Result<Ended, Error> {
    let request = EndTask {
        task,
        how: Ending::Complete,
        wait: Some(Duration::ZERO),
    };
    bench.engine.end_task(&bench.agent, &request).await
}

/// Uses up the ledger bytes of the agent.
fn use_up(bench: &Bench) {
    let (agent, settings) = bench.agent.account().unwrap();
    let price = Spending::Issue.least(settings, 0);
    while bench.engine.budgets.take(agent, &price).is_ok() {}
    let price = Spending::Reading.least(settings, 0);
    while bench.engine.budgets.take(agent, &price).is_ok() {}
}

fn is_over(error: &Error, of: Budget) -> bool {
    matches!(error, Error::BudgetExceeded { budget, .. } if *budget == of)
}

#[tokio::test]
async fn the_first_denial_is_on_record_before_its_answer_and_its_repeats_share_an_entry() {
    let bench = bench(Budgets::default()).await;
    let first = bench.store.size();
    for _ in 0..50 {
        let error = denied(&bench, stranger(1)).await;
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        assert_eq!(decisions(&bench, first), [(Outcome::Deny, None)]);
    }
    bench.clock.advance(MINUTE - Duration::from_secs(1));
    bench.engine.write_counted(false).await.unwrap();
    assert_eq!(decisions(&bench, first).len(), 1, "the minute is not over");
    bench.clock.advance(Duration::from_secs(1));
    bench.engine.write_counted(false).await.unwrap();
    let (_, repeated) = decisions(&bench, first)[1];
    assert_eq!(repeated.unwrap().times, 49);
    // The next one is a first one again.
    denied(&bench, stranger(1)).await;
    assert_eq!(decisions(&bench, first)[2], (Outcome::Deny, None));
}

/// The number is on record when the broker stops, and a full disk only delays it.
#[tokio::test]
async fn readings_are_counted_as_well_and_the_number_is_not_lost() {
    let bench = bench(Budgets::default()).await;
    let task = start(&bench).await.unwrap().task.id;
    let first = bench.store.size();
    for call in [&bench.agent, &bench.operator] {
        for _ in 0..10 {
            bench.engine.task(call, task).await.unwrap();
        }
    }
    let allowed = (Outcome::Allow, None);
    assert_eq!(decisions(&bench, first), [allowed, allowed]);
    bench.engine.close_counts().await.unwrap();
    let times = |(_, repeated): &(_, Option<Repeated>)| repeated.map(|r| r.times);
    let counted: Vec<_> = decisions(&bench, first).iter().map(times).collect();
    assert_eq!(counted, [None, None, Some(9), Some(9)]);
    bench.engine.close_counts().await.unwrap();
    assert_eq!(decisions(&bench, first).len(), 4);
}

#[tokio::test]
async fn denials_beyond_the_budget_leave_one_entry_and_hold_up_nothing_else() {
    let budgets = Budgets {
        agent_denials_per_hour: 3,
        ..Budgets::default()
    };
    let bench = bench(budgets).await;
    let other = bench.join("other").await;
    let task = start(&bench).await.unwrap().task.id;
    let first = bench.store.size();
    for number in 0..3 {
        let error = denied(&bench, stranger(number)).await;
        assert!(matches!(error, Error::Denied { .. }), "{error}");
    }
    for number in 3..100 {
        let error = denied(&bench, stranger(number)).await;
        assert!(is_over(&error, Budget::Denials), "{error}");
        let message = error.message();
        assert!(
            message.contains("limits.agent_denials_per_hour"),
            "{message}"
        );
    }
    // A repeat of a denial on record costs nothing.
    let error = denied(&bench, stranger(0)).await;
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    let error = bench.engine.task(&other, task).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error}");
    bench.engine.task(&bench.agent, task).await.unwrap();
    assert_eq!(decisions(&bench, first).len(), 5);

    bench.engine.write_counted(false).await.unwrap();
    for number in 0..50 {
        assert!(is_over(
            &denied(&bench, stranger(200 + number)).await,
            Budget::Denials
        ));
    }
    bench.engine.write_counted(false).await.unwrap();
    let exceeded = |first| {
        let events = bench.events_since(first).into_iter();
        let one = |event| match event {
            Event::BudgetExceeded {
                budget, refused, ..
            } => Some((budget, refused.times)),
            _ => None,
        };
        events.filter_map(one).collect::<Vec<_>>()
    };
    assert_eq!(exceeded(first), [(Budget::Denials, 97)]);
    bench.clock.advance(HOUR);
    bench.engine.write_counted(false).await.unwrap();
    let both = [(Budget::Denials, 97), (Budget::Denials, 50)];
    assert_eq!(exceeded(first), both);
    assert!(matches!(
        denied(&bench, stranger(300)).await,
        Error::Denied { .. }
    ));
}

#[tokio::test]
async fn task_starts_have_a_budget_that_comes_back_and_a_repeated_request_costs_nothing() {
    let budgets = Budgets {
        agent_task_starts_per_hour: 2,
        ..Budgets::default()
    };
    let bench = bench(budgets).await;
    let task = start_with(&bench, "a").await.unwrap().task.id;
    start(&bench).await.unwrap();
    let refused = start(&bench).await.unwrap_err();
    let Error::BudgetExceeded { retry_after, .. } = refused else {
        panic!("{refused}")
    };
    assert!(is_over(&refused, Budget::TaskStarts));
    assert_eq!(start_with(&bench, "a").await.unwrap().task.id, task);
    bench.clock.advance(retry_after);
    start(&bench).await.unwrap();
    assert!(start(&bench).await.is_err());
}

/// The batch of a caller that hangs up may be committed all the same.
#[tokio::test]
async fn hanging_up_gives_nothing_back_and_a_refused_commit_does() {
    let budgets = Budgets {
        agent_task_starts_per_hour: 1,
        ..Budgets::default()
    };
    let bench = bench(budgets).await;
    bench.disk.set_free(Some(0));
    for bytes in [60_000, 500] {
        let filler = Event::IndexRebuilt {
            reason: "x".repeat(bytes),
        };
        let fill = async || bench.engine.commit(vec![filler.clone()], Vec::new()).await;
        while fill().await.is_ok() {}
    }
    for _ in 0..3 {
        let refused = start(&bench).await.unwrap_err();
        assert!(matches!(refused, Error::DiskFull), "{refused}");
    }
    bench.disk.set_free(None);
    tokio::select! {
        biased;
        started = start(&bench) => drop(started.unwrap()),
        () = std::future::ready(()) => {}
    }
    assert!(is_over(
        &start(&bench).await.unwrap_err(),
        Budget::TaskStarts
    ));
}

/// Two calls that race for the last of a budget: one gets it.
#[tokio::test]
async fn of_many_calls_at_once_only_as_many_start_as_the_budget_allows() {
    let budgets = Budgets {
        agent_task_starts_per_hour: 5,
        ..Budgets::default()
    };
    let bench = bench(budgets).await;
    let starting: Vec<_> = (0..20).map(|_| Box::pin(start(&bench))).collect();
    let mut started = 0;
    for outcome in futures_of(starting).await {
        started += u32::from(outcome.is_ok());
    }
    assert_eq!(started, 5);
}

/// Polls all of them until each is done.
async fn futures_of<T, F: Future<Output = T> + Unpin>(mut futures: Vec<F>) -> Vec<T> {
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        futures.retain_mut(|future| match std::pin::Pin::new(future).poll(context) {
            std::task::Poll::Ready(outcome) => {
                done.push(outcome);
                false
            }
            std::task::Poll::Pending => true,
        });
        match futures.is_empty() {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    done
}

#[tokio::test]
async fn no_budget_refuses_an_end_or_a_revocation() {
    let bench = bench(Budgets::default()).await;
    let fake = &bench.fakes[0];
    fake.revokes.add_permits(99);
    let mut ended = Vec::new();
    for _ in 0..20 {
        ended.push(start(&bench).await.unwrap().task.id);
    }
    let task = bench.task().await;
    let credential = bench.issued(fake, task, HOUR / 2).await.id;
    use_up(&bench);
    assert!(is_over(
        &start(&bench).await.unwrap_err(),
        Budget::LedgerBytes
    ));
    let reading = bench.engine.task(&bench.agent, task).await.unwrap_err();
    assert!(is_over(&reading, Budget::LedgerBytes), "{reading}");
    // The provider is not asked for what cannot be recorded.
    let wish = crate::testing::wish(fake, task);
    let issuing = bench.engine.issue_credential(&bench.agent, None, &wish);
    assert!(is_over(&issuing.await.unwrap_err(), Budget::LedgerBytes));
    assert!(fake.issues.lock().is_empty());

    let revoke = RevokeCredential {
        credential,
        wait: Some(Duration::ZERO),
    };
    for _ in 0..5 {
        let receipt = bench.engine.revoke_credential(&bench.agent, &revoke);
        receipt.await.unwrap();
    }
    for task in &ended {
        end(&bench, *task).await.unwrap();
    }
    // Asking again for each of them is answered, too, and leaves one entry.
    let first = bench.store.size();
    for _ in 0..5 {
        for task in &ended {
            end(&bench, *task).await.unwrap();
        }
    }
    assert_eq!(decisions(&bench, first), [(Outcome::Allow, None)]);
    bench.engine.close_counts().await.unwrap();
    let times: u64 = decisions(&bench, first)
        .iter()
        .filter_map(|(_, repeated)| repeated.map(|r| r.times))
        .sum();
    // Those, and the four repeats of the revocation.
    assert!(times >= 99, "{times}");
    // People are not held to the budget of an agent.
    bench.engine.task(&bench.operator, task).await.unwrap();
}
