//! The configuration of one directory.
//!
//! The struct is the single source: serde reads it, its JSON schema checks the file with line and
//! column, and the doc comments become `docs/config-reference.md`. Write them for operators.

use schemars::JsonSchema;
use serde::Deserialize;
use taskpass_core::{Impact, InvalidValue, ProviderName, RevocationClass, RoleName, RoleSpec, Ttl};
use taskpass_provider::config::{
    EnvConfig, ParamConfigs, SecretFile, env_of_fields, param_rules, required_params,
};

/// The parameter that narrows a role.
pub(crate) const TEAM: &str = "team";

/// A directory of accounts. It shows how a provider is made.
// `deny_unknown_fields` makes a misspelt key a mistake instead of a key without effect.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    // Every provider has `name`, `kind` and `role`: the broker reads them, too.
    /// The provider's name, the part before the slash in `<provider>/<role>`. Unique in the file.
    pub name: ProviderName,
    /// The kind of provider.
    pub kind: TemplateKind,
    /// Where the directory is: `memory:` and a name.
    pub address: String,
    // `SecretFile` tells `taskpassd doctor` to check that only the broker can read the file. Paths
    // of other files are `FilePath`.
    /// A file of mode 0600 with the broker's own password at the directory; read at every call.
    pub password_file: SecretFile,
    /// The roles.
    #[serde(default, rename = "role")]
    pub roles: Vec<RoleConfig>,
}

/// The word behind `kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateKind {
    /// The directory of the template.
    Template,
}

/// One `[[provider.role]]`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleConfig {
    /// The role's name, the part after the slash in `<provider>/<role>`. Unique in the provider.
    pub name: String,
    /// The group that an account of this role is in.
    pub group: String,
    /// The parameters that an agent may give. There is one: `team` narrows the account to a group
    /// below `group`.
    #[serde(default)]
    pub params: ParamConfigs,
    // A limit of the back end is best said in the schema, where it is checked with its place in the
    // file: `range(min = …, max = …)` for numbers, and this for lifetimes.
    /// The longest life of one credential.
    #[serde(default = "default_max_ttl")]
    #[schemars(extend("formatMaximum" = "24h"))]
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
    /// The environment variable that `taskpass run` sets from a field of the credential:
    /// `{ username = "LDAP_USER" }`. Without it, `DIRECTORY_USER` and `DIRECTORY_PASSWORD`.
    #[serde(default)]
    pub env: EnvConfig,
}

fn default_max_ttl() -> Ttl {
    // INVARIANT: 900 is within 1 s … 366 d; the fallback is never taken.
    Ttl::from_seconds(900).unwrap_or(Ttl::MAX)
}

/// The fields of a credential, with the variables in which the directory's own tools look for them.
/// Where the fields depend on the back end, `env_of_usual_fields` names the usual ones. No other
/// field sets a variable, since the back end chooses its name.
const ENVIRONMENT: [(&str, &str); 2] = [
    ("username", "DIRECTORY_USER"),
    ("password", "DIRECTORY_PASSWORD"),
];

impl RoleConfig {
    /// The facts that the engine and the policies know about the role.
    pub(crate) fn spec(&self, provider: &ProviderName) -> Result<RoleSpec, InvalidValue> {
        let params = param_rules(&self.params)?;
        // A parameter without effect would make its agent believe that the credential is narrow.
        if let Some(idle) = params.keys().find(|param| param.as_str() != TEAM) {
            return Err(InvalidValue::new(format!(
                "parameter `{idle}` has no effect; the directory knows `{TEAM}`"
            )));
        }
        Ok(RoleSpec {
            name: RoleName::new(provider.clone(), &self.name)?,
            kind: "account".to_owned(),
            params,
            required: required_params(&self.params, [])?,
            max_ttl: self.max_ttl,
            max_total_ttl: None,
            impact: self.impact,
            environment: self.environment.clone(),
            data_classes: self.data_classes.clone(),
            // Never promise more than the back end proves; ARCHITECTURE.md lists the classes.
            revocation_class: RevocationClass::Immediate,
            renewable: true,
            env: env_of_fields(&self.env, &ENVIRONMENT)?,
        })
    }
}
