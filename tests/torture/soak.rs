//! Mixed load for a long while: the resources of the process must not grow with its work.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use taskpass_core::SeededEntropy;
use taskpass_tests::{
    Broker, World, kills,
    kills::{AGENTS, LIMITS},
    wire::runtime,
    witness::client,
};

use crate::{caught, report::Report};

const SAMPLES: u32 = 60;
const SEED: u64 = 20_261_124;
/// The last quarter may be this multiple of the third; some of the difference is always chance.
const GROWTH_MAX: f64 = 1.10;
const TOPIC: &str = "Soak";

/// A resource, how to read it from a sample, and the growth that is too small to matter.
type Kind = (&'static str, fn(&Sample) -> f64, f64);

/// The resources of a process, as seen from outside.
#[derive(Debug, Clone, Copy)]
struct Sample {
    resident_kib: f64,
    files: f64,
    threads: f64,
    index_bytes: f64,
    ledger_bytes: f64,
    entries: f64,
}

pub(crate) fn run(length: Duration, report: &Report) {
    match caught(|| load(length)) {
        Ok((samples, answers)) => judge(length, &samples, answers, report),
        Err(why) => report.verdict(TOPIC, "the load goes on", &[why]),
    }
}

/// Puts load on a broker and samples its process from outside.
fn load(length: Duration) -> (Vec<Sample>, usize) {
    let world = World::new();
    world.installation.configure(LIMITS);
    let broker = world.start();
    let told = kills::Shared::default();
    let mut workers = tokio::task::JoinSet::new();
    for (number, name) in (0_u64..).zip(AGENTS) {
        let client = runtime().block_on(client(&broker.agent(name)));
        let random = SeededEntropy::new(SEED ^ number);
        let work = kills::work(client, random, std::sync::Arc::clone(&told));
        workers.spawn_on(work, runtime().handle());
    }
    let began = Instant::now();
    let mut samples = Vec::new();
    for number in 1..=SAMPLES {
        let until = began + length * number / SAMPLES;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
        samples.push(sample(&world, &broker));
        if let Some(ended) = workers.try_join_next() {
            panic!("the load ended: {ended:?}");
        }
        if number % 6 == 0 {
            eprintln!(
                "soak: {} of {} s, {:?}",
                (length * number / SAMPLES).as_secs(),
                length.as_secs(),
                samples.last()
            );
        }
    }
    runtime().block_on(workers.shutdown());
    let answers = told.lock().expect("no poison").len();
    broker.stop();
    (samples, answers)
}

fn sample(world: &World, broker: &Broker<'_>) -> Sample {
    let status = fs::read_to_string(format!("/proc/{}/status", broker.pid())).expect("it runs");
    let field = |name: &str| -> f64 {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.expect("the field").parse().expect("a number")
    };
    let files = fs::read_dir(format!("/proc/{}/fd", broker.pid())).expect("it runs");
    let data = world.installation.home().join("data");
    let checkpoint = broker.operator().json(&["ledger", "checkpoint"]);
    Sample {
        resident_kib: field("VmRSS:"),
        threads: field("Threads:"),
        files: count(files.count()),
        index_bytes: bytes(&data.join("index")),
        ledger_bytes: bytes(&data.join("ledger/segments")),
        entries: checkpoint["size"].as_f64().expect("a size"),
    }
}

/// The length of all files in a directory.
fn bytes(directory: &Path) -> f64 {
    let files = fs::read_dir(directory).expect("the directory");
    let lengths = files.filter_map(|file| file.ok()?.metadata().ok().map(|m| m.len()));
    count(usize::try_from(lengths.sum::<u64>()).expect("64 bits"))
}

/// Counts here are far below 2^52.
#[expect(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
fn count(count: usize) -> f64 {
    count as f64
}

fn judge(length: Duration, samples: &[Sample], answers: usize, report: &Report) {
    let quarter = samples.len() / 4;
    let mean = |of: fn(&Sample) -> f64, from: usize| -> f64 {
        let part = &samples[from..][..quarter];
        part.iter().map(of).sum::<f64>() / count(quarter)
    };
    let last = samples[samples.len() - 1];
    report.figure(TOPIC, "length", length.as_secs_f64(), "s");
    report.figure(TOPIC, "answers", count(answers), "");
    report.figure(TOPIC, "events in the ledger", last.entries, "");
    report.figure(
        TOPIC,
        "ledger, per event",
        last.ledger_bytes / last.entries,
        "bytes",
    );
    report.figure(
        TOPIC,
        "index, per event",
        last.index_bytes / last.entries,
        "bytes",
    );
    report.figure(TOPIC, "RSS at the end", last.resident_kib / 1024.0, "MiB");
    let kinds: [Kind; 4] = [
        ("RSS, KiB", |s| s.resident_kib, 8.0 * 1024.0),
        ("open files", |s| s.files, 8.0),
        ("threads", |s| s.threads, 4.0),
        // The index keeps the history, so its size is divided by the length of the history.
        ("index bytes per event", |s| s.index_bytes / s.entries, 64.0),
    ];
    for (what, of, slack) in kinds {
        let (before, after) = (mean(of, quarter * 2), mean(of, quarter * 3));
        let grew = after > before * GROWTH_MAX && after > before + slack;
        let complaint = grew
            .then(|| format!("{what}: {before:.0} in the third quarter, {after:.0} in the last"));
        report.figure(TOPIC, &format!("{what}, third quarter"), before, "");
        report.figure(TOPIC, &format!("{what}, last quarter"), after, "");
        let complaints: Vec<String> = complaint.into_iter().collect();
        report.verdict(TOPIC, &format!("{what}: flat"), &complaints);
    }
}
