//! Repeats a failed call a few times. The pauses double and have jitter; the broker can ask for
//! longer ones.

use std::time::Duration;

use taskpass_core::{Entropy, EntropyError};
use tonic::Code;

use crate::Error;

/// Attempts in all.
const ATTEMPTS_MAX: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// If the broker asks for a longer pause, the caller gets the error and decides.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The same at a limit. A rate limit passes in a moment; a quota stays until the caller ends a task
/// or a credential.
const PAUSE_AT_LIMIT_MAX: Duration = Duration::from_secs(1);

/// The attempts of one call.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    made: u32,
}

impl Attempts {
    /// How long to wait before the next attempt; `None` when there is none.
    pub(crate) fn pause_after(
        &mut self,
        error: &Error,
        entropy: &dyn Entropy,
    ) -> Result<Option<Duration>, EntropyError> {
        self.made += 1;
        let Some(asked) = error.retry_hint() else {
            return Ok(None);
        };
        let longest = match error.refusal() {
            Some(refusal) if refusal.code == Code::ResourceExhausted => PAUSE_AT_LIMIT_MAX,
            _ => PAUSE_MAX,
        };
        if self.made >= ATTEMPTS_MAX || asked.is_some_and(|pause| pause > longest) {
            return Ok(None);
        }
        let grown = PAUSE_FIRST.saturating_mul(2_u32.saturating_pow(self.made - 1));
        let jittered = jitter(grown.min(PAUSE_MAX), entropy)?;
        Ok(Some(asked.map_or(jittered, |asked| asked + jittered)))
    }
}

/// Between half and all of `span`, so that many clients do not come back at the same moment.
pub(crate) fn jitter(span: Duration, entropy: &dyn Entropy) -> Result<Duration, EntropyError> {
    let thousandths = u32::try_from(entropy.next_u64()? % 501).unwrap_or(0);
    Ok(span * (500 + thousandths) / 1000)
}

#[cfg(test)]
mod tests {
    use taskpass_core::SeededEntropy;
    use tonic::Status;

    use super::*;

    #[test]
    fn only_errors_that_may_pass_are_retried_and_not_for_ever() {
        let entropy = SeededEntropy::new(1);
        let down = Error::from_status("a:1", Status::unavailable("starting"));
        let mut attempts = Attempts::default();
        let mut pauses = Vec::new();
        while let Some(pause) = attempts.pause_after(&down, &entropy).unwrap() {
            pauses.push(pause);
        }
        assert_eq!(pauses.len(), 4);
        assert!(pauses[0] >= PAUSE_FIRST / 2 && pauses[0] <= PAUSE_FIRST);
        assert!(pauses[3] >= PAUSE_FIRST * 4 && pauses[3] <= PAUSE_FIRST * 8);
        for no in [
            Status::permission_denied("no"),
            Status::invalid_argument("no"),
            Status::resource_exhausted("no"),
        ] {
            let error = Error::from_status("a:1", no);
            assert_eq!(
                Attempts::default().pause_after(&error, &entropy).unwrap(),
                None
            );
        }
    }

    #[test]
    fn the_brokers_wish_is_a_lower_bound_up_to_a_limit() {
        use tonic_types::{ErrorDetails, StatusExt};
        let entropy = SeededEntropy::new(1);
        let asked = |code, seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            let status = Status::with_error_details(code, "slow down", details);
            let error = Error::Refused(Box::new(status.into()));
            Attempts::default().pause_after(&error, &entropy).unwrap()
        };
        assert!(asked(Code::Unavailable, 2).unwrap() >= Duration::from_secs(2));
        assert_eq!(asked(Code::Unavailable, 60), None);
        assert!(asked(Code::ResourceExhausted, 1).unwrap() >= Duration::from_secs(1));
        assert_eq!(asked(Code::ResourceExhausted, 2), None);
    }
}
