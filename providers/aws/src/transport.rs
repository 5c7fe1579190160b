//! The only way to AWS: an HTTP client over rustls and ring. The crate signs its requests itself
//! (SigV4) where an SDK crate would be hundreds of times larger than the call. Redirects are not
//! followed, answers are limited in size, and every request has a deadline and a connection of its
//! own.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use aws_credential_types::Credentials;
use aws_sigv4::{
    http_request::{
        PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
        UriPathNormalizationMode, sign,
    },
    sign::v4,
};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_http_client::{
    Connector,
    tls::{self, rustls_provider::CryptoMode},
};
use aws_smithy_runtime_api::{
    client::http::{HttpConnector, HttpConnectorSettings, SharedHttpClient},
    http::{Request, Response},
};
use aws_smithy_types::{body::SdkBody, byte_stream::ByteStream, date_time::Format};
use taskpass_core::Timestamp;
use taskpass_provider::ProviderError;

use crate::failure;

/// The deadline of one request, from connecting to the last byte.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How long connecting may take.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer; the largest policy is a tenth of it.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Connections that are kept: none. HTTP/1.1 does not say which request an answer belongs to. If a
/// proxy delivers one twice, it would pass for the answer to the next request, and so for another
/// agent's session, or for the proof that a session is denied. Over HTTP/2, requests on a
/// connection that vanished without being closed would wait for their whole deadline.
const IDLE_CONNECTIONS_MAX: usize = 0;

/// The HTTP client for the SDK.
pub(crate) fn sdk_client() -> SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
        .build_https()
}

/// A time in the SDK's type.
pub(crate) fn system_time(time: Timestamp) -> SystemTime {
    let millis = u64::try_from(time.millis()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}

/// The address of a request, and the service and region that its signature is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The service's signing name.
    pub(crate) service: &'static str,
    /// The signing region.
    pub(crate) region: String,
    /// Scheme, host and port, without a slash at the end.
    pub(crate) base: String,
}

/// One request of the AWS query protocol, of its JSON protocol, or of S3.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// `GET`, `POST`, …
    pub(crate) method: &'a str,
    /// Percent-encoded, with the query.
    pub(crate) path: &'a str,
    /// A form, a JSON object, or an object's content.
    pub(crate) body: &'a str,
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// AWS's time at the answer, in whole seconds.
    pub(crate) date: Option<Timestamp>,
    pub(crate) body: String,
}

impl Answer {
    /// AWS's error code; empty if there is none.
    pub(crate) fn code(&self) -> Cow<'_, str> {
        element(&self.body, "Code").unwrap_or_default()
    }

    /// The answer as an error of `action`.
    pub(crate) fn refusal(&self, action: &str) -> ProviderError {
        let message = element(&self.body, "Message").unwrap_or_default();
        failure::refused(action, self.status, &self.code(), &message)
    }
}

/// Sends signed requests.
#[derive(Debug)]
pub(crate) struct Transport {
    connector: Connector,
}

impl Transport {
    pub(crate) fn new() -> Self {
        let settings = HttpConnectorSettings::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(REQUEST_TIMEOUT)
            .build();
        Self {
            connector: Connector::builder()
                .tls_provider(tls::Provider::Rustls(CryptoMode::Ring))
                .connector_settings(settings)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
                .sleep_impl(TokioSleep::new())
                .build(),
        }
    }

    /// Signs and sends; the error text names `action` and never the request.
    pub(crate) async fn send(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        now: Timestamp,
        call: &Call<'_>,
        action: &str,
    ) -> Result<Answer, ProviderError> {
        let form = [(
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        )];
        let headers = if call.method == "POST" {
            &form[..]
        } else {
            &[]
        };
        self.send_with(endpoint, credentials, now, call, headers, action)
            .await
    }

    /// The same, with these headers and no others of our own.
    pub(crate) async fn send_with(
        &self,
        endpoint: &Endpoint,
        credentials: &Credentials,
        now: Timestamp,
        call: &Call<'_>,
        headers: &[(&'static str, &'static str)],
        action: &str,
    ) -> Result<Answer, ProviderError> {
        let request = signed(endpoint, credentials, now, call, headers).map_err(|reason| {
            ProviderError::Misconfigured(format!("{action} could not be signed: {reason}"))
        })?;
        let exchange = async {
            let response = self
                .connector
                .call(request)
                .await
                .map_err(|e| failure::no_answer(action, &failure::reason(&e)))?;
            read(response)
                .await
                .map_err(|reason| failure::no_answer(action, &reason))
        };
        match tokio::time::timeout(REQUEST_TIMEOUT, exchange).await {
            Ok(result) => result,
            Err(elapsed) => Err(failure::no_answer(action, &elapsed.to_string())),
        }
    }
}

fn signed(
    endpoint: &Endpoint,
    credentials: &Credentials,
    now: Timestamp,
    call: &Call<'_>,
    headers: &[(&'static str, &'static str)],
) -> Result<Request<SdkBody>, String> {
    let uri = format!("{}{}", endpoint.base, call.path);
    let mut request = http::Request::builder()
        .method(call.method)
        .uri(&uri)
        .body(SdkBody::from(call.body))
        .map_err(|e| e.to_string())?;
    for (name, value) in headers {
        request.headers_mut().insert(
            http::HeaderName::from_static(name),
            http::HeaderValue::from_static(value),
        );
    }
    let mut settings = SigningSettings::default();
    if endpoint.service == "s3" {
        // S3 signs the path as sent and takes the body's hash in a header.
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    }
    let identity = credentials.clone().into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&endpoint.region)
        .name(endpoint.service)
        .time(system_time(now))
        .settings(settings)
        .build()
        .map_err(|e| e.to_string())?
        .into();
    let headers = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let signable = SignableRequest::new(
        call.method,
        &uri,
        headers,
        SignableBody::Bytes(call.body.as_bytes()),
    )
    .map_err(|e| e.to_string())?;
    let (instructions, _signature) = sign(signable, &params)
        .map_err(|e| e.to_string())?
        .into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Request::try_from(request).map_err(|e| e.to_string())
}

async fn read(response: Response<SdkBody>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let date = response.headers().get("date").and_then(http_date);
    let mut stream = ByteStream::new(response.into_body());
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.try_next().await.map_err(|e| e.to_string())? {
        if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(format!("the answer has more than {ANSWER_BYTES_MAX} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    let body = String::from_utf8(bytes).map_err(|e| e.to_string())?;
    Ok(Answer { status, date, body })
}

/// The `Date` header of an answer (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let date = aws_smithy_types::DateTime::from_str(text, Format::HttpDate).ok()?;
    Some(Timestamp::from_millis(date.secs().checked_mul(1000)?))
}

/// The text of the first `<name>` in a small, flat XML answer. AWS's answers to these few calls
/// need no more.
pub(crate) fn element<'a>(xml: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let (_, after) = xml.split_once(&format!("<{name}>"))?;
    let (text, _) = after.split_once(&format!("</{name}>"))?;
    if !text.contains('&') {
        return Some(Cow::Borrowed(text));
    }
    let plain = text
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&apos;", "'")
        .replace("&#39;", "'")
        .replace("&amp;", "&");
    Some(Cow::Owned(plain))
}

/// A form body of the query protocol.
pub(crate) fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_or_are_none() {
        let time = http_date("Sun, 22 Nov 2026 18:34:53 GMT").unwrap();
        assert_eq!(time.to_string(), "2026-11-22T18:34:53.000Z");
        for bad in ["", "now", "2026-11-22T18:34:53Z", "1795372493"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn elements_are_found_and_unescaped() {
        let xml = "<E><Code>AccessDenied</Code><Message>a &amp;lt; &quot;b&quot;</Message></E>";
        assert_eq!(element(xml, "Code").unwrap(), "AccessDenied");
        assert_eq!(element(xml, "Message").unwrap(), "a &lt; \"b\"");
        assert_eq!(element(xml, "Other"), None);
        assert_eq!(
            form(&[("a", "1 2"), ("b", "{\"&\"}")]),
            "a=1+2&b=%7B%22%26%22%7D"
        );
    }
}
