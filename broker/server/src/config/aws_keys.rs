//! The keys of a provider of kind `aws`.

use super::provider_keys::{
    DATA_CLASSES_DOC, ENVIRONMENT_DOC, IMPACT, IMPACT_DOC, LIFETIME, NAME_DOC, NUMBER, PARAM,
    PARAMS_DOC, ProviderKey, ROLE_NAME_DOC, Shape, TEXT, TEXTS, optional, required,
};

pub(crate) const PROVIDER: &[ProviderKey] = &[
    required("name", TEXT, NAME_DOC),
    required("kind", TEXT, "`\"aws\"`."),
    required(
        "region",
        TEXT,
        "The region whose STS endpoint is called and where probes run, such as `eu-central-1`.",
    ),
    optional(
        "endpoint_url",
        TEXT,
        "AWS's own",
        "One address for all services, for private endpoints and emulators.",
    ),
    required(
        "credentials",
        Shape::Table(CREDENTIALS),
        "How the broker is known to AWS. It needs `sts:AssumeRole`, `sts:TagSession` and `sts:SetSourceIdentity` on \
         the roles, and nothing else.",
    ),
    optional(
        "revoker",
        Shape::Table(REVOKER),
        "none",
        "The principal that edits the deny list of the roles. Without it credentials end by expiry only.",
    ),
    optional("role", Shape::Tables(ROLE), "none", "The roles."),
];

const CREDENTIALS: &[ProviderKey] = &[
    required(
        "source",
        TEXT,
        "`\"file\"`, `\"web_identity\"` or `\"instance\"`.",
    ),
    optional(
        "path",
        Shape::Path,
        "none",
        "For `file`: a file of mode 0600, read again when it changes. An AWS credentials file, or the JSON that a \
         `credential_process` prints.",
    ),
    optional(
        "profile",
        TEXT,
        "`\"default\"`",
        "For `file`: the section of an AWS credentials file.",
    ),
    optional(
        "role_arn",
        TEXT,
        "none",
        "For `web_identity`: the role to assume.",
    ),
    optional(
        "token_file",
        Shape::Path,
        "none",
        "For `web_identity`: the file with a token that something else keeps fresh.",
    ),
];

const REVOKER: &[ProviderKey] = &[
    required(
        "credentials",
        Shape::Table(CREDENTIALS),
        "As above, for another principal. It needs `iam:GetRolePolicy` and `iam:PutRolePolicy` on the roles of this \
         provider, and nothing else.",
    ),
    optional(
        "policy_name",
        TEXT,
        "`\"taskpass-deny\"`",
        "The name of the inline policy that holds the deny list.",
    ),
    optional(
        "policy_characters_max",
        NUMBER,
        "`8192`",
        "The most characters the deny list may take, from 1024 to 10240. IAM gives all inline policies of a role \
         10,240 together.",
    ),
    optional(
        "proof_timeout",
        LIFETIME,
        "`\"15s\"`",
        "How long one revocation waits for the proof before it is tried again later; at most 60s.",
    ),
];

const ROLE: &[ProviderKey] = &[
    required("name", TEXT, ROLE_NAME_DOC),
    required("role_arn", TEXT, "The IAM role to assume."),
    required(
        "session_policy",
        Shape::Path,
        "The session policy: a JSON policy document whose string values may hold `${param}`.",
    ),
    optional("params", Shape::Named(PARAM), "none", PARAMS_DOC),
    required(
        "max_ttl",
        LIFETIME,
        "The longest life of a credential, at most 12h. Below 15m the session policy ends it, as STS cannot.",
    ),
    required("impact", IMPACT, IMPACT_DOC),
    optional("environment", TEXT, "`\"\"`", ENVIRONMENT_DOC),
    optional("data_classes", TEXTS, "`[]`", DATA_CLASSES_DOC),
    optional(
        "external_id",
        TEXT,
        "none",
        "The external id that the role's trust policy asks for.",
    ),
    optional(
        "probe",
        Shape::Table(PROBE),
        "none",
        "What a canary session tries in order to prove a revocation. The IAM role must allow it. Without it a \
         revocation is carried out but never called verified.",
    ),
];

const PROBE: &[ProviderKey] = &[
    required(
        "action",
        TEXT,
        "`\"ec2:DescribeRegions\"` or `\"s3:ListBucket\"`.",
    ),
    optional("bucket", TEXT, "none", "For `s3:ListBucket`: the bucket."),
];
