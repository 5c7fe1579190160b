//! Places where a test may kill the broker: every step between an intent and its outcome.
//!
//! They exist only in builds with the feature `failpoints`; otherwise a call does nothing. When the
//! armed place is reached for the n-th time, the process gets a real SIGKILL, as if the machine had
//! lost power; or it panics there, or aborts.

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    struct Armed {
        name: String,
        end: End,
        passes_left: AtomicU32,
    }

    /// How the armed place ends the process or task that reaches it.
    enum End {
        Kill,
        Panic,
        Abort,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Arms one place for the life of the process: `name`, or `name:n` for the n-th time it is
    /// reached; with `=panic` or `=abort` behind it for another end than SIGKILL.
    pub fn arm(place: &str) {
        let (place, end) = match place.split_once('=') {
            Some((place, "panic")) => (place, End::Panic),
            Some((place, "abort")) => (place, End::Abort),
            _ => (place, End::Kill),
        };
        let (name, passes) = place.split_once(':').unwrap_or((place, "1"));
        let armed = Armed {
            name: name.to_owned(),
            end,
            passes_left: AtomicU32::new(passes.parse().unwrap_or(1)),
        };
        if ARMED.set(armed).is_err() {
            tracing::warn!(place, "a failpoint is armed already");
        }
    }

    /// Ends the process or task here, if this place is armed.
    pub fn reached(name: &str) {
        let Some(armed) = ARMED.get().filter(|armed| armed.name == name) else {
            return;
        };
        if armed.passes_left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        match armed.end {
            End::Kill => kill(),
            End::Abort => std::process::abort(),
            #[expect(clippy::panic, reason = "that is what the test asked for")]
            End::Panic => panic!("failpoint `{name}`"),
        }
    }

    fn kill() {
        let me = rustix::process::getpid();
        if rustix::process::kill_process(me, rustix::process::Signal::KILL).is_err() {
            std::process::abort();
        }
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{arm, reached};

/// Nothing: the build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub const fn reached(_name: &str) {}
