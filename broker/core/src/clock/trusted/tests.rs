use super::*;
use crate::ManualClock;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const YEARS: Duration = Duration::from_secs(5 * 365 * 86_400);

/// A machine with a name for its run.
#[derive(Debug)]
struct Machine {
    clock: ManualClock,
    boot: &'static str,
}

impl Clock for Machine {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    fn boot(&self) -> Option<&str> {
        Some(self.boot)
    }
}

fn machine(now: Timestamp, up: Duration, boot: &'static str) -> Arc<Machine> {
    let clock = ManualClock::new(now.minus(up));
    clock.advance(up);
    Arc::new(Machine { clock, boot })
}

fn trusted(machine: &Arc<Machine>, mark: Option<ClockMark>, newest: Timestamp) -> TrustedClock {
    let clock = TrustedClock::new(Arc::<Machine>::clone(machine), mark);
    clock.resumes_after(newest);
    clock
}

fn running() -> (Arc<Machine>, TrustedClock) {
    let machine = machine(NOW, HOUR, "first");
    let clock = trusted(&machine, None, NOW.minus(MINUTE));
    (machine, clock)
}

#[test]
fn small_jumps_are_followed_and_great_ones_are_not() {
    for (far, is_great) in [
        (SECOND, false),
        (MINUTE, false),
        (HOUR, true),
        (DAY, true),
        (YEARS, true),
    ] {
        for jumped in [NOW.plus(far), NOW.minus(far)] {
            let (machine, clock) = running();
            machine.clock.set(jumped);
            assert_eq!(clock.doubt().is_some(), is_great, "{jumped}");
            let expected = if is_great { NOW } else { jumped };
            assert_eq!(clock.now(), expected, "{jumped}");
            machine.clock.advance(HOUR);
            assert_eq!(clock.now(), expected.plus(HOUR), "{jumped}");

            // The clock comes back by itself.
            machine.clock.set(NOW.plus(HOUR));
            assert_eq!(clock.now(), NOW.plus(HOUR), "{jumped}");
            assert_eq!(clock.doubt(), None, "{jumped}");
        }
    }
}

#[test]
fn a_doubt_says_how_far_and_which_way() {
    let (machine, clock) = running();
    machine.clock.set(NOW.plus(DAY));
    let said = clock.doubt().unwrap().to_string();
    assert!(said.contains("86400 seconds ahead of"), "{said}");
    machine.clock.set(NOW.minus(HOUR));
    let said = clock.doubt().unwrap().to_string();
    assert!(said.contains("3600 seconds behind"), "{said}");
}

#[test]
fn the_last_good_time_is_counted_on() {
    let (machine, clock) = running();
    machine.clock.set(NOW.plus(MINUTE));
    assert_eq!(clock.now(), NOW.plus(MINUTE));
    machine.clock.set(NOW.plus(YEARS));
    assert_eq!(clock.now(), NOW.plus(MINUTE));
}

/// The wall clock gains a second for each second, as when its host steps it again and again.
#[test]
fn a_clock_that_runs_twice_too_fast_is_caught() {
    for (pace, caught_within) in [(1000, Duration::from_secs(301)), (10, HOUR * 10)] {
        let (machine, clock) = running();
        let mut passed = Duration::ZERO;
        while clock.doubt().is_none() {
            assert!(passed < caught_within, "{pace}");
            machine.clock.advance(SECOND);
            passed += SECOND;
            let gained = passed * pace / 1000;
            machine.clock.set(NOW.plus(passed + gained));
        }
        let error = clock.now().since(NOW.plus(passed));
        let most = CLOCK_DISAGREEMENT_MAX + passed / DRIFT_SHARE;
        assert!(error <= most, "{error:?} after {passed:?}");
    }
}

/// Steps of a tenth of a second every five minutes: over a year they come to almost three hours.
#[test]
fn the_steps_of_time_servers_do_not_add_up() {
    let (machine, clock) = running();
    let every = MINUTE * 5;
    for _ in 0..(365 * 24 * 12) {
        machine.clock.advance(every);
        machine.clock.set(machine.clock.now().plus(SECOND / 10));
        assert_eq!(clock.doubt(), None);
        assert_eq!(clock.now(), machine.clock.now());
    }
}

/// A laptop that sleeps: both clocks count on.
#[test]
fn a_machine_that_slept_is_believed() {
    let (machine, clock) = running();
    machine.clock.advance(DAY * 90);
    assert_eq!(clock.doubt(), None);
    assert_eq!(clock.now(), NOW.plus(DAY * 90));
}

#[test]
fn a_restart_on_the_same_run_does_not_clear_a_clock() {
    let (first, clock) = running();
    first.clock.advance(HOUR);
    clock.now();
    let mark = clock.mark().unwrap();
    assert_eq!(mark.ahead_ms, 0);

    // The clock jumps while the broker is stopped. Even one day is noticed.
    let up = HOUR * 3;
    let next = machine(NOW.plus(HOUR * 2), up, "first");
    let clock = trusted(&next, Some(mark.clone()), NOW.plus(HOUR));
    assert_eq!(clock.doubt(), None);
    next.clock.set(NOW.plus(HOUR * 2 + DAY));
    let clock = trusted(&next, Some(mark.clone()), NOW.plus(HOUR));
    assert_eq!(clock.now(), NOW.plus(HOUR * 2));
    assert!(clock.doubt().is_some());

    // It is forgiven as soon as the clock is right.
    next.clock.set(NOW.plus(HOUR * 2));
    assert_eq!(clock.doubt(), None);

    // On another run the monotonic clock says nothing, and a day may have passed.
    let other = machine(NOW.plus(HOUR * 2 + DAY), MINUTE, "second");
    let clock = trusted(&other, Some(mark), NOW.plus(HOUR));
    assert_eq!(clock.doubt(), None);
}

#[test]
fn switching_the_machine_off_and_on_does_not_clear_a_clock_that_was_in_doubt() {
    let (first, clock) = running();
    first.clock.set(NOW.plus(DAY));
    let mark = clock.mark().unwrap();
    assert_eq!(mark.ahead_ms, i64::try_from(DAY.as_millis()).unwrap());

    let next = machine(NOW.plus(DAY + MINUTE), MINUTE, "second");
    let clock = trusted(&next, Some(mark.clone()), NOW);
    assert_eq!(clock.now(), NOW);
    assert!(clock.doubt().is_some());

    let mended = machine(NOW.plus(HOUR), MINUTE, "second");
    let clock = trusted(&mended, Some(mark), NOW);
    assert_eq!(clock.doubt(), None);
}

fn forged(boot: &str, time: Timestamp, up: Duration, ahead_ms: i64) -> ClockMark {
    ClockMark {
        boot: boot.to_owned(),
        monotonic_ms: u64::try_from(up.as_millis()).unwrap(),
        time,
        ahead_ms,
    }
}

/// Any program that writes the broker's data can write the mark.
#[test]
fn a_forged_mark_dates_nothing_in_the_far_future() {
    let newest = NOW.minus(MINUTE);
    for mark in [
        forged("first", NOW.plus(YEARS), HOUR, 0),
        forged("first", NOW.plus(DAY * 31), HOUR, 0),
        forged("first", NOW.minus(YEARS), HOUR, 0),
        forged("first", NOW.minus(DAY), HOUR, 0),
        forged("first", NOW, HOUR + SECOND, 0),
        // The clock was in doubt, and the machine was switched off and on.
        forged("zeroth", NOW.plus(YEARS), MINUTE, 1),
    ] {
        let machine = machine(NOW, HOUR, "first");
        let clock = trusted(&machine, Some(mark.clone()), newest);
        assert!(clock.refused_mark().is_some(), "{mark:?}");
        assert_eq!((clock.now(), clock.doubt()), (NOW, None), "{mark:?}");
    }
    // Together with a wall clock that agrees with it.
    let far = NOW.plus(YEARS);
    let machine = machine(far, HOUR, "first");
    let clock = trusted(&machine, Some(forged("first", far, HOUR, 0)), newest);
    assert_eq!(clock.now(), newest);
    assert!(clock.doubt().is_some());
}

/// The newest entry is younger than the mark, which is written now and then.
#[test]
fn a_mark_from_before_the_newest_entry_is_believed() {
    let machine = machine(NOW, DAY * 2, "first");
    let newest = NOW.minus(HOUR).plus(CLOCK_DISAGREEMENT_MAX);
    for mark in [
        forged("first", NOW.minus(DAY), DAY, 0),
        forged("zeroth", NOW.minus(DAY), DAY * 9, 0),
    ] {
        let clock = trusted(&machine, Some(mark), newest);
        assert_eq!(clock.refused_mark(), None);
        assert_eq!(clock.now(), NOW);
    }
}

#[test]
fn after_a_long_stop_a_person_has_to_confirm_the_time() {
    for (stopped, is_long) in [(DAY * 29, false), (DAY * 31, true), (YEARS, true)] {
        let machine = machine(NOW.plus(stopped), MINUTE, "second");
        let clock = trusted(&machine, None, NOW);
        assert_eq!(clock.doubt().is_some(), is_long, "{stopped:?}");
        let expected = if is_long { NOW } else { NOW.plus(stopped) };
        assert_eq!(clock.now(), expected, "{stopped:?}");
    }
}

#[test]
fn a_new_installation_believes_its_machine() {
    let machine = machine(NOW, MINUTE, "first");
    let clock = TrustedClock::new(Arc::<Machine>::clone(&machine), None);
    assert_eq!(clock.mark(), None);
    assert_eq!(clock.now(), NOW);
    clock.resumes_after(Timestamp::EPOCH);
    assert_eq!(clock.doubt(), None);
    // Only the first word counts.
    clock.resumes_after(NOW.minus(YEARS));
    assert_eq!(clock.doubt(), None);
}

/// Behind the ledger is not in doubt by itself: the engine waits until the clock has caught up.
#[test]
fn a_clock_behind_the_ledger_is_followed() {
    let machine = machine(NOW, MINUTE, "second");
    let clock = trusted(&machine, None, NOW.plus(HOUR));
    assert_eq!(clock.now(), NOW);
    assert_eq!(clock.doubt(), None);
}
