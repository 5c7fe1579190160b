//! Idle servers, the size of the programs, and the speed of the disk.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use taskpass_tests::program;

use crate::{
    Effort, broker,
    load::{self, ms},
    process::{cpu_during, resident},
    raft_bao::RaftBao,
    report::{Figure, Limit, Report, Rounds},
};

const AREA: &str = "At rest";
const SYNCS: usize = 500;

pub(crate) fn measure(effort: &Effort, report: &mut Report) {
    disk(report);
    let installation = broker::installation();
    let running = broker::start(&installation);
    let bao = RaftBao::start();
    // Wait until the work after the start is done.
    std::thread::sleep(effort.tail);
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    for _ in 0..effort.rounds {
        ours.push(share(running.pid(), effort.tail));
        theirs.push(share(bao.pid(), effort.tail));
    }
    let figure = Figure::low(AREA, "CPU", "% of a core", &ours);
    report.add(figure.beside("OpenBao", &ours, &theirs));
    let [ours, theirs] = [running.pid(), bao.pid()].map(|pid| Rounds::from(resident(pid)));
    let figure = Figure::low(AREA, "RSS", "MiB", &ours).beside("OpenBao", &ours, &theirs);
    report.add(figure.budget(Limit::AtMost(30.0)));
    for name in ["taskpassd", "taskpass"] {
        let (path, how) = stripped(name, installation.scratch());
        let bytes = fs::metadata(path).expect("the program is there").len();
        let mib = load::as_f64(usize::try_from(bytes / 1024).expect("a small program")) / 1024.0;
        let what = format!("size of `{name}`, {how}");
        report.add(Figure::low(AREA, what, "MiB", &Rounds::from(mib)));
    }
}

/// Percent of one core.
fn share(pid: u32, span: Duration) -> f64 {
    100.0 * cpu_during(pid, span).as_secs_f64() / span.as_secs_f64()
}

fn stripped(name: &str, scratch: &Path) -> (PathBuf, &'static str) {
    let path = scratch.join(name);
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&path).arg(program(name));
    match strip.status() {
        Ok(status) if status.success() => (path, "stripped"),
        _ => (program(name), "with symbols"),
    }
}

/// The time to make one small record durable: no durable answer can be faster.
fn disk(report: &mut Report) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("records");
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("a file");
    let syncs = (0..SYNCS).map(|_| {
        let began = Instant::now();
        file.write_all(&[b'x'; 640]).expect("it can be written");
        file.sync_data().expect("it can be made durable");
        began.elapsed()
    });
    let sample = load::of(syncs.collect());
    let (p50, p99) = (Rounds::from(ms(sample.p50)), Rounds::from(ms(sample.p99)));
    report.add(Figure::low(AREA, "bare `fdatasync`, p50", "ms", &p50));
    report.add(Figure::low(AREA, "bare `fdatasync`, p99", "ms", &p99));
}
