//! A seal: a key of AWS KMS wraps the data key of the broker's own keys.
//!
//! Two calls of the JSON protocol, signed by this crate like the calls to IAM: KMS's SDK crate has
//! some fifty operations for which there is no use here.

use std::sync::Arc;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use taskpass_core::{Clock, Secret};
use taskpass_provider::{BuildError, Finding, ProviderError, Seal, SealConfiguration, SealParts};

use crate::{
    config::CredentialsConfig,
    credentials::Source,
    failure, provider,
    transport::{Answer, Call, Endpoint, Transport},
};

const ENCRYPT: [(&str, &str); 2] = headers("TrentService.Encrypt");
const DECRYPT: [(&str, &str); 2] = headers("TrentService.Decrypt");
/// The key of the encryption context, which CloudTrail shows and a key policy can require.
const CONTEXT: &str = "taskpass";

const fn headers(target: &'static str) -> [(&'static str, &'static str); 2] {
    [
        ("content-type", "application/x-amz-json-1.1"),
        ("x-amz-target", target),
    ]
}

/// A key of AWS KMS. The broker calls KMS once at its start. Its principal needs `kms:Encrypt` and
/// `kms:Decrypt` on the key, and nothing else; `kms:Encrypt` only for `taskpassd keys`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KmsConfig {
    /// The kind of seal.
    pub seal: KmsWord,
    /// The symmetric KMS key: its id, its ARN, or an alias.
    pub key: String,
    /// The key's region, such as `eu-central-1`.
    pub region: String,
    /// The address of KMS, for private endpoints and emulators. Without it, AWS's own.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// How the broker is known to AWS.
    pub credentials: CredentialsConfig,
}

/// The word behind `seal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KmsWord {
    /// A key of AWS KMS.
    AwsKms,
}

impl SealConfiguration for KmsConfig {
    const WORD: &'static str = "aws_kms";

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let is_region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.region.is_empty() || !self.region.chars().all(is_region) {
            let message = "`region` must be one of AWS's regions, such as `eu-central-1`";
            found.push(Finding::new("/region", message));
        }
        if self.key.is_empty() || !self.key.chars().all(|c| c.is_ascii_graphic()) {
            let message = "`key` must be the id, the ARN or an alias of a KMS key";
            found.push(Finding::new("/key", message));
        }
        found
    }

    fn build(&self, parts: &SealParts) -> Result<Arc<dyn Seal>, BuildError> {
        if let Some(first) = self.findings().into_iter().next() {
            return Err(first.message.into());
        }
        let region = self.region.as_str();
        let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
        let own = || format!("https://kms.{region}.amazonaws.com{suffix}");
        let named = self.endpoint_url.as_ref();
        Ok(Arc::new(Kms {
            key: self.key.clone(),
            endpoint: Endpoint {
                service: "kms",
                region: region.to_owned(),
                base: named.map_or_else(own, |url| url.trim_end_matches('/').to_owned()),
            },
            source: provider::source(&self.credentials, region, &parts.base_dir, &parts.clock),
            transport: Transport::new(),
            clock: Arc::clone(&parts.clock),
        }))
    }
}

#[derive(Debug)]
struct Kms {
    key: String,
    endpoint: Endpoint,
    source: Source,
    transport: Transport,
    clock: Arc<dyn Clock>,
}

impl Kms {
    /// Makes one call, and returns one field of the answer.
    async fn call(
        &self,
        action: &str,
        headers: &[(&'static str, &'static str)],
        body: Value,
        field: &str,
    ) -> Result<Secret, ProviderError> {
        let action = format!("{action} with the KMS key `{}`", self.key);
        let loaded = self.source.load().await;
        let credentials = loaded.map_err(|e| failure::no_credentials(&action, &e))?;
        let body = Secret::new(body.to_string());
        let call = Call {
            method: "POST",
            path: "/",
            body: body.expose(),
        };
        let (endpoint, now) = (&self.endpoint, self.clock.now());
        let sent = self
            .transport
            .send_with(endpoint, &credentials, now, &call, headers, &action);
        let Answer { status, body, .. } = sent.await?;
        let body = Secret::new(body);
        // The parser's message may quote the answer, and with it the key.
        let parsed: Option<Value> = serde_json::from_str(body.expose()).ok();
        let text = |name: &str| parsed.as_ref()?.get(name)?.as_str();
        if status != 200 {
            let code = text("__type").unwrap_or_default();
            let message = text("message").or_else(|| text("Message"));
            let error = refused(&action, status, code, message.unwrap_or_default());
            if code.contains("ExpiredToken") {
                self.source.discard_cached().await;
            }
            return Err(error);
        }
        let found = text(field).map(str::to_owned).map(Secret::new);
        found.ok_or_else(|| failure::no_answer(&action, &format!("it has no `{field}`")))
    }
}

#[async_trait]
impl Seal for Kms {
    async fn wrap(&self, key: &Secret, context: &str) -> Result<String, ProviderError> {
        let body = json!({
            "KeyId": self.key,
            "Plaintext": key.expose(),
            "EncryptionContext": { CONTEXT: context },
        });
        let wrapped = self.call("Encrypt", &ENCRYPT, body, "CiphertextBlob");
        Ok(wrapped.await?.expose().to_owned())
    }

    async fn unwrap(&self, wrapped: &str, context: &str) -> Result<Secret, ProviderError> {
        let body = json!({
            // Without it KMS would take any key that the principal may use.
            "KeyId": self.key,
            "CiphertextBlob": wrapped,
            "EncryptionContext": { CONTEXT: context },
        });
        self.call("Decrypt", &DECRYPT, body, "Plaintext").await
    }
}

/// KMS names its refusals `Name` or `namespace#Name`. Some of them mean that the key or its use is
/// wrong, and do not pass by themselves.
fn refused(action: &str, status: u16, code: &str, message: &str) -> ProviderError {
    let code = code.rsplit('#').next().unwrap_or_default();
    match code {
        "NotFoundException"
        | "DisabledException"
        | "KMSInvalidStateException"
        | "InvalidKeyUsageException"
        | "IncorrectKeyException"
        | "InvalidCiphertextException"
        | "ValidationException" => {
            let error = failure::refused(action, status, code, message);
            ProviderError::Misconfigured(error.to_string())
        }
        _ => failure::refused(action, status, code, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_that_last_are_told_from_those_that_pass() {
        for (code, kind) in [
            ("com.amazonaws.kms#NotFoundException", "misconfigured"),
            ("InvalidCiphertextException", "misconfigured"),
            ("DisabledException", "misconfigured"),
            ("AccessDeniedException", "denied"),
            ("UnrecognizedClientException", "misconfigured"),
            ("KMSInternalException", "retryable"),
            ("ThrottlingException", "retryable"),
            ("", "retryable"),
        ] {
            let error = refused("Decrypt", 400, code, "why");
            assert_eq!(error.kind(), kind, "{code}");
        }
    }
}
