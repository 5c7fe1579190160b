//! Calls of an OpenBao without a program in between.

use std::{sync::Arc, time::Duration};

use rustls::client::Resumption;
use rustls_pki_types::CertificateDer;
use serde_json::Value;

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

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn over(&self, http: reqwest::Client) -> Self {
        Self {
            http,
            ..self.clone()
        }
    }

    /// Sends a request. Returns the answer's JSON, or the status.
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

/// An HTTP client that trusts only `root`. Without `keep` every call
/// makes its own connection with a full handshake, as a call of the broker does.
pub(crate) fn http(root: CertificateDer<'static>, keep: bool) -> reqwest::Client {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(root).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // reqwest asks for the process's default provider even when it receives a configuration.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.resumption = Resumption::disabled();
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .pool_max_idle_per_host(if keep { usize::MAX } else { 0 })
        .timeout(Duration::from_secs(60));
    builder.build().expect("an HTTP client")
}
