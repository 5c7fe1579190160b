//! The configuration of one AWS account.

use schemars::JsonSchema;
use serde::Deserialize;
use taskpass_core::{Impact, ProviderName, Ttl};
use taskpass_provider::config::{EnvConfig, FilePath, ParamConfigs, SecretFile};

/// Amazon Web Services. A credential is a session of an IAM role, which a deny list ends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// The provider's name, the part before the slash in `<provider>/<role>`. Unique in the file.
    pub name: ProviderName,
    /// The kind of provider.
    pub kind: AwsKind,
    /// The region of the STS endpoint and of the probes, such as `eu-central-1`.
    pub region: String,
    /// One address for all services (STS, IAM, EC2, S3), for private endpoints and emulators.
    /// Without it, AWS's own addresses.
    #[serde(default)]
    pub endpoint_url: Option<String>,
    /// How the broker is known to AWS. Its principal needs `sts:AssumeRole`, `sts:TagSession` and
    /// `sts:SetSourceIdentity` on the roles, and nothing else.
    pub credentials: CredentialsConfig,
    /// The principal that edits the deny list of the roles, apart from the broker's own, since
    /// `iam:PutRolePolicy` is a wide power. Without it, credentials end by expiry only.
    #[serde(default)]
    pub revoker: Option<RevokerConfig>,
    /// The roles.
    #[serde(default, rename = "role")]
    pub roles: Vec<RoleConfig>,
}

/// The word behind `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AwsKind {
    /// Amazon Web Services.
    Aws,
}

/// Where a principal's credentials come from. The environment is never read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialsConfig {
    /// A file of mode 0600, read again when it changes: an AWS credentials file (`[default]` and
    /// three keys), or the JSON that a `credential_process` prints.
    File {
        /// The file.
        path: SecretFile,
        /// The section of an AWS credentials file. Without it, `default`.
        #[serde(default)]
        profile: Option<String>,
    },
    /// `AssumeRoleWithWebIdentity` with a token that another program keeps fresh, such as
    /// Kubernetes or a JWT-SVID helper.
    WebIdentity {
        /// The role to assume.
        role_arn: String,
        /// The file with the token.
        token_file: SecretFile,
    },
    /// The instance profile, through the instance metadata service (version 2).
    Instance {},
}

/// `[provider.revoker]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokerConfig {
    /// How the revoker is known to AWS. Its principal needs `iam:GetRolePolicy` and
    /// `iam:PutRolePolicy` on the roles of this provider, and nothing else.
    pub credentials: CredentialsConfig,
    /// The name of the inline policy that holds the deny list.
    #[serde(default = "default_policy_name")]
    pub policy_name: String,
    /// The most characters that the deny list may take. IAM gives all inline policies of a role
    /// 10,240 together, so the default leaves 2,048 for the role's own.
    #[serde(default = "default_policy_characters_max")]
    #[schemars(range(min = 1024, max = 10_240))]
    pub policy_characters_max: usize,
    /// The part of a deny list, in percent, that one agent may take while no other agent takes any.
    /// Every task with a session that may still live takes about 25 characters. Each share shrinks
    /// as more agents take some: at 50, an agent never takes more than it leaves free. An agent
    /// over its share gets no further session (`RESOURCE_EXHAUSTED`), while revoking goes on.
    #[serde(default = "default_agent_share")]
    #[schemars(range(min = 1, max = 100))]
    pub agent_share: u32,
    /// How long one revocation waits for the proof before it is tried again later.
    #[serde(default = "default_proof_timeout")]
    #[schemars(extend("formatMaximum" = "60s"))]
    pub proof_timeout: Ttl,
}

/// One `[[provider.role]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// The role's name, the part after the slash in `<provider>/<role>`. Unique in the provider.
    pub name: String,
    /// The IAM role to assume.
    pub role_arn: String,
    /// The session policy: a file with a JSON policy document, in which string values may hold
    /// `${param}`.
    pub session_policy: FilePath,
    /// The parameters that an agent must give, each with exactly one rule:
    /// `{ name = { pattern = "[a-z]+" } }`. The session policy must use each of them.
    #[serde(default)]
    pub params: ParamConfigs,
    /// The longest life of one credential. Below 15m the session policy ends it, since STS cannot.
    #[schemars(extend("formatMaximum" = "12h"))]
    pub max_ttl: Ttl,
    /// How much harm a credential can do: 0 reads, 1 writes that can be undone, 2 cannot be undone
    /// or is seen outside, 3 administration.
    pub impact: Impact,
    /// The environment that the role touches, such as `prod`; for policies.
    #[serde(default)]
    pub environment: String,
    /// The classes of data that the role can read, such as `customer`; for policies.
    #[serde(default)]
    pub data_classes: Vec<String>,
    /// The external id that the role's trust policy asks for.
    #[serde(default)]
    pub external_id: Option<String>,
    /// The call that a canary session tries in order to prove a revocation. The IAM role must allow
    /// it; the session policies of agents need not. Without it, a revocation is carried out but
    /// never called verified.
    #[serde(default)]
    pub probe: Option<ProbeConfig>,
    /// The environment variable that `taskpass run` sets from a field of the credential:
    /// `{ session_token = "PROD_SESSION_TOKEN" }`. Without it, the variables that the AWS SDKs
    /// read: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    #[serde(default)]
    pub env: EnvConfig,
}

/// `probe = { action = "ec2:DescribeRegions" }`, or
/// `probe = { action = "s3:ListBucket", bucket = "logs" }`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
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

const fn default_agent_share() -> u32 {
    50
}

fn default_proof_timeout() -> Ttl {
    // INVARIANT: 15 is within 1 s … 366 d; the fallback is never taken.
    Ttl::from_seconds(15).unwrap_or(Ttl::MAX)
}
