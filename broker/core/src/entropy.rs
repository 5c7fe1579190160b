//! Randomness as a parameter, for the same reason as time: a failing run must be repeatable.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use ring::rand::SecureRandom;

/// The system's random source did not answer, so no key and no identifier can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system's random source failed; nothing can be issued until it works again")]
pub struct EntropyError;

/// Where random bytes come from.
pub trait Entropy: fmt::Debug + Send + Sync {
    /// Fills all of `bytes`. After a failure their content is undefined.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError>;

    /// A uniformly random number; for jitter and identifiers.
    fn next_u64(&self) -> Result<u64, EntropyError> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
}

/// The operating system's random source, through ring.
#[derive(Debug)]
pub struct SystemEntropy {
    random: ring::rand::SystemRandom,
}

impl SystemEntropy {
    /// Opens the system's source. Only composition roots and binaries call this.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the system's randomness"
    )]
    #[expect(
        clippy::new_without_default,
        reason = "a default would hide that system randomness is read"
    )]
    pub fn new() -> Self {
        Self {
            random: ring::rand::SystemRandom::new(),
        }
    }
}

impl Entropy for SystemEntropy {
    #[expect(
        clippy::map_err_ignore,
        reason = "ring's Unspecified carries nothing to keep"
    )]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        self.random.fill(bytes).map_err(|_| EntropyError)
    }
}

/// A repeatable sequence from a seed; for tests and simulations, never for keys that protect
/// anything.
#[derive(Debug)]
pub struct SeededEntropy {
    seed: u64,
    counter: AtomicU64,
}

impl SeededEntropy {
    /// The sequence that belongs to `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            counter: AtomicU64::new(0),
        }
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in bytes.chunks_mut(32) {
            let mut input = [0_u8; 16];
            let (seed, counter) = input.split_at_mut(8);
            seed.copy_from_slice(&self.seed.to_be_bytes());
            counter.copy_from_slice(&self.counter.fetch_add(1, Ordering::SeqCst).to_be_bytes());
            let block = ring::digest::digest(&ring::digest::SHA256, &input);
            for (to, from) in chunk.iter_mut().zip(block.as_ref()) {
                *to = *from;
            }
        }
        Ok(())
    }
}
