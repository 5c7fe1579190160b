//! A real OpenBao development server, and its own word on which credentials are alive.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Server, listening_port, tool, workspace};

const ROOT_TOKEN: &str = "root-of-the-test";
/// The longest that the server works on one request. A call without an answer is in doubt for that
/// long.
const REQUEST_MAX: &str = "5s";
const AUTHORITY: &str = "vault-ca.pem";

/// An OpenBao with a secret, a PKI engine that gives leases, and the policies the test roles use.
#[derive(Debug)]
pub struct OpenBao {
    server: Option<Server>,
    address: String,
    /// The line of `[[provider]]` that says how its certificate is checked.
    trust: String,
    http: reqwest::Client,
    dir: TempDir,
}

impl OpenBao {
    /// Starts it on a free port and prepares it. It speaks plain HTTP.
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (server, port) = launch(&dir, &[]);
        Self::prepared(Self {
            server: Some(server),
            address: format!("http://127.0.0.1:{port}"),
            trust: "allow_plaintext = true".to_owned(),
            http: http(),
            dir,
        })
    }

    /// The same over TLS, with a certificate of its own authority ([`OpenBao::authority`]).
    pub fn start_with_tls() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let certificates = format!("-dev-tls-cert-dir={}", dir.path().display());
        let (server, port) = launch(&dir, &["-dev-tls", &certificates]);
        let authority = dir.path().join(AUTHORITY);
        let pem = std::fs::read(&authority).expect("OpenBao writes its authority");
        let root = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let http = http_client(|builder| builder.tls_certs_only([root]));
        Self::prepared(Self {
            server: Some(server),
            address: format!("https://127.0.0.1:{port}"),
            trust: format!("ca_file = \"{}\"", authority.display()),
            http,
            dir,
        })
    }

    fn prepared(self) -> Self {
        self.prepare();
        self
    }

    /// The file with the authority of its certificate, if it speaks TLS.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join(AUTHORITY)
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Kills the server. A development server keeps nothing on disk, so this is for outages from
    /// which it does not return. [`OpenBao::pause`] is for the others.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Stops the process: it still takes connections and answers nothing.
    pub fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Lets the process go on after [`OpenBao::pause`].
    pub fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.server.as_ref().expect("it runs").pid();
        let pid =
            rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("it can be signalled");
    }

    /// `[[provider]]` for the configuration: roles `config` (a token), `cert` (a PKI lease) and
    /// `static` (kv), and the roles in `more`.
    pub fn provider(&self, name: &str, more: &str) -> String {
        let token = self.dir.path().join("broker-token");
        format!(
            r#"
[[provider]]
name = "{name}"
kind = "vault"
address = "{address}"
{trust}
token_file = "{token}"
token_role = "taskpass"
max_request_duration = "{REQUEST_MAX}"

  [[provider.role]]
  name = "config"
  type = "token"
  policies = ["config"]
  max_ttl = "15m"
  renewable = true
  impact = 0

  [[provider.role]]
  name = "cert"
  type = "dynamic"
  path = "pki/issue/ci"
  method = "write"
  policies = ["cert"]
  params = {{ common_name = {{ pattern = "[a-z0-9.-]{{1,63}}" }} }}
  max_ttl = "15m"
  impact = 1

  [[provider.role]]
  name = "static"
  type = "kv"
  path = "secret/data/ci"
  policies = ["config"]
  max_ttl = "15m"
  impact = 0
{more}"#,
            address = self.address,
            trust = self.trust,
            token = token.display(),
        )
    }

    /// A call with the root token. `Err` has the status.
    pub fn call(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value, u16> {
        self.call_as(ROOT_TOKEN, method, path, body)
    }

    /// A call with any token.
    pub fn call_as(
        &self,
        token: &str,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, u16> {
        let request = self
            .http
            .request(
                method.parse().expect("a method"),
                format!("{}/v1/{path}", self.address),
            )
            .header("X-Vault-Token", token);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        runtime().block_on(async {
            let answer = request.send().await.map_err(|_| 0_u16)?;
            let status = answer.status();
            let value = answer.json().await.unwrap_or(Value::Null);
            if status.is_success() {
                Ok(value)
            } else {
                Err(status.as_u16())
            }
        })
    }

    /// Whether an issued token can still read the path that its role allows.
    pub fn token_works(&self, token: &str) -> bool {
        self.call_as(token, "GET", "secret/data/ci", None).is_ok()
    }

    /// All lease ids below a path, by OpenBao's own list.
    pub fn leases(&self, path: &str) -> Vec<String> {
        let Ok(listed) = self.call("LIST", &format!("sys/leases/lookup/{path}"), None) else {
            return Vec::new();
        };
        let keys = listed["data"]["keys"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        keys.iter()
            .filter_map(Value::as_str)
            .map(|key| format!("{path}/{key}"))
            .collect()
    }

    /// Accessors of all tokens that are alive, without the test's root token and the broker's own.
    pub fn task_tokens(&self) -> Vec<String> {
        let listed = self
            .call("LIST", "auth/token/accessors", None)
            .expect("accessors can be listed");
        let accessors = listed["data"]["keys"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        accessors
            .iter()
            .filter_map(Value::as_str)
            .filter(|accessor| {
                let found = self.call(
                    "POST",
                    "auth/token/lookup-accessor",
                    Some(json!({ "accessor": accessor })),
                );
                found.is_ok_and(|token| {
                    let policies = token["data"]["policies"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default();
                    !policies.contains(&json!("root"))
                        && !policies.contains(&json!("taskpass-broker"))
                })
            })
            .map(str::to_owned)
            .collect()
    }

    /// OpenBao's record of a lease; `None` when it is gone.
    pub fn lease(&self, id: &str) -> Option<Value> {
        let found = self.call("POST", "sys/leases/lookup", Some(json!({ "lease_id": id })));
        found.ok().map(|found| found["data"].clone())
    }

    /// The seconds that a token has left, by its accessor; `None` when it is gone.
    pub fn token_ttl(&self, accessor: &str) -> Option<i64> {
        let found = self
            .call(
                "POST",
                "auth/token/lookup-accessor",
                Some(json!({ "accessor": accessor })),
            )
            .ok()?;
        found["data"]["ttl"].as_i64()
    }

    /// Whether the PKI engine reports a certificate as revoked.
    pub fn certificate_is_revoked(&self, serial: &str) -> bool {
        let found = self
            .call("GET", &format!("pki/cert/{serial}"), None)
            .expect("the engine knows the certificate");
        found["data"]["revocation_time"]
            .as_i64()
            .is_some_and(|seconds| seconds > 0)
    }

    /// The serial of a lease's certificate, from OpenBao's record of the lease; `None` when it is
    /// gone.
    pub fn leased_certificate(&self, lease: &str) -> Option<String> {
        let record = self.stored_lease(lease)?;
        let serial = &record["secret"]["internal_data"]["serial_number"];
        Some(serial.as_str().expect("a certificate's lease").to_owned())
    }

    /// The accessor of the token that a lease ends with, from OpenBao's record of the lease; `None`
    /// when either is gone.
    pub fn accessor_of_lease(&self, lease: &str) -> Option<String> {
        let token = self.stored_lease(lease)?["client_token"].clone();
        let found = self.call("POST", "auth/token/lookup", Some(json!({ "token": token })));
        Some(found.ok()?["data"]["accessor"].as_str()?.to_owned())
    }

    fn stored_lease(&self, lease: &str) -> Option<Value> {
        let path = format!("sys/raw/sys/expire/id/{lease}");
        let stored = self.call("GET", &path, None).ok()?;
        let record = stored["data"]["value"].as_str().expect("a record");
        Some(serde_json::from_str(record).expect("a record in JSON"))
    }

    /// Serials of the certificates that the PKI engine made and has not revoked, without its own.
    ///
    /// A listed lease is alive if and only if its certificate is here. OpenBao can list a lease
    /// that is dead: when its caller is killed while OpenBao files the lease, OpenBao revokes the
    /// certificate at once, but the cancelled request can no longer delete the record of the lease.
    /// The record stays in the list, belongs to no token, and revokes nothing further.
    /// `sys/leases/tidy` removes it.
    pub fn usable_certificates(&self) -> Vec<String> {
        let listed = self
            .call("LIST", "pki/certs", None)
            .expect("certificates can be listed");
        let own = self
            .call("GET", "pki/cert/ca", None)
            .expect("the engine has its own");
        let serials = listed["data"]["keys"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let is_usable = |serial: &str| {
            let found = self
                .call("GET", &format!("pki/cert/{serial}"), None)
                .expect("the engine knows the certificate");
            let data = &found["data"];
            let is_revoked = data["revocation_time"].as_i64().is_some_and(|at| at > 0);
            !is_revoked && data["certificate"] != own["data"]["certificate"]
        };
        let serials = serials.iter().filter_map(Value::as_str);
        serials
            .filter(|serial| is_usable(serial))
            .map(str::to_owned)
            .collect()
    }

    /// The broker's own token.
    pub fn broker_token(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("broker-token"))
            .expect("the token's file is there")
    }

    /// Gives the broker another token and revokes the one before, as a job that rotates the file
    /// does.
    pub fn rotate_broker_token(&self) {
        let before = self.broker_token();
        let fresh = self.dir.path().join("broker-token.new");
        write_secret(&fresh, &self.make_broker_token());
        std::fs::rename(fresh, self.dir.path().join("broker-token"))
            .expect("the file can be replaced");
        self.call(
            "POST",
            "auth/token/revoke",
            Some(json!({ "token": before })),
        )
        .expect("the old token can be revoked");
    }

    fn make_broker_token(&self) -> String {
        let order = json!({ "policies": ["taskpass-broker"], "period": "24h" });
        let made = self
            .call("POST", "auth/token/create-orphan", Some(order))
            .expect("a token can be made");
        made["auth"]["client_token"]
            .as_str()
            .expect("a token")
            .to_owned()
    }

    fn prepare(&self) {
        let call = |method: &str, path: &str, body: Value| {
            self.call(method, path, Some(body))
                .unwrap_or_else(|status| panic!("{method} {path}: {status}"))
        };
        // The secrets engine of a new server is not ready at once.
        crate::eventually("OpenBao takes a secret", || {
            let secret = json!({ "data": { "answer": "42" } });
            self.call("POST", "secret/data/ci", Some(secret)).ok()
        });
        call("POST", "sys/mounts/pki", json!({ "type": "pki" }));
        call(
            "POST",
            "pki/root/generate/internal",
            json!({ "common_name": "acme.test", "ttl": "24h" }),
        );
        let role = json!({ "allow_any_name": true, "generate_lease": true, "max_ttl": "1h", "key_type": "ec", "key_bits": 256 });
        call("POST", "pki/roles/ci", role);
        let broker =
            std::fs::read_to_string(workspace().join("deploy/examples/vault-broker-policy.hcl"))
                .expect("the example policy is there");
        for (name, policy) in [
            ("taskpass-broker", broker.as_str()),
            (
                "config",
                r#"path "secret/data/ci" { capabilities = ["read"] }"#,
            ),
            (
                "cert",
                r#"path "pki/issue/ci" { capabilities = ["update"] }"#,
            ),
        ] {
            call(
                "PUT",
                &format!("sys/policies/acl/{name}"),
                json!({ "policy": policy }),
            );
        }
        let token_role = json!({
            "allowed_policies": ["config", "cert"], "orphan": true, "token_type": "service",
            "token_no_default_policy": true, "token_explicit_max_ttl": "24h",
        });
        call("POST", "auth/token/roles/taskpass", token_role);
        write_secret(
            &self.dir.path().join("broker-token"),
            &self.make_broker_token(),
        );
    }
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .expect("a new file");
    file.write_all(text.as_bytes())
        .expect("the file can be written");
}

fn launch(dir: &TempDir, more: &[&str]) -> (Server, u16) {
    // The witness needs the raw storage: no other call tells the certificate of a lease.
    let config = format!(
        "disable_clustering = true\nraw_storage_endpoint = true\ndefault_max_request_duration = \"{REQUEST_MAX}\"\n"
    );
    std::fs::write(dir.path().join("dev.hcl"), config).expect("a file");
    let token = format!("-dev-root-token-id={ROOT_TOKEN}");
    let mut args = vec![
        "server",
        "-dev",
        "-config=dev.hcl",
        &token,
        "-dev-listen-address=127.0.0.1:0",
        "-dev-no-store-token",
        "-log-level=warn",
    ];
    args.extend(more);
    let mut server = Server::start(&tool("bao"), &args, &[], dir.path());
    let port = server.wait_for("OpenBao listens", |s| {
        let port = listening_port(s.pid())?;
        s.log().contains("server started!").then_some(port)
    });
    (server, port)
}

/// One HTTP client for all servers of the test process that speak plain HTTP.
fn http() -> reqwest::Client {
    static CLIENT: OnceLock<reqwest::Client> = OnceLock::new();
    CLIENT.get_or_init(|| http_client(|b| b)).clone()
}

fn http_client(
    with: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
) -> reqwest::Client {
    // Another part of the process may have installed it first.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let builder = with(reqwest::Client::builder().no_proxy());
    builder.build().expect("an HTTP client")
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime")
    })
}
