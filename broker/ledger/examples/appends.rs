//! Times the ledger on this machine:
//! `cargo run --release -p taskpass-ledger --example appends [DIRECTORY]`.
#![expect(clippy::print_stdout, reason = "its output is the point")]

use std::{error::Error, fs, io, path::Path, time::Duration};

use taskpass_core::{Clock, SeededEntropy, SystemClock};
use taskpass_ledger::{Ledger, Options, Priority, SigningKey, VerifyingKey, export, verify};

const ORIGIN: &str = "taskpass/throughput.test";
const ENTRIES: u64 = 1_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let scratch = match std::env::args().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let clock = SystemClock::new();
    for batch in [1, 8, 64, 256] {
        let path = scratch.path().join(format!("batch-{batch}"));
        let mut ledger = open(&path, true)?;
        let took = timed(&clock, || fill(&mut ledger, 2000 * batch, batch))?;
        report(&format!("append, {batch} a batch"), 2000 * batch, took);
        drop(ledger);
        fs::remove_dir_all(&path)?;
    }
    let path = scratch.path().join("million");
    let mut ledger = open(&path, true)?;
    let took = timed(&clock, || fill(&mut ledger, ENTRIES, 256))?;
    report("append 1 M, 256 a batch", ENTRIES, took);
    let verifying = ledger_key(&path)?.verifying_key().clone();
    drop(ledger);
    let before = rss()?;
    let mut ledger = None;
    let took = timed(&clock, || {
        ledger = Some(open(&path, false)?);
        Ok(())
    })?;
    println!("open 1 M: {took:?}, RSS {before} → {} KiB", rss()?);
    if let Some(ledger) = ledger {
        exports(&clock, &ledger, &verifying, scratch.path())?;
    }
    let took = timed(&clock, || {
        verify::verify_dir(&path, &verifying, None, &mut |_| ())?;
        Ok(())
    })?;
    report("verify directory", ENTRIES, took);
    println!("RSS at the end: {} KiB", rss()?);
    Ok(())
}

fn exports(
    clock: &SystemClock,
    ledger: &Ledger,
    verifying: &VerifyingKey,
    scratch: &Path,
) -> Result<(), Box<dyn Error>> {
    let reader = ledger.reader();
    let checkpoint = reader.checkpoint();
    let took = timed(clock, || {
        export::write_full(&reader, &checkpoint, &mut io::sink())?;
        Ok(())
    })?;
    report("export to nowhere", ENTRIES, took);
    let path = scratch.join("export.jsonl");
    let took = timed(clock, || {
        export::write_full(&reader, &checkpoint, &mut fs::File::create(&path)?)?;
        Ok(())
    })?;
    report("export to a file", ENTRIES, took);
    let took = timed(clock, || {
        let file = io::BufReader::with_capacity(1 << 17, fs::File::open(&path)?);
        verify::verify_export(file, verifying, None, &mut |_| ())?;
        Ok(())
    })?;
    report("verify export", ENTRIES, took);
    let took = timed(clock, || {
        let mut some = |index: u64, _: &[u8]| index.is_multiple_of(10);
        let range = 0..ENTRIES;
        export::write_selection(
            &reader,
            &checkpoint,
            range,
            &mut some,
            None,
            &mut io::sink(),
        )?;
        Ok(())
    })?;
    report("selection of every tenth, with proofs", ENTRIES / 10, took);
    Ok(())
}

fn ledger_key(path: &Path) -> Result<SigningKey, Box<dyn Error>> {
    Ok(SigningKey::load(ORIGIN, &path.with_extension("key"))?)
}

fn open(path: &Path, new: bool) -> Result<Ledger, Box<dyn Error>> {
    let key = if new {
        SigningKey::generate(ORIGIN, &path.with_extension("key"), &SeededEntropy::new(1))?
    } else {
        ledger_key(path)?
    };
    Ok(Ledger::open(path, Options::new(key))?.0)
}

fn fill(ledger: &mut Ledger, entries: u64, batch: u64) -> Result<(), Box<dyn Error>> {
    let padding = "x".repeat(440);
    for first in (0..entries).step_by(usize::try_from(batch)?) {
        let lines: Vec<String> = (first..(first + batch).min(entries))
            .map(|n| format!("{{\"time\":\"2026-11-22T10:00:00.000Z\",\"event\":{{\"n\":{n},\"p\":\"{padding}\"}}}}"))
            .collect();
        let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
        ledger.append_batch(&lines, Priority::Normal)?;
    }
    ledger.checkpoint_now()?;
    Ok(())
}

fn timed(
    clock: &SystemClock,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Duration, Box<dyn Error>> {
    let begin = clock.monotonic();
    work()?;
    Ok(clock.monotonic().saturating_sub(begin))
}

fn report(what: &str, entries: u64, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
    println!(
        "{what}: {} entries/s ({took:?})",
        entries * 1_000_000 / micros
    );
}

/// Resident memory in KiB.
fn rss() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.unwrap_or_default().trim().trim_end_matches(" kB");
    Ok(kib.parse()?)
}
