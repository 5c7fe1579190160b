//! Where the deny list stands: an inline policy of an IAM role, read and written by the revoker's principal.

use async_trait::async_trait;
use std::sync::Arc;
use taskpass_core::{Clock, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    credentials::Source,
    failure,
    transport::{Answer, Call, Endpoint, Transport, element, form},
};

/// A role's policy as it was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The document, or `None` when the role has no such policy.
    pub(crate) document: Option<String>,
    /// What time it was at IAM, if IAM said so.
    pub(crate) at: Option<Timestamp>,
}

/// Reads and writes one inline policy of roles.
#[async_trait]
pub(crate) trait PolicyStore: std::fmt::Debug + Send + Sync {
    /// The policy, and when that was.
    async fn read(&self, role: &str) -> Result<Found, ProviderError>;
    /// Replaces the document; false when IAM says that the role's policies would become too large.
    async fn write(&self, role: &str, document: &str) -> Result<bool, ProviderError>;
}

/// The policy in IAM.
#[derive(Debug)]
pub(crate) struct IamPolicy {
    pub(crate) transport: Arc<Transport>,
    pub(crate) endpoint: Endpoint,
    pub(crate) source: Source,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) policy_name: String,
}

impl IamPolicy {
    async fn call(&self, action: &str, body: &str) -> Result<Answer, ProviderError> {
        let credentials = self
            .source
            .load()
            .await
            .map_err(|e| failure::no_credentials(action, &e))?;
        let call = Call {
            method: "POST",
            path: "/",
            body,
        };
        let answer = self
            .transport
            .send(
                &self.endpoint,
                &credentials,
                self.clock.now(),
                &call,
                action,
            )
            .await?;
        if answer.code().starts_with("ExpiredToken") {
            self.source.forget().await;
        }
        Ok(answer)
    }
}

#[async_trait]
impl PolicyStore for IamPolicy {
    async fn read(&self, role: &str) -> Result<Found, ProviderError> {
        let action = format!("GetRolePolicy of role `{role}`");
        let body = form(&[
            ("Action", "GetRolePolicy"),
            ("Version", "2010-05-08"),
            ("RoleName", role),
            ("PolicyName", &self.policy_name),
        ]);
        let answer = self.call(&action, &body).await?;
        let document = match answer.status {
            200 => {
                let encoded = element(&answer.body, "PolicyDocument")
                    .ok_or_else(|| failure::unanswered(&action, "it holds no policy document"))?;
                Some(percent_decoded(&encoded))
            }
            // Also said of a role that does not exist; writing will then say so.
            404 if answer.code() == "NoSuchEntity" => None,
            _ => return Err(answer.refusal(&action)),
        };
        let at = answer.date;
        Ok(Found { document, at })
    }

    async fn write(&self, role: &str, document: &str) -> Result<bool, ProviderError> {
        let action = format!("PutRolePolicy of role `{role}`");
        let body = form(&[
            ("Action", "PutRolePolicy"),
            ("Version", "2010-05-08"),
            ("RoleName", role),
            ("PolicyName", &self.policy_name),
            ("PolicyDocument", document),
        ]);
        let answer = self.call(&action, &body).await?;
        match answer.status {
            200 => Ok(true),
            _ if answer.code() == "LimitExceeded" => Ok(false),
            _ => Err(answer.refusal(&action)),
        }
    }
}

/// IAM hands documents out percent-encoded (RFC 3986, so `+` is a plus).
fn percent_decoded(text: &str) -> String {
    let plus_kept = text.replace('+', "%2B");
    let pair = format!("d={}", plus_kept.replace('&', "%26").replace('=', "%3D"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
