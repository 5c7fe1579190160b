//! OpenBao as in production: raft storage, TLS, a file audit device.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use taskpass_tests::{Server, tool, wire::runtime, workspace};
use tempfile::TempDir;

use crate::{
    bao_client::{Client, http},
    process,
};

/// A running, unsealed server with a PKI engine (roles `stored`, `leased` and `ci`) and a key-value
/// engine.
#[derive(Debug)]
pub(crate) struct RaftBao {
    server: Option<Server>,
    /// With the root token.
    pub(crate) client: Client,
    root: CertificateDer<'static>,
    address: String,
    unseal_key: Value,
    directory: TempDir,
}

impl RaftBao {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = certificate(directory.path());
        fs::create_dir(directory.path().join("raft")).expect("a directory");
        // Raft must know its addresses beforehand, so the free ports are chosen here and could be
        // taken before it starts.
        let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let [port, cluster] = sockets.map(|s| s.local_addr().expect("an address").port());
        let text = config(directory.path(), port, cluster);
        fs::write(directory.path().join("bao.hcl"), text).expect("a file");
        let address = format!("https://127.0.0.1:{port}");
        let client = Client::new(http(root.clone(), true), address.clone(), String::new());
        let mut server = launch(directory.path());
        let keys = server.wait_for("OpenBao can be initialised", |_| {
            let body = json!({ "secret_shares": 1, "secret_threshold": 1 });
            let made = client.call("PUT", "sys/init", Some(&body));
            runtime().block_on(made).ok()
        });
        let bao = Self {
            server: Some(server),
            client: client.with_token(keys["root_token"].as_str().expect("a token")),
            root,
            address,
            unseal_key: keys["keys"][0].clone(),
            directory,
        };
        bao.unseal();
        runtime().block_on(bao.prepare());
        bao
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.as_ref().expect("it runs").pid()
    }

    /// A client that makes a new connection for every call.
    pub(crate) fn fresh_client(&self) -> Client {
        let http = http(self.root.clone(), false);
        self.client.over(http)
    }

    /// Stops it in good order and starts it again. Returns the time until its first answer that
    /// needs its storage.
    pub(crate) fn restart(&mut self) -> Duration {
        process::stop(self.server.take().expect("it runs"));
        let began = Instant::now();
        self.server = Some(launch(self.directory.path()));
        self.unseal();
        began.elapsed()
    }

    fn unseal(&self) {
        let body = json!({ "key": self.unseal_key });
        process::until("OpenBao can be unsealed", || {
            let unsealed = self.client.call("PUT", "sys/unseal", Some(&body));
            runtime().block_on(unsealed).ok()
        });
        process::until("OpenBao answers", || {
            let found = self.client.call("GET", "auth/token/lookup-self", None);
            runtime().block_on(found).ok()
        });
    }

    /// `[[provider]]` for the configuration: `cert` is a PKI lease, `static` a secret of the
    /// key-value engine.
    pub(crate) fn provider(&self) -> String {
        let directory = self.directory.path().display();
        format!(
            r#"
[[provider]]
name = "vault-main"
kind = "vault"
address = "{address}"
ca_file = "{directory}/tls.pem"
token_file = "{directory}/broker-token"
token_role = "taskpass"

  [[provider.role]]
  name = "cert"
  type = "dynamic"
  path = "pki/issue/ci"
  method = "write"
  policies = ["ci"]
  params = {{ common_name = {{ pattern = "[a-z0-9.-]{{1,63}}" }} }}
  max_ttl = "15m"
  impact = 1

  [[provider.role]]
  name = "static"
  type = "kv"
  path = "secret/ci"
  version = 1
  policies = ["ci"]
  max_ttl = "15m"
  impact = 0
"#,
            address = self.address,
        )
    }

    async fn prepare(&self) {
        let put = async |path: &str, body: Value| {
            self.client.must("POST", path, Some(&body)).await;
        };
        put("sys/mounts/pki", json!({ "type": "pki" })).await;
        put("sys/mounts/secret", json!({ "type": "kv" })).await;
        put("secret/ci", json!({ "answer": "42" })).await;
        let root =
            json!({ "common_name": "bench.test", "ttl": "24h", "key_type": "ec", "key_bits": 256 });
        put("pki/root/generate/internal", root).await;
        // Otherwise every revoke writes the whole revocation list anew, which its documentation
        // advises against for an issuer with many certificates.
        put("pki/config/crl", json!({ "auto_rebuild": true })).await;
        for (name, lease) in [("stored", false), ("leased", true), ("ci", true)] {
            let role = json!({
                "allow_any_name": true, "generate_lease": lease, "no_store": false, "max_ttl": "1h",
                "key_type": "ec", "key_bits": 256, "use_csr_common_name": false, "use_csr_sans": false,
            });
            put(&format!("pki/roles/{name}"), role).await;
        }
        let ci = r#"path "pki/issue/ci" { capabilities = ["update"] } path "secret/ci" { capabilities = ["read"] }"#;
        let broker = workspace().join("deploy/examples/vault-broker-policy.hcl");
        let broker = fs::read_to_string(broker).expect("the example policy is there");
        for (name, policy) in [("ci", ci), ("taskpass-broker", &broker)] {
            put(
                &format!("sys/policies/acl/{name}"),
                json!({ "policy": policy }),
            )
            .await;
        }
        let token_role = json!({
            "allowed_policies": ["ci"], "orphan": true, "token_type": "service",
            "token_no_default_policy": true,
        });
        put("auth/token/roles/taskpass", token_role).await;
        let order = json!({ "policies": ["taskpass-broker"], "period": "24h" });
        let made = self
            .client
            .must("POST", "auth/token/create-orphan", Some(&order))
            .await;
        let token = made["auth"]["client_token"].as_str().expect("a token");
        write_secret(&self.directory.path().join("broker-token"), token);
        let audit = self.client.must("GET", "sys/audit", None).await;
        assert!(
            audit.to_string().contains("audit.log"),
            "OpenBao does not audit: {audit}"
        );
    }
}

fn launch(directory: &Path) -> Server {
    let arguments = ["server", "-config=bao.hcl", "-log-level=warn"];
    Server::start(&tool("bao"), &arguments, &[], directory)
}

/// Its certificate, which is its own root, beside its key.
fn certificate(directory: &Path) -> CertificateDer<'static> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    fs::write(directory.join("tls.pem"), certificate.pem()).expect("a file");
    fs::write(directory.join("tls.key"), key.serialize_pem()).expect("a file");
    certificate.der().clone()
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("it can be closed");
}

fn config(directory: &Path, port: u16, cluster: u16) -> String {
    let dir = directory.display();
    format!(
        r#"
disable_mlock = true
api_addr = "https://127.0.0.1:{port}"
cluster_addr = "https://127.0.0.1:{cluster}"
storage "raft" {{
  path = "{dir}/raft"
  node_id = "one"
}}
listener "tcp" {{
  address = "127.0.0.1:{port}"
  cluster_address = "127.0.0.1:{cluster}"
  tls_cert_file = "{dir}/tls.pem"
  tls_key_file = "{dir}/tls.key"
}}
audit "file" "file" {{
  options = {{
    file_path = "{dir}/audit.log"
  }}
}}
"#
    )
}
