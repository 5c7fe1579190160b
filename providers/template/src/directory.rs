//! The back end: accounts with a password, a group and an end, in memory.
//!
//! In a provider for a real back end, this file holds the client: one method for each call, and an
//! error that says whether the back end answered. Nothing here knows Taskpass.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use taskpass_core::{Clock, Secret, Timestamp, sha256_hex};

/// The broker's password at every directory in memory.
pub const BROKER_PASSWORD: &str = "template-broker-password";
/// The group in which the broker may not make accounts.
const FORBIDDEN_GROUP: &str = "admins";

/// Why a call failed. The difference matters: without an answer, the directory may have carried out
/// the call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CallError {
    /// No answer. The call may have been carried out.
    #[error("the directory does not answer")]
    Unreachable,
    /// The directory answered that the broker may not do this.
    #[error("the directory refuses: {0}")]
    Refused(&'static str),
}

#[derive(Debug)]
struct Account {
    password: Secret,
    valid_until: Timestamp,
}

#[derive(Debug, Default)]
struct State {
    accounts: HashMap<String, Account>,
    minted: u64,
    is_down: bool,
}

/// A directory of accounts.
#[derive(Debug)]
pub struct Directory {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
}

impl Directory {
    /// An empty one.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            state: Mutex::default(),
            clock,
        }
    }

    /// Whether the password of an account is accepted now. An agent's tools make this call.
    pub fn login(&self, name: &str, password: &Secret) -> bool {
        let state = self.state.lock();
        let now = self.clock.now();
        state.accounts.get(name).is_some_and(|account| {
            account.password.expose() == password.expose() && now < account.valid_until
        })
    }

    /// Makes the directory unreachable, or reachable again.
    pub fn set_down(&self, is_down: bool) {
        self.state.lock().is_down = is_down;
    }

    /// Makes an account and returns its password.
    pub(crate) async fn create(
        &self,
        broker: &Secret,
        name: &str,
        group: &str,
        valid_until: Timestamp,
    ) -> Result<Secret, CallError> {
        let mut state = self.state.lock();
        state.authenticate(broker)?;
        if group.split('/').any(|part| part == FORBIDDEN_GROUP) {
            return Err(CallError::Refused("the broker may not use this group"));
        }
        state.minted += 1;
        // A back end generates passwords from real randomness; this one only has to be different
        // each time.
        let password = sha256_hex(format!("{name} {}", state.minted).as_bytes());
        let account = Account {
            password: Secret::new(password.clone()),
            valid_until,
        };
        state.accounts.insert(name.to_owned(), account);
        Ok(Secret::new(password))
    }

    /// Moves the end of an account. `false` when it does not exist.
    pub(crate) async fn extend(
        &self,
        broker: &Secret,
        name: &str,
        valid_until: Timestamp,
    ) -> Result<bool, CallError> {
        let mut state = self.state.lock();
        state.authenticate(broker)?;
        let account = state.accounts.get_mut(name);
        Ok(account.is_some_and(|account| {
            account.valid_until = valid_until;
            true
        }))
    }

    /// Deletes an account; an account that does not exist counts as deleted.
    pub(crate) async fn delete(&self, broker: &Secret, name: &str) -> Result<(), CallError> {
        let mut state = self.state.lock();
        state.authenticate(broker)?;
        state.accounts.remove(name);
        Ok(())
    }

    /// Whether an account exists.
    pub(crate) async fn exists(&self, broker: &Secret, name: &str) -> Result<bool, CallError> {
        let state = self.state.lock();
        state.authenticate(broker)?;
        Ok(state.accounts.contains_key(name))
    }
}

impl State {
    fn authenticate(&self, broker: &Secret) -> Result<(), CallError> {
        if self.is_down {
            return Err(CallError::Unreachable);
        }
        if broker.expose() != BROKER_PASSWORD {
            return Err(CallError::Refused("the broker's password is wrong"));
        }
        Ok(())
    }
}
