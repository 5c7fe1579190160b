//! Kills at random moments under load, in runs of a hundred, each on an installation of its own.

use std::sync::atomic::{AtomicU32, Ordering};

use taskpass_tests::{Told, kills::Kills};

use crate::{caught, report::Report};

const IN_ONE_RUN: u32 = 100;
const SEED: u64 = 20_261_123;

pub(crate) fn run(count: u32, report: &Report) {
    const TOPIC: &str = "Kills under load";
    let killed = AtomicU32::new(0);
    let (mut asked_for, mut issued, mut answers) = (0, 0, 0);
    let mut complaints = Vec::new();
    // Counts the requested kills, not the actual ones: a run that ended early must not be repeated
    // for ever.
    while asked_for < count {
        let kills = Kills {
            count: IN_ONE_RUN.min(count - asked_for),
            seed: SEED ^ (u64::from(asked_for) << 32),
        };
        asked_for += kills.count;
        let survived = caught(|| {
            kills.survive(|| {
                killed.fetch_add(1, Ordering::Relaxed);
            })
        });
        match survived {
            Ok(journal) => {
                issued += journal.count(|told| matches!(told, Told::Issued(_)));
                answers += journal.len();
            }
            Err(why) => complaints.push(why),
        }
        eprintln!(
            "kills: {} of {count}, {answers} answers to keep, {} runs red",
            killed.load(Ordering::Relaxed),
            complaints.len()
        );
    }
    let killed = f64::from(killed.load(Ordering::Relaxed));
    report.figure(TOPIC, "SIGKILL at random moments", killed, "");
    report.figure(
        TOPIC,
        "answers that had to be kept",
        report_count(answers),
        "",
    );
    report.figure(TOPIC, "credentials among them", report_count(issued), "");
    report.verdict(
        TOPIC,
        "nothing lost, untracked or falsely proven",
        &complaints,
    );
}

fn report_count(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a small count"))
}
