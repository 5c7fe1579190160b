//! Another configuration while the broker runs: recorded, then put in force as one.

use taskpass_core::{Event, ProviderName};

use super::{Change, Configuration, Engine, Error, ProviderChange, providers::Closed};

/// The files behind a configuration, as the ledger names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReloadedFiles {
    /// SHA-256 of the file in force until now.
    pub previous_config_sha256: String,
    /// SHA-256 of the file that was read.
    pub config_sha256: String,
    /// The keys with other values, as `table.key`, without the providers' keys.
    pub keys: Vec<String>,
}

impl Engine {
    /// Records another configuration in the ledger and puts it in force. Back ends with the same
    /// configuration go on with their calls and breakers. Back ends that have left the
    /// configuration keep revoking the credentials that they minted. Returns the differences.
    ///
    /// The record comes first, so that no credential is issued under a configuration that the
    /// ledger does not know. Without the record the old configuration stays in force. A caller must
    /// not drop the future: between record and swap the ledger is one step ahead.
    pub async fn reload(
        &self,
        configuration: Configuration,
        files: ReloadedFiles,
    ) -> Result<Change, Error> {
        // The next reload begins at the snapshot of this one, so that the hashes in the ledger
        // chain.
        let _reloading = self.reloading.lock().await;
        let closed = self.close_replaced(&configuration).await?;
        let (next, change) = self.snapshot().next(&self.context, configuration);
        if change.is_none() && files.previous_config_sha256 == files.config_sha256 {
            return Ok(change);
        }
        self.commit(vec![event(files, &change)], Vec::new()).await?;
        // `next` may bring back a retired back end that was dropped meanwhile; the next maintenance
        // drops it again.
        self.put_in_force(next);
        closed.into_iter().for_each(Closed::for_good);
        Ok(change)
    }

    /// Closes the back ends that are replaced by another one which cannot revoke what they minted,
    /// as at another address or with a role that is gone. Refused while one of them is called or
    /// has minted something that is alive. A request that holds an older snapshot then mints
    /// nothing there after the swap.
    async fn close_replaced(&self, next: &Configuration) -> Result<Vec<Closed>, Error> {
        let snapshot = self.snapshot();
        let mut all = Vec::new();
        for provider in &next.providers {
            let name = provider.provider.name();
            let Some(present) = snapshot.backends().revoking(name) else {
                continue;
            };
            if present.can_become(provider) {
                continue;
            }
            // Before the back end is closed, so that a reload which is refused for this fails no
            // request; and again once no call can mint any more.
            self.require_nothing_alive(name).await?;
            let Some(closed) = present.close() else {
                return Err(Error::Precondition(format!(
                    "provider `{name}` is being called, and only its present configuration can revoke what the call mints; reload again"
                )));
            };
            all.push(closed);
            self.require_nothing_alive(name).await?;
        }
        Ok(all)
    }

    async fn require_nothing_alive(&self, name: &ProviderName) -> Result<(), Error> {
        if self.holds_anything(name).await? {
            return Err(Error::Precondition(format!(
                "provider `{name}` has live credentials that only its present configuration can revoke; give the new one another name, or reload when `taskpass credential list --live` shows none of them"
            )));
        }
        Ok(())
    }
}

fn event(files: ReloadedFiles, change: &Change) -> Event {
    let (previous_policy_set, policy_set) = change.policy.clone();
    let mut added = Vec::new();
    let mut changed = Vec::new();
    let mut removed = Vec::new();
    for (name, what) in &change.providers {
        let list: &mut Vec<ProviderName> = match what {
            ProviderChange::Added | ProviderChange::Resumed => &mut added,
            ProviderChange::Replaced => &mut changed,
            ProviderChange::Retired => &mut removed,
        };
        list.push(name.clone());
    }
    Event::ConfigurationReloaded {
        previous_config_sha256: files.previous_config_sha256,
        config_sha256: files.config_sha256,
        previous_policy_set,
        policy_set,
        keys: files.keys,
        providers_added: added,
        providers_changed: changed,
        providers_removed: removed,
    }
}

#[cfg(test)]
mod tests;
