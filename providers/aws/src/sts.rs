//! The calls to STS through its SDK: assume a role, and tell the caller's own identity.

use std::{sync::Arc, time::SystemTime};

use aws_credential_types::Credentials;
use aws_sdk_sts::{
    config::{
        BehaviorVersion, IdentityCache, Region, StalledStreamProtectionConfig, retry::RetryConfig,
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    types::Tag,
};
use aws_smithy_async::{rt::sleep::TokioSleep, time::TimeSource};
use aws_smithy_runtime_api::{client::http::SharedHttpClient, http::Response};
use taskpass_core::{Clock, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    credentials::Source,
    failure,
    transport::{CONNECT_TIMEOUT, REQUEST_TIMEOUT, system_time},
};

/// The SDK must not retry: if the first answer is lost and the second is a refusal, the refusal
/// would wrongly promise that nothing was minted.
const ATTEMPTS: u32 = 1;

/// STS, called as the broker's principal.
#[derive(Debug)]
pub(crate) struct Sts {
    client: aws_sdk_sts::Client,
    source: Source,
}

/// The session to mint.
#[derive(Debug)]
pub(crate) struct SessionRequest<'a> {
    pub(crate) role_arn: &'a str,
    pub(crate) external_id: Option<&'a str>,
    /// 2–64 characters; the last part of the session's ARN.
    pub(crate) name: &'a str,
    /// CloudTrail shows it for every call of the session.
    pub(crate) source_identity: &'a str,
    pub(crate) policy: &'a str,
    pub(crate) duration_seconds: i32,
    pub(crate) tags: &'a [(&'a str, &'a str)],
}

/// A session of a role. `Credentials` wipes itself and its `Debug` shows no secret.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) credentials: Credentials,
    pub(crate) expires_at: Timestamp,
    /// The session's ARN.
    pub(crate) arn: String,
}

/// The broker's clock, for the SDK.
#[derive(Debug)]
pub(crate) struct SdkTime(pub(crate) Arc<dyn Clock>);

impl TimeSource for SdkTime {
    fn now(&self) -> SystemTime {
        system_time(self.0.now())
    }
}

impl Sts {
    pub(crate) fn new(
        region: &str,
        endpoint_url: Option<&str>,
        source: Source,
        http: SharedHttpClient,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(REQUEST_TIMEOUT / 2)
            .operation_timeout(REQUEST_TIMEOUT)
            .build();
        let mut config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region.to_owned()))
            .credentials_provider(source.clone())
            .identity_cache(IdentityCache::no_cache())
            .http_client(http)
            .sleep_impl(TokioSleep::new())
            .time_source(SdkTime(clock))
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS))
            .timeout_config(timeouts);
        config.set_endpoint_url(endpoint_url.map(str::to_owned));
        Self {
            client: aws_sdk_sts::Client::from_conf(config.build()),
            source,
        }
    }

    /// The ARN of the broker's own principal.
    pub(crate) async fn identity(&self) -> Result<String, ProviderError> {
        let action = "GetCallerIdentity";
        self.source
            .load()
            .await
            .map_err(|e| failure::no_credentials(action, &e))?;
        match self.client.get_caller_identity().send().await {
            Ok(identity) => Ok(identity.arn().unwrap_or("an unnamed principal").to_owned()),
            Err(error) => Err(self.failed(action, error).await),
        }
    }

    /// Mints a session.
    pub(crate) async fn assume(
        &self,
        request: &SessionRequest<'_>,
    ) -> Result<Session, ProviderError> {
        let action = format!("AssumeRole of `{}`", request.role_arn);
        // Loaded first: if the file is missing, the error says that nothing was sent.
        self.source
            .load()
            .await
            .map_err(|e| failure::no_credentials(&action, &e))?;
        let mut call = self
            .client
            .assume_role()
            .role_arn(request.role_arn)
            .role_session_name(request.name)
            .source_identity(request.source_identity)
            .policy(request.policy)
            .duration_seconds(request.duration_seconds)
            .set_external_id(request.external_id.map(str::to_owned));
        for (key, value) in request.tags {
            let tag = Tag::builder().key(*key).value(*value).build();
            let tag = tag.map_err(|e| ProviderError::Misconfigured(format!("{action}: {e}")))?;
            call = call.tags(tag).transitive_tag_keys(*key);
        }
        let output = match call.send().await {
            Ok(output) => output,
            Err(error) => return Err(self.failed(&action, error).await),
        };
        let minted = output
            .credentials()
            .ok_or_else(|| failure::no_answer(&action, "it holds no credentials"))?;
        let expires_at =
            Timestamp::from_millis(minted.expiration().to_millis().unwrap_or(i64::MAX));
        Ok(Session {
            credentials: Credentials::new(
                minted.access_key_id(),
                minted.secret_access_key(),
                Some(minted.session_token().to_owned()),
                Some(system_time(expires_at)),
                "assume_role",
            ),
            expires_at,
            arn: output
                .assumed_role_user()
                .map(|user| user.arn().to_owned())
                .unwrap_or_default(),
        })
    }

    async fn failed<E>(&self, action: &str, error: SdkError<E, Response>) -> ProviderError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let (expired, mapped) = mapped(action, &error);
        drop(error);
        if expired {
            self.source.discard_cached().await;
        }
        mapped
    }
}

/// The error for a failed call, and whether the broker's own credentials have expired.
fn mapped<E>(action: &str, error: &SdkError<E, Response>) -> (bool, ProviderError)
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(refusal) => {
            let code = refusal.err().code().unwrap_or_default();
            let message = refusal.err().message().unwrap_or_default();
            let status = refusal.raw().status().as_u16();
            let expired = code.starts_with("ExpiredToken");
            (expired, failure::refused(action, status, code, message))
        }
        SdkError::ConstructionFailure(_) => {
            let reason = failure::reason(error);
            let message = format!("{action} could not be made: {reason}");
            (false, ProviderError::Misconfigured(message))
        }
        // STS may have minted a session.
        SdkError::DispatchFailure(_) | SdkError::TimeoutError(_) => {
            (false, failure::not_reached(action, &failure::reason(error)))
        }
        // An unreadable answer: the same.
        _ => (false, failure::no_answer(action, &failure::reason(error))),
    }
}
