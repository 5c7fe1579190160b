//! The configuration of an AWS provider, as it stands in `taskpass.toml`. Parsed here, checked when the provider is built.

use std::path::PathBuf;

use serde::Deserialize;
use taskpass_core::{Impact, Ttl};
use taskpass_provider::config::ParamConfigs;

/// One `[[provider]]` of kind `aws`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// The provider's name, such as `aws-prod`.
    pub name: String,
    /// Always `aws`.
    pub kind: String,
    /// The region whose STS endpoint is called and where probes run, such as `eu-central-1`.
    pub region: String,
    /// One address for all services (STS, IAM, EC2, S3), for private endpoints and emulators. Default: AWS's own.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// How the broker itself is known to AWS: it needs `sts:AssumeRole`, `sts:TagSession` and
    /// `sts:SetSourceIdentity` on the roles, and nothing else.
    pub credentials: CredentialsConfig,
    /// The principal that may edit the deny list of the roles. Without it credentials die by expiry only.
    #[serde(default)]
    pub revoker: Option<RevokerConfig>,
    /// The roles.
    #[serde(default, rename = "role")]
    pub roles: Vec<RoleConfig>,
}

/// Where a principal's credentials come from. The environment is never read.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialsConfig {
    /// A file of mode 0600, read again when it changes: an AWS credentials file (`[default]` and three keys), or
    /// the JSON that a `credential_process` prints.
    File {
        /// Relative to the configuration file.
        path: PathBuf,
        /// The section of an AWS credentials file. Default `default`.
        #[serde(default)]
        profile: Option<String>,
    },
    /// `AssumeRoleWithWebIdentity` with a token that something else keeps fresh (Kubernetes, a JWT-SVID helper).
    WebIdentity {
        /// The role to assume.
        role_arn: String,
        /// The file with the token; relative to the configuration file.
        token_file: PathBuf,
    },
    /// The instance profile, through the instance metadata service (version 2).
    Instance {},
}

/// `[provider.revoker]`: a principal apart from the broker's, since `iam:PutRolePolicy` is a wide power.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokerConfig {
    /// Needs `iam:GetRolePolicy` and `iam:PutRolePolicy` on the roles of this provider, and nothing else.
    pub credentials: CredentialsConfig,
    /// The name of the inline policy that holds the deny list. Default `taskpass-deny`.
    #[serde(default = "default_policy_name")]
    pub policy_name: String,
    /// The most characters the deny list may take. IAM gives all inline policies of a role 10,240 together, so the
    /// default of 8192 leaves 2,048 for the role's own. Between 1024 and 10240.
    #[serde(default = "default_policy_characters_max")]
    pub policy_characters_max: usize,
    /// How long one revocation waits for the proof before it is tried again later. Default `15s`, at most `60s`.
    #[serde(default = "default_proof_timeout")]
    pub proof_timeout: Ttl,
}

/// One `[[provider.role]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// The role's name in Taskpass.
    pub name: String,
    /// The IAM role to assume.
    pub role_arn: String,
    /// The session policy: a JSON policy document whose string values may hold `${param}`. Relative to the
    /// configuration file.
    pub session_policy: PathBuf,
    /// The parameters an agent must give; each must be used in the session policy.
    #[serde(default)]
    pub params: ParamConfigs,
    /// The longest life of a credential, at most 12h. Below 15m the session policy ends it, as STS cannot.
    pub max_ttl: Ttl,
    /// 0 read, 1 reversible write, 2 irreversible or visible outside, 3 administration.
    pub impact: Impact,
    /// The environment, such as `prod`; for policies. Default empty.
    #[serde(default)]
    pub environment: String,
    /// What kinds of data the role reaches; for policies.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// The external id that the role's trust policy asks for.
    #[serde(default)]
    pub external_id: Option<String>,
    /// What a canary session tries in order to prove a revocation. The IAM role must allow it; the session policies
    /// of agents need not. Without it a revocation is carried out but never called verified.
    #[serde(default)]
    pub probe: Option<ProbeConfig>,
}

/// `probe = { action = "ec2:DescribeRegions" }` or `probe = { action = "s3:ListBucket", bucket = "logs" }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "action", deny_unknown_fields)]
pub enum ProbeConfig {
    /// `DescribeRegions` with `DryRun`: reads nothing, changes nothing, costs nothing.
    #[serde(rename = "ec2:DescribeRegions")]
    DescribeRegions {},
    /// Lists no keys of one bucket of the provider's region (`max-keys=0`).
    #[serde(rename = "s3:ListBucket")]
    ListBucket {
        /// The bucket.
        bucket: String,
    },
}

fn default_policy_name() -> String {
    "taskpass-deny".to_owned()
}

const fn default_policy_characters_max() -> usize {
    8192
}

fn default_proof_timeout() -> Ttl {
    // INVARIANT: 15 is within 1 s … 366 d; the fallback is never taken.
    Ttl::from_seconds(15).unwrap_or(Ttl::MAX)
}
