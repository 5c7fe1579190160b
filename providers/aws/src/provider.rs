//! The provider: builds its parts from the configuration, and turns the broker's orders into calls.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde_json::{Value, json};
use taskpass_core::{
    AgentName, Clock, ProviderName, RevocationClass, RoleName, RoleSpec, Scope, Secret,
    SecretFields, Share, Timestamp,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};

use crate::{
    AwsConfig, Error,
    canary::Prober,
    config::CredentialsConfig,
    credentials::{Kind, Source},
    deny_list::{AGENT_TAG, CREDENTIAL_TAG, TASK_TAG},
    endpoints::Endpoints,
    iam::IamPolicy,
    revocation::{ROLE_KEY, Revocation, UNTIL_KEY},
    revoker::{POLICY_CHARACTERS_MIN, RoleDenyList},
    role::Role,
    sts::{SdkTime, Session, SessionRequest, Sts},
    transport::{Transport, sdk_client},
};

/// The least duration that STS takes.
pub(crate) const SESSION_SECONDS_MIN: u64 = 900;
/// IAM's limit for all inline policies of a role.
const ROLE_POLICIES_CHARACTERS_MAX: usize = 10_240;
/// The longest that one call to revoke may wait for its proof.
const PROOF_TIMEOUT_SECONDS_MAX: u32 = 60;

/// One AWS account (or several, through roles that trust the broker's principal) as a provider.
#[derive(Debug)]
pub struct AwsProvider {
    name: ProviderName,
    specs: Vec<RoleSpec>,
    roles: Arc<BTreeMap<RoleName, Role>>,
    sts: Arc<Sts>,
    revocation: Revocation,
    clock: Arc<dyn Clock>,
}

impl AwsProvider {
    /// Checks the configuration and reads the templates; makes no call to AWS. Paths are relative
    /// to `base_dir`.
    pub fn new(config: &AwsConfig, base_dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let name = config.name.clone();
        check(config).map_err(|(_, error)| error)?;
        let class = match config.revoker {
            Some(_) => RevocationClass::Denylist,
            None => RevocationClass::ExpiryOnly,
        };
        let (mut roles, mut specs) = (BTreeMap::new(), Vec::new());
        for role in &config.roles {
            let (role, spec) = Role::new(&name, role, base_dir, class)?;
            if let Some(twice) = roles.insert(role.name.clone(), role) {
                return Err(Error::Config(format!(
                    "role `{}` is configured twice",
                    twice.name
                )));
            }
            specs.push(spec);
        }
        let roles = Arc::new(roles);
        let transport = Arc::new(Transport::new());
        let endpoints = Endpoints::new(&config.region, config.endpoint_url.as_deref());
        let source = |from: &CredentialsConfig| source(from, &config.region, base_dir, &clock);
        let sts = Arc::new(Sts::new(
            &config.region,
            config.endpoint_url.as_deref(),
            source(&config.credentials),
            sdk_client(),
            clock.clone(),
        ));
        let mut lists = BTreeMap::new();
        if let Some(revoker) = &config.revoker {
            let store = Arc::new(IamPolicy {
                transport: transport.clone(),
                endpoint: endpoints.iam.clone(),
                source: source(&revoker.credentials),
                clock: clock.clone(),
                policy_name: revoker.policy_name.clone(),
            });
            for role in roles.values() {
                // Several roles may share one IAM role, which has one list and one writer.
                lists.entry(role.arn.clone()).or_insert_with(|| {
                    let (role, max) = (role.iam_name.clone(), revoker.policy_characters_max);
                    let share = Share::percent(revoker.agent_share);
                    RoleDenyList::new(role, store.clone(), clock.clone(), max, share)
                });
            }
        }
        let prober = Prober {
            sts: sts.clone(),
            transport,
            clock: clock.clone(),
            ec2: endpoints.ec2,
            s3: endpoints.s3,
        };
        let proof_timeout = config.revoker.as_ref().map(|r| r.proof_timeout.duration());
        let revocation = Revocation {
            roles: roles.clone(),
            lists,
            prober,
            proof_timeout: proof_timeout.unwrap_or_default(),
        };
        Ok(Self {
            name,
            specs,
            roles,
            sts,
            revocation,
            clock,
        })
    }
}

impl AwsProvider {
    /// Mints a session, if the role's deny list has room for its task.
    async fn deniable_session(
        &self,
        order: &IssueOrder,
        deadline: Timestamp,
        request: &SessionRequest<'_>,
    ) -> Result<Session, ProviderError> {
        let reservation = match self.revocation.lists.get(request.role_arn) {
            Some(list) => Some(list.reserve(&order.agent, order.task, deadline)?),
            None => None,
        };
        let minted = self.sts.assume(request).await;
        if let (Err(error), Some(reservation)) = (&minted, reservation)
            && error.nothing_was_minted()
        {
            reservation.give_back();
        }
        minted
    }
}

#[async_trait]
impl Provider for AwsProvider {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "aws"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.specs
    }

    /// A deny list has one writer in this process.
    fn may_overlap(&self) -> bool {
        self.revocation.lists.is_empty()
    }

    fn locator(&self, role: &RoleName, _scope: &Scope) -> Option<Value> {
        let role = self.roles.get(role)?;
        Some(json!({ROLE_KEY: role.arn}))
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        let identity = self.sts.identity().await?;
        let mut health = Health {
            findings: vec![format!("AWS knows the broker as `{identity}`")],
            warnings: Vec::new(),
        };
        let mut first_failure = None;
        let mut usable = self.roles.is_empty();
        for role in self.roles.values() {
            match self.revocation.check_role(role, &mut health).await {
                Ok(()) => usable = true,
                Err(error) => {
                    health
                        .warnings
                        .push(format!("role `{}`: {error}", role.name));
                    first_failure.get_or_insert(error);
                }
            }
        }
        self.revocation.check_lists(&mut health).await;
        match first_failure {
            Some(error) if !usable => Err(error),
            _ => Ok(health),
        }
    }

    async fn issue(
        &self,
        order: &IssueOrder,
        _anchors: &dyn Anchors,
    ) -> Result<Issued, ProviderError> {
        let role = self.roles.get(&order.role).ok_or_else(|| {
            ProviderError::Misconfigured(format!(
                "provider `{}` has no role `{}`",
                self.name, order.role
            ))
        })?;
        let now = self.clock.now();
        let deadline = order
            .expires_at
            .min(order.task_deadline)
            .min(now.plus(role.max_ttl.duration()))
            .floor_to_second();
        if deadline <= now {
            return Err(ProviderError::Denied(format!(
                "a credential of `{}` would end at {deadline}, which has passed; ask for a longer lifetime",
                order.role
            )));
        }
        let policy = role
            .template
            .render(&order.scope, deadline)
            .map_err(|e| ProviderError::Misconfigured(format!("role `{}`: {e}", order.role)))?;
        let (credential, task) = (order.credential.to_string(), order.task.to_string());
        let source_identity = source_identity(&order.agent);
        let seconds = duration_seconds(now, deadline, role);
        let request = SessionRequest {
            role_arn: &role.arn,
            external_id: role.external_id.as_deref(),
            name: &credential,
            source_identity: &source_identity,
            policy: &policy,
            duration_seconds: seconds,
            tags: &[
                (TASK_TAG, &task),
                (CREDENTIAL_TAG, &credential),
                (AGENT_TAG, order.agent.as_str()),
            ],
        };
        let session = self.deniable_session(order, deadline, &request).await?;
        Ok(Issued {
            data: secret_fields(&session)?,
            expires_at: deadline.min(session.expires_at),
            // The policy that ends the session earlier goes by AWS's clock.
            lives_for: Some(Duration::from_secs(u64::from(seconds.unsigned_abs()))),
            revocation_class: self.revocation.class(),
            handle: Some(json!({
                "assumed_role": session.arn,
                ROLE_KEY: role.arn,
                UNTIL_KEY: session.expires_at.millis(),
            })),
            anchor: None,
        })
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        Err(ProviderError::Unsupported(format!(
            "credentials of `{}` cannot be renewed, because AWS fixes a session's policy when it begins; issue a new one",
            order.role
        )))
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        self.revocation.revoke(order).await
    }

    async fn probe(&self, order: &RevokeOrder) -> Result<Liveness, ProviderError> {
        self.revocation.probe(order).await
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        self.revocation.maintain().await
    }
}

fn secret_fields(session: &Session) -> Result<SecretFields, ProviderError> {
    let mut data = SecretFields::new();
    let token = session.credentials.session_token().unwrap_or_default();
    for (field, value) in [
        ("access_key_id", session.credentials.access_key_id()),
        ("secret_access_key", session.credentials.secret_access_key()),
        ("session_token", token),
    ] {
        data.insert(field, Secret::new(value.to_owned()))
            .map_err(|e| ProviderError::Misconfigured(e.to_string()))?;
    }
    Ok(data)
}

/// Checks all but the roles. A mistake has a JSON pointer to its place.
pub(crate) fn check(config: &AwsConfig) -> Result<(), (&'static str, Error)> {
    let fail = |place, message: String| Err((place, Error::Config(message)));
    let region = &config.region;
    if region.len() < 5
        || !region
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        let message = format!("`{region}` is not a region, like eu-central-1");
        return fail("/region", message);
    }
    if let Some(endpoint) = &config.endpoint_url {
        // Without TLS the network could read the sessions.
        let usable = url::Url::parse(endpoint).is_ok_and(|url| {
            let here = match url.host() {
                Some(url::Host::Domain(name)) => name == "localhost",
                Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                None => false,
            };
            url.username().is_empty()
                && url.has_host()
                && (url.scheme() == "https" || url.scheme() == "http" && here)
        });
        if !usable {
            let message = format!(
                "`endpoint_url` is `{endpoint}`; write https://host[:port], or http:// on this machine"
            );
            return fail("/endpoint_url", message);
        }
    }
    let Some(revoker) = &config.revoker else {
        return Ok(());
    };
    let name = &revoker.policy_name;
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if name.is_empty() || name.len() > 128 || !name.bytes().all(legal) {
        let message =
            format!("`policy_name` is `{name}`; IAM takes 1 to 128 letters, digits and `+=,.@-_`");
        return fail("/revoker/policy_name", message);
    }
    if !(POLICY_CHARACTERS_MIN..=ROLE_POLICIES_CHARACTERS_MAX)
        .contains(&revoker.policy_characters_max)
    {
        let message = format!(
            "`policy_characters_max` is {}; it lies between {POLICY_CHARACTERS_MIN} and {ROLE_POLICIES_CHARACTERS_MAX}",
            revoker.policy_characters_max
        );
        return fail("/revoker/policy_characters_max", message);
    }
    if !(1..=100).contains(&revoker.agent_share) {
        let message = format!(
            "`agent_share` is {}; it is 1 to 100 percent",
            revoker.agent_share
        );
        return fail("/revoker/agent_share", message);
    }
    if revoker.proof_timeout.seconds() > PROOF_TIMEOUT_SECONDS_MAX {
        let message = format!("`proof_timeout` is {}; at most 60s", revoker.proof_timeout);
        return fail("/revoker/proof_timeout", message);
    }
    Ok(())
}

pub(crate) fn source(
    config: &CredentialsConfig,
    region: &str,
    base_dir: &Path,
    clock: &Arc<dyn Clock>,
) -> Source {
    let sdk = || {
        aws_config::provider_config::ProviderConfig::empty()
            .with_region(Some(aws_config::Region::new(region.to_owned())))
            .with_behavior_version(Some(aws_config::BehaviorVersion::latest()))
            .with_http_client(sdk_client())
            .with_sleep_impl(aws_smithy_async::rt::sleep::TokioSleep::new())
            .with_time_source(SdkTime(clock.clone()))
    };
    let kind = match config {
        CredentialsConfig::File { path, profile } => Kind::File {
            path: base_dir.join(path),
            profile: profile.clone(),
        },
        CredentialsConfig::WebIdentity {
            role_arn,
            token_file,
        } => {
            let settings = aws_config::web_identity_token::StaticConfiguration {
                web_identity_token_file: base_dir.join(token_file),
                role_arn: role_arn.clone(),
                session_name: "taskpass-broker".to_owned(),
            };
            let provider =
                aws_config::web_identity_token::WebIdentityTokenCredentialsProvider::builder()
                    .configure(&sdk())
                    .static_configuration(settings)
                    .build();
            Kind::Remote(aws_credential_types::provider::SharedCredentialsProvider::new(provider))
        }
        CredentialsConfig::Instance {} => {
            let provider = aws_config::imds::credentials::ImdsCredentialsProvider::builder()
                .configure(&sdk())
                .build();
            Kind::Remote(aws_credential_types::provider::SharedCredentialsProvider::new(provider))
        }
    };
    Source::new(kind, clock.clone())
}

/// STS takes whole seconds, at least 900 and at most the role's own maximum.
fn duration_seconds(now: Timestamp, deadline: Timestamp, role: &Role) -> i32 {
    let millis = u64::try_from(deadline.since(now).as_millis()).unwrap_or(u64::MAX);
    let most = u64::from(role.max_ttl.seconds()).max(SESSION_SECONDS_MIN);
    let seconds = millis.div_ceil(1000).clamp(SESSION_SECONDS_MIN, most);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// IAM takes at least two characters, and an agent's name may have one.
fn source_identity(agent: &AgentName) -> String {
    match agent.as_str() {
        short if short.len() < 2 => format!("agent={short}"),
        name => name.to_owned(),
    }
}
