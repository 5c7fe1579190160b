//! OpenBao as one would run it: raft storage, TLS, a file audit device.

use std::{fs, sync::Arc, time::Duration};

use serde_json::{Value, json};
use taskpass_tests::{Server, tool, wire::runtime};
use tempfile::TempDir;

/// A running, unsealed server with a PKI engine and two roles: `stored` and `leased`.
#[derive(Debug)]
pub(crate) struct RaftBao {
    _server: Server,
    pub(crate) client: Client,
    _directory: TempDir,
}

/// Calls of one OpenBao with one token.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    address: String,
    token: String,
}

impl Client {
    pub(crate) const fn new(http: reqwest::Client, address: String, token: String) -> Self {
        Self {
            http,
            address,
            token,
        }
    }

    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: token.to_owned(),
            ..self.clone()
        }
    }

    /// Sends a request; the answer's JSON, or the status.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, String> {
        let url = format!("{}/v1/{path}", self.address);
        let request = self
            .http
            .request(method.parse().expect("a method"), url)
            .header("X-Vault-Token", &self.token);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|e| e.to_string())?;
        if status.is_success() {
            Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
        } else {
            Err(format!("{method} {path}: {status}: {text}"))
        }
    }

    pub(crate) async fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        self.call(method, path, body)
            .await
            .unwrap_or_else(|e| panic!("{e}"))
    }
}

/// An HTTP client that trusts `root` only, or nobody.
pub(crate) fn http(root: Option<rustls_pki_types::CertificateDer<'static>>) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(root) = root {
        roots.add(root).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // The client asks for the process's default even when it is handed a configuration.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(Duration::from_secs(60));
    builder.build().expect("an HTTP client")
}

impl RaftBao {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(directory.path().join("tls.pem"), certificate.pem()).expect("a file");
        fs::write(directory.path().join("tls.key"), key.serialize_pem()).expect("a file");
        fs::create_dir(directory.path().join("raft")).expect("a directory");
        // Raft wants to know its addresses beforehand; between here and there nobody takes the ports, most likely.
        let [port, cluster] = [(); 2].map(|()| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("an address").port()
        });
        fs::write(
            directory.path().join("bao.hcl"),
            config(directory.path(), port, cluster),
        )
        .expect("a file");
        let mut server = Server::start(
            &tool("bao"),
            &["server", "-config=bao.hcl", "-log-level=warn"],
            &[],
            directory.path(),
        );
        let http = http(Some(certificate.der().clone()));
        let client = Client::new(http, format!("https://127.0.0.1:{port}"), String::new());
        let keys = server.wait_for("OpenBao can be initialised", |_| {
            let body = json!({ "secret_shares": 1, "secret_threshold": 1 });
            runtime()
                .block_on(client.call("PUT", "sys/init", Some(&body)))
                .ok()
        });
        let client = client.with_token(keys["root_token"].as_str().expect("a token"));
        runtime().block_on(async {
            client
                .must(
                    "PUT",
                    "sys/unseal",
                    Some(&json!({ "key": keys["keys"][0] })),
                )
                .await;
        });
        server.wait_for("OpenBao is active", |_| {
            let health = runtime().block_on(client.call("GET", "sys/health", None));
            health.is_ok().then_some(())
        });
        runtime().block_on(prepare(&client));
        Self {
            _server: server,
            client,
            _directory: directory,
        }
    }
}

fn config(directory: &std::path::Path, port: u16, cluster: u16) -> String {
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

async fn prepare(client: &Client) {
    client
        .must("POST", "sys/mounts/pki", Some(&json!({ "type": "pki" })))
        .await;
    let root =
        json!({ "common_name": "bench.test", "ttl": "24h", "key_type": "ec", "key_bits": 256 });
    client
        .must("POST", "pki/root/generate/internal", Some(&root))
        .await;
    for (name, lease) in [("stored", false), ("leased", true)] {
        let role = json!({
            "allow_any_name": true, "generate_lease": lease, "no_store": false, "max_ttl": "1h",
            "key_type": "ec", "key_bits": 256, "use_csr_common_name": false, "use_csr_sans": false,
        });
        client
            .must("POST", &format!("pki/roles/{name}"), Some(&role))
            .await;
    }
    let audit = client.must("GET", "sys/audit", None).await;
    assert!(
        audit.to_string().contains("audit.log"),
        "OpenBao does not audit: {audit}"
    );
}
