//! A simulation that a seed decides: random histories of a broker, held against the invariants of
//! its design.
//!
//! The engine, the reconcilers, the policy and the rules of the store are the real ones. Simulated
//! are time, randomness, the disk, and the back ends with the way to them. In a history callers
//! start tasks, delegate, request credentials, renew, revoke and go away; requests are lost, late,
//! half carried out or refused; the disk fills up or breaks; the clock jumps. The history kills the
//! broker at random places where it waits, and starts it again on the durable entries. An
//! [`oracle`] that shares no code with the engine checks every promise after each commit, at each
//! step and at the end.
//!
//! A history depends on its seed alone. `TASKPASS_SIM_SEED=n` makes the test `one_history` run it
//! and print each step. `TASKPASS_SIM_HISTORIES=n` and `TASKPASS_SIM_SECONDS=s` run another number
//! than the usual, from the seed `TASKPASS_SIM_FROM` on; `make simulate` does so.

#![expect(
    clippy::disallowed_methods,
    reason = "which histories to run is asked for through the environment, for as long as real time allows"
)]

mod fate;
mod fixture;
mod history;
mod oracle;
mod outage;
mod provider;
mod requests;
mod storage;
mod time;
mod wire;
mod world;

use std::{env, str::FromStr, sync::Arc, time::Instant};

use self::{fixture::Fixture, history::Outcome};

/// Histories of an ordinary run, over all tests.
const HISTORIES: u64 = 2000;
/// Tests that share them.
const SHARES: u64 = 20;

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let value = env::var(name).ok()?;
    let parsed = value.parse().ok();
    assert!(
        parsed.is_some(),
        "{name} is `{value}`, which is not a number"
    );
    parsed
}

/// Runs one history. A broken promise fails the test, which prints the steps and how to repeat
/// them.
fn check(fixture: &Arc<Fixture>, seed: u64) -> Outcome {
    let outcome = history::run(fixture, seed, false);
    let Some(wrong) = &outcome.wrong else {
        return outcome;
    };
    let again = history::run(fixture, seed, true);
    for line in &again.trace {
        println!("{line}");
    }
    panic!(
        "seed {seed}: invariant {wrong}\nto repeat it: TASKPASS_SIM_SEED={seed} cargo nextest run -p taskpass-engine --all-features simulation::one_history --no-capture"
    );
}

/// Runs the share `share` of the histories.
fn check_share(share: u64) {
    let fixture = Arc::new(Fixture::new());
    let from = setting("TASKPASS_SIM_FROM").unwrap_or(0);
    let seconds: Option<u64> = setting("TASKPASS_SIM_SECONDS");
    let most = match (setting("TASKPASS_SIM_HISTORIES"), seconds) {
        (Some(histories), _) => histories,
        (None, Some(_)) => u64::MAX,
        (None, None) => HISTORIES,
    };
    let began = Instant::now();
    let (mut secrets, mut ahead) = (0, 0);
    let mut histories = 0;
    for seed in (share..most).step_by(usize::try_from(SHARES).unwrap()) {
        if seconds.is_some_and(|seconds| began.elapsed().as_secs() >= seconds) {
            break;
        }
        let outcome = check(&fixture, from + seed);
        secrets += outcome.secrets;
        ahead += outcome.ahead;
        histories += 1;
    }
    println!(
        "{histories} histories in {:?}, {secrets} credentials handed out, {ahead} calls ahead of the disk",
        began.elapsed()
    );
    // A simulation in which the broker never delivers a credential would find nothing wrong, nor
    // one in which no call runs ahead of the disk.
    assert!(
        histories < 20 || (secrets >= histories && ahead * 10 > histories),
        "only {secrets} credentials and {ahead} calls ahead in {histories} histories"
    );
}

/// The histories, as tests that run beside each other.
macro_rules! shares {
    ($($name:ident: $share:literal),*) => {
        $(
            #[test]
            fn $name() {
                check_share($share);
            }
        )*
    };
}

shares! {
    histories_0: 0, histories_1: 1, histories_2: 2, histories_3: 3, histories_4: 4,
    histories_5: 5, histories_6: 6, histories_7: 7, histories_8: 8, histories_9: 9,
    histories_10: 10, histories_11: 11, histories_12: 12, histories_13: 13, histories_14: 14,
    histories_15: 15, histories_16: 16, histories_17: 17, histories_18: 18, histories_19: 19
}

#[test]
fn one_history() {
    let fixture = Arc::new(Fixture::new());
    let seed = setting("TASKPASS_SIM_SEED");
    let outcome = history::run(&fixture, seed.unwrap_or(0), true);
    if seed.is_some() {
        for line in &outcome.trace {
            println!("{line}");
        }
    }
    assert_eq!(outcome.wrong, None, "seed {}", seed.unwrap_or(0));
}

#[test]
fn a_seed_decides_everything() {
    let fixture = Arc::new(Fixture::new());
    for seed in 0..12 {
        let once = history::run(&fixture, seed, true);
        let again = history::run(&fixture, seed, true);
        assert!(!once.trace.is_empty());
        assert_eq!(once.trace, again.trace, "seed {seed}");
    }
}
