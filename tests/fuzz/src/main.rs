//! Runs fuzz targets: under libFuzzer when `make fuzz` builds it, otherwise on the files in its
//! arguments.

#![cfg_attr(taskpass_fuzz, no_main)]

#[cfg(taskpass_fuzz)]
mod libfuzzer {
    use std::{fs, sync::LazyLock, time::Duration};

    use taskpass_fuzz::Target;

    /// Processor time of this thread alone, because other processes share the machine. Coverage
    /// makes everything several times slower.
    const CPU_TIME_MAX: Duration = Duration::from_millis(300);

    /// The environment chooses the target, since libFuzzer owns the arguments.
    static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
        let name = std::env::var("TASKPASS_FUZZ_TARGET").unwrap_or_default();
        let target = Target::named(&name).expect("TASKPASS_FUZZ_TARGET names a target");
        // Fixtures are made before the first input, so that no input is charged for them.
        (target.run)(&[]);
        target
    });

    libfuzzer_sys::fuzz_target!(|data: &[u8]| {
        let target = *TARGET;
        let before = cpu_time();
        (target.run)(data);
        let taken = cpu_time().saturating_sub(before);
        assert!(taken < CPU_TIME_MAX, "{} bytes took {taken:?}", data.len());
    });

    fn cpu_time() -> Duration {
        let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    }
}

#[cfg(not(taskpass_fuzz))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use taskpass_fuzz::{TARGETS, Target, seeds};

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => TARGETS
            .iter()
            .for_each(|target| println!("{} {}", target.name, target.bytes_max)),
        ["seeds"] => seeds::write()?,
        [target, files @ ..] if !files.is_empty() => {
            let target = Target::named(target).ok_or("no such target")?;
            for file in files {
                (target.run)(&std::fs::read(file)?);
                println!("{file}: fine");
            }
        }
        _ => return Err("usage: taskpass-fuzz list | seeds | TARGET FILE…".into()),
    }
    Ok(())
}
