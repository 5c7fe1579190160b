//! A cluster of three OpenBao servers, of which the broker reaches a follower that was cut off: no
//! token that works at the active server is ever called revoked.

#[allow(dead_code, reason = "the provider's own tests use the rest")]
#[path = "../../providers/vault/tests/vault/cluster.rs"]
mod cluster;
#[allow(dead_code, reason = "the provider's own tests use the rest")]
#[expect(
    clippy::disallowed_methods,
    reason = "the proxy between broker and server runs beside the test"
)]
#[path = "../../providers/vault/tests/vault/server.rs"]
mod server;

use std::{fs, future::Future, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};
use taskpass_tests::{Cli, Installation, World, eventually, workspace};
use tokio::runtime::Runtime;

use self::{
    cluster::Cluster,
    server::{Bao, Proxy, REQUEST_MAX},
};
use crate::support::{end, text};

/// The cluster, and the one place where the broker reaches it.
struct Stage {
    cluster: Cluster,
    active: Bao,
    front: Proxy,
    installation: Installation,
    /// Carries the proxies.
    runtime: Runtime,
}

impl Stage {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let (cluster, active) = runtime.block_on(Cluster::start());
        let token = runtime.block_on(prepare(&active));
        let front = runtime.block_on(Proxy::start(active.port));
        let installation = Installation::new();
        let file = installation.scratch().join("broker-token");
        fs::write(&file, token).expect("the token can be written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("permissions");
        installation.configure(&format!(
            r#"
[credentials]
revoke_wait_default = "500ms"

[[provider]]
name = "vault-main"
kind = "vault"
address = "http://127.0.0.1:{}"
token_file = "{}"
token_role = "taskpass"
max_request_duration = "{REQUEST_MAX}"

  [[provider.role]]
  name = "config"
  type = "token"
  policies = ["config"]
  max_ttl = "15m"
  impact = 0
"#,
            front.port,
            file.display()
        ));
        Self {
            cluster,
            active,
            front,
            installation,
            runtime,
        }
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Whether the active server lets the token work.
    fn works(&self, issued: &Value) -> bool {
        let token = text(&issued["data"], "token");
        let path = "secret/data/ci";
        let asked = self.active.call_as(token, "GET", path, Value::Null);
        self.wait(asked).0 == 200
    }

    /// What the broker says of the credential. It must not be revoked while its token works.
    fn state(&self, cli: &Cli, issued: &Value) -> String {
        let shown = cli.json(&["credential", "show", text(issued, "credential_id")]);
        let state = text(&shown, "state").to_owned();
        let is_false = state == "revoked_verified" && self.works(issued);
        assert!(!is_false, "a live token is called dead: {shown}");
        state
    }
}

/// Policies, a secret and the token role; the broker's own token.
async fn prepare(active: &Bao) -> String {
    let policy = workspace().join("deploy/examples/vault-broker-policy.hcl");
    let policy = fs::read_to_string(policy).expect("the example policy is there");
    let read = r#"path "secret/data/ci" { capabilities = ["read"] }"#;
    for (name, policy) in [("broker", policy.as_str()), ("config", read)] {
        let path = format!("sys/policies/acl/{name}");
        active
            .must("POST", &path, json!({ "policy": policy }))
            .await;
    }
    let secret = json!({ "data": { "answer": "42" } });
    active.must("POST", "secret/data/ci", secret).await;
    let role = json!({
        "allowed_policies": ["config"], "orphan": true, "token_type": "service",
        "token_no_default_policy": true,
    });
    active.must("POST", "auth/token/roles/taskpass", role).await;
    let own = json!({ "policies": ["broker"], "period": "1h" });
    let made = active.must("POST", "auth/token/create-orphan", own).await;
    text(&made["auth"], "client_token").to_owned()
}

#[test]
fn tasks_that_end_at_a_follower_that_was_cut_off_leave_no_false_word() {
    let stage = Stage::new();
    let broker = stage.installation.start();
    let agent = broker.agent("builder");
    stage.wait(stage.cluster.caught_up(&stage.active));
    stage.cluster.cut_off();
    let tasks: Vec<(String, Value)> = (0..2)
        .map(|_| {
            let task = World::task(&agent, &["vault-main/config"]);
            let issued = World::issue(&agent, &task, "vault-main/config", &[]);
            assert!(stage.works(&issued));
            (task, issued)
        })
        .collect();
    // From here on the broker meets the follower, which has not heard of the tokens.
    stage.front.lead_to(stage.cluster.standby.port);
    for (task, issued) in &tasks {
        let ended = end(&agent, task);
        let said = stage.state(&agent, issued);
        assert!(said == "revoking" || !stage.works(issued), "{ended}");
    }
    eventually("the broker has asked the follower again", || {
        let attempts = |issued: &Value| {
            stage.state(&agent, issued);
            let shown = agent.json(&["credential", "show", text(issued, "credential_id")]);
            let is_over = !stage.works(issued);
            is_over || shown["revocation"]["attempts"].as_u64() >= Some(2)
        };
        tasks
            .iter()
            .all(|(_, issued)| attempts(issued))
            .then_some(())
    });
    stage.cluster.heal();
    for (_, issued) in &tasks {
        eventually("the follower knows enough to prove the death", || {
            (stage.state(&agent, issued) == "revoked_verified").then_some(())
        });
        assert!(!stage.works(issued));
    }
}
