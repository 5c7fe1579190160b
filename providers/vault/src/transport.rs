//! Sends one request to Vault: limited in time and size, without redirects, proxy or environment
//! variables, TLS by ring.

use std::{path::Path, sync::Arc, time::Duration};

use reqwest::header::{CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use taskpass_core::{Secret, excerpt};
use url::Url;
use zeroize::Zeroizing;

use crate::{
    config::{ConfigError, VaultConfig},
    consistency::{FORWARD, INCONSISTENT_HEADER, INDEX_HEADER, Index},
    fault::Fault,
};

/// The largest answer that is read; a credential is a few kilobytes.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How often a server over HTTP/2 is pinged while an answer is due.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long it has to answer a ping, which it does however slow its work is.
const PONG_WITHIN: Duration = Duration::from_secs(3);
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE_HEADER: HeaderName = HeaderName::from_static("x-vault-namespace");
const REQUEST_HEADER: HeaderName = HeaderName::from_static("x-vault-request");

pub(crate) struct Transport {
    client: reqwest::Client,
    /// The address with `/v1` behind it and no slash at the end.
    base: String,
    namespace: Option<HeaderValue>,
}

/// An answer, unparsed.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    /// How far the storage was, if the server tells it.
    pub(crate) index: Option<Index>,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transport")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

impl Transport {
    pub(crate) fn new(config: &VaultConfig, base_dir: &Path) -> Result<Self, ConfigError> {
        let url = config.url()?;
        let trust = |message: String| ConfigError::Provider {
            provider: config.name.clone(),
            message,
        };
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_HEADER, HeaderValue::from_static("true"));
        // HTTP/1.1 does not say which request an answer belongs to. If a proxy delivers one twice
        // or late, it would pass for the answer to the next request, and so for a proof or for
        // another agent's credential. HTTP/2 says it, and drops this header.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        let namespace = config.namespace.as_deref().map(HeaderValue::from_str);
        let namespace = namespace
            .transpose()
            .map_err(|e| trust(format!("`namespace` cannot be sent: {e}")))?;
        let ca_file = config.ca_file.as_ref().map(|file| base_dir.join(file));
        let tls = tls_config(&url, ca_file.as_deref()).map_err(trust)?;
        let timeout = config.timeout.duration();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .default_headers(headers)
            .user_agent("taskpass")
            // A redirect would carry the token to a host that is not configured.
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(timeout)
            .connect_timeout(timeout)
            // Otherwise a server that vanished without closing its connection would hold up all
            // requests that share it.
            .http2_keep_alive_interval(PING_EVERY)
            .http2_keep_alive_timeout(PONG_WITHIN)
            // The broker decides about retries: Vault may have carried out a request that seems to
            // have failed.
            .retry(reqwest::retry::never())
            .build()
            .map_err(|e| trust(format!("the HTTP client cannot be built: {e}")))?;
        let base = format!("{}/v1", url.as_str().trim_end_matches('/'));
        Ok(Self {
            client,
            base,
            namespace,
        })
    }

    /// Sends a request in the configured namespace. With `after`, only a place that has seen what
    /// the index stands for answers.
    pub(crate) async fn send(
        &self,
        request: http::Request<Vec<u8>>,
        token: Option<&Secret>,
        after: Option<&Index>,
    ) -> Result<Answer, Fault> {
        self.exchange(request, self.namespace.as_ref(), token, after)
            .await
    }

    /// Sends a request about the server itself, which only the root namespace answers.
    pub(crate) async fn send_to_root(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> Result<Answer, Fault> {
        self.exchange(request, None, None, None).await
    }

    async fn exchange(
        &self,
        request: http::Request<Vec<u8>>,
        namespace: Option<&HeaderValue>,
        token: Option<&Secret>,
        after: Option<&Index>,
    ) -> Result<Answer, Fault> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
        let mut builder = self
            .client
            .request(parts.method, format!("{}{path}", self.base));
        if let Some(namespace) = namespace {
            builder = builder.header(NAMESPACE_HEADER, namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|_e| Fault::Garbled("the token cannot be sent in a header".to_owned()))?;
            value.set_sensitive(true);
            builder = builder.header(TOKEN_HEADER, value);
        }
        if let Some(index) = after.and_then(Index::header) {
            builder = builder
                .header(INDEX_HEADER, index)
                .header(INCONSISTENT_HEADER, FORWARD);
        }
        if !body.is_empty() {
            builder = builder.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = builder.send().await.map_err(|e| unanswered(&e))?;
        let status = response.status().as_u16();
        let retry_after = retry_after(response.headers());
        let index = response.headers().get(INDEX_HEADER).and_then(Index::read);
        let mut body = Zeroizing::new(Vec::new());
        while let Some(chunk) = response.chunk().await.map_err(|e| unanswered(&e))? {
            if body.len().saturating_add(chunk.len()) > ANSWER_BYTES_MAX {
                return Err(Fault::Garbled(format!(
                    "the answer is larger than {ANSWER_BYTES_MAX} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            retry_after,
            index,
            body,
        })
    }
}

/// TLS 1.3, and 1.2 for older balancers in front of Vault. ring is named, since other providers may
/// be compiled in.
fn tls_config(url: &Url, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    if url.scheme() == "https" {
        let certificates = match ca_file {
            Some(path) => read_certificates(path)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let (usable, _unusable) = roots.add_parsable_certificates(certificates);
        if usable == 0 {
            return Err("no trusted certificate was found; set `ca_file`".to_owned());
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|e| format!("TLS cannot be set up: {e}"))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let describe = |e: &dyn std::fmt::Display| {
        format!(
            "`ca_file` (`{}`) does not hold PEM certificates: {}",
            path.display(),
            // The parser's message lists every byte that it refuses.
            excerpt(&e.to_string())
        )
    };
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|e| describe(&e))?
        .collect();
    certificates.map_err(|e| describe(&e))
}

/// Without a connection no other call would be answered either. A call on a connection may be slow
/// by itself: the database of one role hangs.
fn unanswered(error: &reqwest::Error) -> Fault {
    if error.is_connect() {
        Fault::Unreachable(reason(error))
    } else {
        Fault::Silent(reason(error))
    }
}

/// The innermost cause, which helps most; without the URL, because its path may hold scope values.
fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds))
}
