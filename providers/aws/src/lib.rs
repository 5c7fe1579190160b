//! AWS as a Taskpass provider: sessions of IAM roles that end with their task.
//!
//! **Issue.** The provider calls `AssumeRole` with a session policy made of the role's template and
//! the scope. A policy over 2,048 characters is refused, never cut. The policy also denies
//! everything from the credential's deadline on, so that a lifetime may be shorter than STS's 900
//! s, and it forbids to assume further roles. The session is tagged with the task, the credential
//! and the agent; the agent is its source identity.
//!
//! **Revoke.** STS cannot end a session, but AWS evaluates permissions at every call. A second
//! principal, the *revoker*, keeps an inline policy on each IAM role, its *deny list*. It denies
//! everything to sessions that are tagged with an ended task or a revoked credential. A canary
//! session with the same tags proves it. Without a revoker the class is `expiry_only`: only the
//! deadline in the session policy ends a session.
//!
//! **Overflow.** A deny list that does not fit IAM's limit is folded by windows of time. Other
//! tasks that began in such a window lose their sessions and must have new ones issued. The broker
//! logs it, `check` warns of it, and the receipts say it.
//!
//! **Limits that no emulator shows.** The packed size of policies and tags: STS answers
//! `PackedPolicyTooLarge`, which becomes a misconfiguration. How fast a policy spreads: AWS says up
//! to minutes, others measured about 4 s, and a proof holds for the service and region of the
//! probe. A resource policy that names a *session's* ARN overrides the template, though not the
//! denials. A principal that may edit the role can remove the deny list until the next write:
//! protect it with a permissions boundary or an SCP.
//!
//! **Logs.** At `trace` the targets `aws_smithy_runtime`, `aws_sigv4` and `hyper` print requests
//! with the broker's own session token. With `LOG_SENSITIVE_BODIES=true` in the environment they
//! also print answers with the minted secrets. A program that uses this crate must hold these
//! targets at `info`.
//!
//! ```
//! use taskpass_provider_aws::AwsConfig;
//!
//! let config: AwsConfig = toml::from_str(r#"
//!     name = "aws-prod"
//!     kind = "aws"
//!     region = "eu-central-1"
//!     credentials = { source = "file", path = "secrets/aws-broker" }
//!     [revoker]
//!     credentials = { source = "file", path = "secrets/aws-revoker" }
//!     [[role]]
//!     name = "artifact-reader"
//!     role_arn = "arn:aws:iam::123456789012:role/artifact-reader"
//!     session_policy = "policies/artifact-reader.json"
//!     params = { bucket = { pattern = "[a-z0-9.-]{3,63}" } }
//!     max_ttl = "15m"
//!     impact = 0
//!     probe = { action = "ec2:DescribeRegions" }
//! "#)?;
//! assert_eq!(config.roles.len(), 1);
//! # Ok::<(), toml::de::Error>(())
//! ```

mod canary;
mod config;
mod credentials;
mod deny_list;
mod endpoints;
mod error;
mod factory;
mod failure;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod iam;
mod kms;
mod provider;
mod revocation;
mod revoker;
mod role;
mod session_policy;
mod share;
mod sts;
#[cfg(test)]
mod tests;
mod transport;

pub use config::{AwsConfig, AwsKind, CredentialsConfig, ProbeConfig, RevokerConfig, RoleConfig};
pub use error::Error;
pub use factory::factory;
pub use kms::{KmsConfig, KmsWord};
pub use provider::AwsProvider;
