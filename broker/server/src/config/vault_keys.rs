//! The keys of a provider of kind `vault`.

use super::provider_keys::{
    BOOLEAN, DATA_CLASSES_DOC, ENVIRONMENT_DOC, IMPACT, IMPACT_DOC, LIFETIME, NAME_DOC, NUMBER,
    PARAM, PARAMS_DOC, ProviderKey, ROLE_NAME_DOC, Shape, TEXT, TEXTS, optional, required,
};

pub(crate) const PROVIDER: &[ProviderKey] = &[
    required("name", TEXT, NAME_DOC),
    required(
        "kind",
        TEXT,
        "`\"vault\"`, for HashiCorp Vault and OpenBao.",
    ),
    required(
        "address",
        TEXT,
        "Where the server is, `https://host:port`, with a path when it is behind one.",
    ),
    optional("namespace", TEXT, "none", "The namespace of every request."),
    optional(
        "ca_file",
        Shape::Path,
        "those of the system",
        "PEM certificates of the authorities to trust, and no others.",
    ),
    optional(
        "allow_plaintext",
        BOOLEAN,
        "`false`",
        "Allow `http://` to another machine, which shows every secret to the network.",
    ),
    optional(
        "token_file",
        Shape::Path,
        "none",
        "A file of mode 0600 with the broker's own token; read again when it changes. Exactly one of `token_file` and \
         `approle` must be there.",
    ),
    optional(
        "approle",
        Shape::Table(APPROLE),
        "none",
        "Log in with AppRole instead of a token.",
    ),
    optional(
        "timeout",
        LIFETIME,
        "`\"10s\"`",
        "How long one request may take, connecting included.",
    ),
    optional(
        "max_request_duration",
        LIFETIME,
        "`\"90s\"`, as the server has it",
        "The longest that the server itself works on one request: its `default_max_request_duration`, or the largest \
         `max_request_duration` of its listeners. The session of a call whose answer was lost has to live for that long; with \
         a value that is too short, what the call mints can outlive the task unseen.",
    ),
    optional("role", Shape::Tables(ROLE), "none", "The roles."),
];

const APPROLE: &[ProviderKey] = &[
    optional(
        "mount",
        TEXT,
        "`\"approle\"`",
        "Where the auth method is mounted.",
    ),
    required("role_id", TEXT, "The role's id; not a secret."),
    required(
        "secret_id_file",
        Shape::Path,
        "A file of mode 0600 with the secret id; read at each login.",
    ),
];

const ROLE: &[ProviderKey] = &[
    required("name", TEXT, ROLE_NAME_DOC),
    required(
        "type",
        TEXT,
        "`\"dynamic\"`: what an engine makes, under a lease. `\"token\"`: a Vault token with just `policies`. \
         `\"kv\"`: a static secret, which ending the task cannot take back.",
    ),
    optional(
        "path",
        TEXT,
        "none",
        "For `dynamic` and `kv`: the API path below `/v1/`, such as `database/creds/ci` or `secret/data/app`. \
         `${param}` stands for a scope parameter.",
    ),
    optional(
        "method",
        TEXT,
        "`\"read\"`",
        "How a `dynamic` path is called: `\"read\"`, or `\"write\"`, whose body are the scope's parameters, as \
         `pki/issue/…` needs.",
    ),
    optional(
        "body",
        Shape::Plain("a table"),
        "none",
        "Fixed fields of the body of a `write`; the scope's parameters are added.",
    ),
    optional(
        "ttl_field",
        TEXT,
        "none, the engine decides",
        "The field of the body that tells the engine the lifetime, such as `ttl` for `pki/issue/…`.",
    ),
    optional(
        "version",
        NUMBER,
        "`2`",
        "The version of a `kv` engine, 1 or 2.",
    ),
    required(
        "policies",
        TEXTS,
        "Vault policies that the task's token needs for this role; a `token` role hands out exactly these.",
    ),
    optional("params", Shape::Named(PARAM), "none", PARAMS_DOC),
    optional(
        "max_ttl",
        LIFETIME,
        "`\"15m\"`",
        "The longest life of one credential.",
    ),
    optional(
        "impact",
        IMPACT,
        "`2`, since nobody said that it is less",
        IMPACT_DOC,
    ),
    optional("environment", TEXT, "`\"\"`", ENVIRONMENT_DOC),
    optional("data_classes", TEXTS, "`[]`", DATA_CLASSES_DOC),
    optional(
        "renewable",
        BOOLEAN,
        "`true` for `token` and for a `dynamic` read, else `false`",
        "Whether credentials can be extended.",
    ),
];
