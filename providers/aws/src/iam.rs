//! Storage of the deny list: an inline policy of an IAM role, read and written by the revoker's
//! principal.

use async_trait::async_trait;
use std::sync::Arc;
use taskpass_core::{Clock, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    credentials::Source,
    failure,
    transport::{Answer, Call, Endpoint, Transport, element, form},
};

/// A role's policy, as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The document; `None` if the role has no such policy.
    pub(crate) document: Option<String>,
    /// IAM's time at the read, if IAM told it.
    pub(crate) at: Option<Timestamp>,
}

/// Whether IAM had room for a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    Enough,
    /// The role's inline policies together would exceed IAM's limit.
    TooLittle,
}

/// Reads and writes one inline policy of roles.
#[async_trait]
pub(crate) trait PolicyStore: std::fmt::Debug + Send + Sync {
    /// Reads the policy.
    async fn read(&self, role: &str) -> Result<Found, ProviderError>;
    /// Replaces the document.
    async fn write(&self, role: &str, document: &str) -> Result<Room, ProviderError>;
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
    /// Calls `action` on the policy of `role`. Returns the answer, and the call in words for
    /// errors.
    async fn call(
        &self,
        action: &str,
        role: &str,
        document: Option<&str>,
    ) -> Result<(Answer, String), ProviderError> {
        let named = format!("{action} of role `{role}`");
        let mut fields = vec![
            ("Action", action),
            ("Version", "2010-05-08"),
            ("RoleName", role),
            ("PolicyName", &self.policy_name),
        ];
        fields.extend(document.map(|document| ("PolicyDocument", document)));
        let credentials = self
            .source
            .load()
            .await
            .map_err(|e| failure::no_credentials(&named, &e))?;
        let call = Call {
            method: "POST",
            path: "/",
            body: &form(&fields),
        };
        let now = self.clock.now();
        let sent = self
            .transport
            .send(&self.endpoint, &credentials, now, &call, &named);
        let answer = sent.await?;
        if answer.code().starts_with("ExpiredToken") {
            self.source.discard_cached().await;
        }
        Ok((answer, named))
    }
}

#[async_trait]
impl PolicyStore for IamPolicy {
    async fn read(&self, role: &str) -> Result<Found, ProviderError> {
        let (answer, named) = self.call("GetRolePolicy", role, None).await?;
        let document = match answer.status {
            200 => {
                let encoded = element(&answer.body, "PolicyDocument")
                    .ok_or_else(|| failure::no_answer(&named, "it holds no policy document"))?;
                Some(percent_decoded(&encoded))
            }
            // IAM answers the same for a role that does not exist; the write then fails.
            404 if answer.code() == "NoSuchEntity" => None,
            _ => return Err(answer.refusal(&named)),
        };
        let at = answer.date;
        Ok(Found { document, at })
    }

    async fn write(&self, role: &str, document: &str) -> Result<Room, ProviderError> {
        let (answer, named) = self.call("PutRolePolicy", role, Some(document)).await?;
        match answer.status {
            200 => Ok(Room::Enough),
            _ if answer.code() == "LimitExceeded" => Ok(Room::TooLittle),
            _ => Err(answer.refusal(&named)),
        }
    }
}

/// IAM returns documents percent-encoded (RFC 3986, so `+` is a plus).
fn percent_decoded(text: &str) -> String {
    let plus_kept = text.replace('+', "%2B");
    let pair = format!("d={}", plus_kept.replace('&', "%26").replace('=', "%3D"));
    url::form_urlencoded::parse(pair.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}
