//! The kernel's own count: no answer without an `fdatasync` before it.

use taskpass_tests::faults::syncs_of_answers;

use crate::{caught, report::Report};

const ANSWERS: u32 = 50;

pub(crate) fn run(report: &Report) {
    const TOPIC: &str = "Durability, by strace";
    eprintln!("syncs: {ANSWERS} answers one after another");
    match caught(|| syncs_of_answers(ANSWERS)) {
        Ok(Ok(syncs)) => {
            report.figure(TOPIC, "answers, one after another", f64::from(ANSWERS), "");
            report.figure(TOPIC, "`fdatasync` meanwhile", f64::from(syncs), "");
            let short = (syncs < ANSWERS).then(|| format!("{syncs} syncs for {ANSWERS} answers"));
            let complaints: Vec<String> = short.into_iter().collect();
            report.verdict(TOPIC, "each answer has its own", &complaints);
        }
        Ok(Err(why)) => report.not_here(TOPIC, &why),
        Err(why) => report.verdict(TOPIC, "each answer has its own", &[why]),
    }
}
