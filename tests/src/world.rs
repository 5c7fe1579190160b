//! The usual setup: an OpenBao, an installation that uses it, and steps that many tests repeat.

use serde_json::Value;

use crate::{Broker, Cli, Installation, OpenBao, eventually};

/// An OpenBao and an installation configured for it as provider `vault-main`.
#[derive(Debug)]
pub struct World {
    /// The back end.
    pub bao: OpenBao,
    /// The installation.
    pub installation: Installation,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// Starts OpenBao and initialises an installation. The broker is not started yet.
    pub fn new() -> Self {
        let bao = OpenBao::start();
        let installation = Installation::new();
        installation.configure(&bao.provider("vault-main", ""));
        Self { bao, installation }
    }

    /// Starts the broker.
    pub fn start(&self) -> Broker<'_> {
        self.installation.start()
    }

    /// The credentials that are not in a final state according to the ledger.
    pub fn live_credentials(operator: &Cli) -> Vec<Value> {
        let listed = operator.json(&["credential", "list", "--live"]);
        listed.as_array().expect("a list of credentials").clone()
    }

    /// Waits until no credential is live according to the ledger.
    pub fn wait_all_final(operator: &Cli) {
        eventually("every credential reaches its final state", || {
            Self::live_credentials(operator).is_empty().then_some(())
        });
    }

    /// Opens a task with the given roles. Returns its id.
    pub fn task(agent: &Cli, roles: &[&str]) -> String {
        let mut args = vec!["task", "start", "--purpose", "a test", "--ttl", "10m"];
        for role in roles {
            args.extend(["--role", role]);
        }
        agent.json(&args)["task_id"]
            .as_str()
            .expect("a task id")
            .to_owned()
    }

    /// Issues a credential.
    pub fn issue(agent: &Cli, task: &str, role: &str, scope: &[&str]) -> Value {
        let mut args = vec!["credential", "issue", "--task", task, "--role", role];
        for pair in scope {
            args.extend(["--scope", pair]);
        }
        agent.json(&args)
    }
}
