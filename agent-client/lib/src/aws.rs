//! A task's credential as a credentials provider for the AWS SDKs.
//!
//! The SDK caches a credential until shortly before its expiry and then asks again. By then the
//! credential has been refreshed.

use std::time::{Duration, SystemTime};

use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use taskpass_core::Timestamp;

use crate::{Credential, Error, IssuedCredential};

/// The name of the source in the SDK's logs.
const PROVIDER_NAME: &str = "Taskpass";

/// Gives a [`Credential`] of an AWS role to an AWS SDK.
#[derive(Debug, Clone)]
pub struct AwsCredentials {
    credential: Credential,
}

impl AwsCredentials {
    /// Serves `credential`, which must be of a role of kind `aws`.
    pub const fn new(credential: Credential) -> Self {
        Self { credential }
    }

    async fn load(&self) -> provider::Result {
        let issued = self
            .credential
            .current()
            .await
            .map_err(CredentialsError::provider_error)?;
        let key_id = field(&issued, "access_key_id")?;
        let secret = field(&issued, "secret_access_key")?;
        let session = field(&issued, "session_token")?;
        Ok(Credentials::new(
            key_id,
            secret,
            Some(session),
            Some(system_time(issued.expires_at)),
            PROVIDER_NAME,
        ))
    }
}

impl ProvideCredentials for AwsCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.load())
    }
}

/// The SDK keeps its own copy, which it wipes.
fn field(issued: &IssuedCredential, name: &str) -> Result<String, CredentialsError> {
    issued
        .field(name)
        .map(|secret| secret.expose().to_owned())
        .ok_or_else(|| {
            CredentialsError::invalid_configuration(Error::Reply(format!(
                "the credential of `{}` has no `{name}`; is it an AWS role?",
                issued.role
            )))
        })
}

fn system_time(time: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(time.millis()).unwrap_or(0))
}
