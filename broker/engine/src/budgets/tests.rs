//! The meters alone, over a clock that the test sets.

use taskpass_core::{ManualClock, Timestamp};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn meters() -> (Arc<ManualClock>, Meters) {
    let clock = Arc::new(ManualClock::new(Timestamp::EPOCH));
    (Arc::clone(&clock), Meters::new(clock))
}

fn name(text: &str) -> AgentName {
    text.parse().unwrap()
}

const fn starts(per_hour: u32) -> Budgets {
    Budgets {
        agent_ledger_bytes_per_hour: u32::MAX,
        agent_task_starts_per_hour: per_hour,
        agent_denials_per_hour: 1,
    }
}

#[test]
fn a_budget_may_be_used_at_once_and_comes_back_bit_by_bit() {
    let (clock, meters) = meters();
    let (agent, other) = (name("builder"), name("other"));
    let price = Spending::TaskStart.least(&starts(4), 0);
    for _ in 0..4 {
        meters.take(&agent, &price).unwrap();
    }
    let spent = meters.take(&agent, &price).unwrap_err();
    let quarter = HOUR / 4;
    assert_eq!(
        (spent.budget, spent.retry_after),
        (Budget::TaskStarts, quarter)
    );
    assert_eq!(meters.check(&agent, &price), Err(spent));
    meters.take(&other, &price).unwrap();
    clock.advance(quarter);
    meters.take(&agent, &price).unwrap();
    assert!(meters.take(&agent, &price).is_err());
    clock.advance(HOUR * 9);
    for _ in 0..4 {
        meters.take(&agent, &price).unwrap();
    }
    assert!(meters.take(&agent, &price).is_err());
}

/// A wall clock that jumps brings no budget back.
#[test]
fn only_the_monotonic_clock_counts() {
    let (clock, meters) = meters();
    let (agent, price) = (name("builder"), Spending::Denial.least(&starts(1), 0));
    meters.take(&agent, &price).unwrap();
    clock.set(Timestamp::EPOCH.plus(HOUR * 24));
    assert!(meters.take(&agent, &price).is_err());
}

#[test]
fn a_call_that_the_store_refused_costs_nothing_and_no_other_gives_anything_back() {
    let (_clock, meters) = meters();
    let (agent, price) = (name("builder"), Spending::TaskStart.least(&starts(1), 0));
    meters.give_back(&agent, &price);
    meters.take(&agent, &price).unwrap();
    assert!(meters.take(&agent, &price).is_err());
    meters.give_back(&agent, &price);
    meters.take(&agent, &price).unwrap();
    assert!(meters.take(&agent, &price).is_err());
}

/// A call that fits into one of its budgets and not into the other takes nothing from either.
#[test]
fn a_call_takes_from_all_its_budgets_or_from_none() {
    let (clock, meters) = meters();
    let (agent, settings) = (name("builder"), starts(2));
    let start = Spending::TaskStart.least(&settings, 0);
    meters
        .take(&agent, &Spending::Denial.least(&settings, 0))
        .unwrap();
    let bytes = |meters: &Meters| meters.of.lock().meters[&agent][0];
    meters.take(&agent, &start).unwrap();
    meters.take(&agent, &start).unwrap();
    let before = bytes(&meters);
    assert!(meters.take(&agent, &start).is_err());
    assert_eq!(bytes(&meters), before);
    clock.advance(SECOND);
}

/// An agent that has used up its ledger bytes can still renew its identity.
#[test]
fn renewals_of_svids_have_bytes_of_their_own() {
    let (_clock, meters) = meters();
    let agent = name("builder");
    let settings = Budgets {
        agent_ledger_bytes_per_hour: 1024 * 1024,
        ..Budgets::default()
    };
    let used_up = |spending: Spending| {
        let price = spending.least(&settings, 0);
        (0..1_000_000_u32)
            .take_while(|_| meters.take(&agent, &price).is_ok())
            .count()
    };
    // Two decisions: policy may be asked again after the provider answered.
    let of_issue = 2048 + 2 * DECISION_BYTES;
    assert_eq!(
        used_up(Spending::Issue),
        1024 * 1024 / usize::try_from(of_issue).unwrap()
    );
    used_up(Spending::Reading);
    assert!(used_up(Spending::SvidRenewal) > 1024 * 1024 / 16 / 1024);
    assert_eq!(used_up(Spending::Issue), 0);
}

#[test]
fn meters_that_are_whole_again_are_dropped() {
    let (clock, meters) = meters();
    let price = Spending::TaskStart.least(&starts(3600), 0);
    for number in 0..METERS_KEPT * 4 {
        meters.take(&name(&format!("a{number}")), &price).unwrap();
        clock.advance(SECOND / 100);
    }
    assert!(meters.of.lock().meters.len() <= METERS_KEPT);
}

#[test]
fn each_budget_is_reported_at_once_and_once_more_with_the_number() {
    let exceeded = Exceeded::default();
    let agent = name("builder");
    let count = |now| {
        let at = Timestamp::EPOCH.plus(now);
        exceeded.count(&agent, (Budget::Denials, 7), at, now);
    };
    count(SECOND);
    assert_eq!(exceeded.due(SECOND, false)[0].refused.times, 1);
    for second in 2..100 {
        count(SECOND * second);
        assert!(exceeded.due(SECOND * second, false).is_empty());
    }
    assert_eq!(exceeded.next(SECOND * 2), Some(HOUR - SECOND));
    let due = exceeded.due(SECOND + HOUR, false);
    let refused = due[0].refused;
    assert_eq!(refused.times, 98);
    assert_eq!(refused.first, Timestamp::EPOCH.plus(SECOND * 2));
    assert_eq!(refused.last, Timestamp::EPOCH.plus(SECOND * 99));
    // The disk was full.
    exceeded.put_back(due, SECOND + HOUR);
    assert_eq!(exceeded.due(SECOND + HOUR, false)[0].refused.times, 98);
    assert!(exceeded.due(HOUR * 3, true).is_empty());
}
