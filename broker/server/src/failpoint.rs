//! Places where a test may kill the broker: every step between an intent and its outcome.
//!
//! Only there in builds with the feature `failpoints`; otherwise a call is nothing. When the armed place is reached
//! for the given time, the process gets a real SIGKILL, as if the machine had lost it.

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    struct Armed {
        name: String,
        passes_left: AtomicU32,
    }

    static ARMED: OnceLock<Armed> = OnceLock::new();

    /// Arms one place for the life of the process: `name`, or `name:n` for the n-th time it is reached.
    pub fn arm(place: &str) {
        let (name, passes) = place.split_once(':').unwrap_or((place, "1"));
        let armed = Armed {
            name: name.to_owned(),
            passes_left: AtomicU32::new(passes.parse().unwrap_or(1)),
        };
        if ARMED.set(armed).is_err() {
            tracing::warn!(place, "a failpoint is armed already");
        }
    }

    pub(crate) fn reached(name: &str) {
        let Some(armed) = ARMED.get().filter(|armed| armed.name == name) else {
            return;
        };
        if armed.passes_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let me = rustix::process::getpid();
            if rustix::process::kill_process(me, rustix::process::Signal::KILL).is_err() {
                std::process::abort();
            }
        }
    }
}

#[cfg(feature = "failpoints")]
pub use armed::arm;
#[cfg(feature = "failpoints")]
pub(crate) use armed::reached;

/// Nothing: the build has no failpoints.
#[cfg(not(feature = "failpoints"))]
pub(crate) const fn reached(_name: &str) {}
