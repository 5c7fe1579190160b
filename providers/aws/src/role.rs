//! One configured role, checked, and its template.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use taskpass_core::{ParamName, ParamRule, ProviderName, RevocationClass, RoleName, RoleSpec, Ttl};
use taskpass_provider::config::{EnvConfig, env_of_fields, param_rules, required_params};

use crate::{
    Error,
    config::{ProbeConfig, RoleConfig},
    session_policy::Template,
};

/// The longest session that STS gives.
const SESSION_SECONDS_MAX: u32 = 12 * 3600;
/// The fields of a credential, and the variables in which the AWS SDKs look for them.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("access_key_id", "AWS_ACCESS_KEY_ID"),
    ("secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("session_token", "AWS_SESSION_TOKEN"),
];

/// A role that can be assumed.
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) name: RoleName,
    pub(crate) arn: String,
    /// The last part of the ARN: calls to IAM name a role without its path.
    pub(crate) iam_name: String,
    pub(crate) external_id: Option<String>,
    pub(crate) template: Template,
    pub(crate) max_ttl: Ttl,
    pub(crate) probe: Option<ProbeConfig>,
}

impl Role {
    /// Checks one role; reads its template, which lies relative to `base_dir`.
    pub(crate) fn new(
        provider: &ProviderName,
        config: &RoleConfig,
        base_dir: &Path,
        revocation_class: RevocationClass,
    ) -> Result<(Self, RoleSpec), Error> {
        let Checked {
            name,
            params,
            iam_name,
            env,
        } = check(provider, config)?;
        let path = base_dir.join(&config.session_policy);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::TemplateUnreadable {
            role: name.clone(),
            path: path.clone(),
            source,
        })?;
        let declared: BTreeSet<_> = params.keys().cloned().collect();
        let template = Template::parse(&text, &declared).map_err(|message| Error::Template {
            role: name.clone(),
            path,
            message,
        })?;
        let spec = RoleSpec {
            name: name.clone(),
            kind: "assume_role".to_owned(),
            required: required_params(&config.params, template.params()).map_err(Error::Name)?,
            params,
            max_ttl: config.max_ttl,
            max_total_ttl: None,
            impact: config.impact,
            environment: config.environment.clone(),
            data_classes: config.data_classes.clone(),
            revocation_class,
            // A session policy cannot be changed later; a client requests a new credential.
            renewable: false,
            env,
        };
        let role = Self {
            name,
            arn: config.role_arn.clone(),
            iam_name,
            external_id: config.external_id.clone(),
            template,
            max_ttl: config.max_ttl,
            probe: config.probe.clone(),
        };
        Ok((role, spec))
    }
}

/// The configuration of a role, as far as it can be checked without its template.
pub(crate) struct Checked {
    name: RoleName,
    params: BTreeMap<ParamName, ParamRule>,
    iam_name: String,
    env: EnvConfig,
}

/// Checks one role without reading its template.
pub(crate) fn check(provider: &ProviderName, config: &RoleConfig) -> Result<Checked, Error> {
    let name = RoleName::new(provider.clone(), &config.name).map_err(Error::Name)?;
    let params = param_rules(&config.params).map_err(Error::Name)?;
    let env = env_of_fields(&config.env, &ENVIRONMENT)
        .map_err(|e| Error::Config(format!("role `{name}`: {e}")))?;
    let iam_name = iam_role_name(&config.role_arn).ok_or_else(|| {
        Error::Config(format!(
            "role `{name}`: `{}` is not the ARN of a role, like arn:aws:iam::123456789012:role/reader",
            config.role_arn
        ))
    })?;
    if config.max_ttl.seconds() > SESSION_SECONDS_MAX {
        return Err(Error::Config(format!(
            "role `{name}`: `max_ttl` is {}; STS sessions live at most 12h",
            config.max_ttl
        )));
    }
    if let Some(id) = &config.external_id
        && !is_external_id(id)
    {
        return Err(Error::Config(format!(
            "role `{name}`: `external_id` has 2 to 1224 characters out of letters, digits and `+=,.@:/-_`"
        )));
    }
    if let Some(ProbeConfig::ListBucket { bucket }) = &config.probe
        && !is_bucket(bucket)
    {
        return Err(Error::Config(format!(
            "role `{name}`: `{bucket}` is not a bucket's name, like my-artifacts"
        )));
    }
    Ok(Checked {
        name,
        params,
        iam_name,
        env,
    })
}

/// `arn:aws:iam::123456789012:role/path/name` → `name`.
fn iam_role_name(arn: &str) -> Option<String> {
    let mut parts = arn.splitn(6, ':');
    let (prefix, partition, service, region) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (account, resource) = (parts.next()?, parts.next()?);
    let well_formed = prefix == "arn"
        && partition.starts_with("aws")
        && service == "iam"
        && region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit());
    let (_, name) = resource
        .strip_prefix("role")
        .and_then(|path| path.rsplit_once('/'))?;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    (well_formed
        && resource.starts_with("role/")
        && (1..=64).contains(&name.len())
        && name.bytes().all(legal))
    .then(|| name.to_owned())
}

fn is_external_id(id: &str) -> bool {
    (2..=1224).contains(&id.len())
        && id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_+=,.@:/-".contains(&b))
}

fn is_bucket(bucket: &str) -> bool {
    (3..=63).contains(&bucket.len())
        && bucket
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_names_come_from_arns() {
        let name = |arn| iam_role_name(arn);
        assert_eq!(
            name("arn:aws:iam::123456789012:role/reader").as_deref(),
            Some("reader")
        );
        assert_eq!(
            name("arn:aws-cn:iam::123456789012:role/a/b/reader").as_deref(),
            Some("reader")
        );
        for bad in [
            "reader",
            "arn:aws:iam::123456789012:user/reader",
            "arn:aws:iam::123456789012:rolex/reader",
            "arn:aws:iam::12345678901:role/reader",
            "arn:aws:iam:eu:123456789012:role/reader",
            "arn:aws:sts::123456789012:role/reader",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam::123456789012:role/a&Action=x",
        ] {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
