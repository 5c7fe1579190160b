//! A provider that mints words.

use std::collections::BTreeMap;

use async_trait::async_trait;
use taskpass_core::{
    Impact, ParamRule, ProviderName, RevocationClass, RoleSpec, Secret, SecretFields, Ttl,
};
use taskpass_provider::{
    Anchors, Health, IssueOrder, Issued, Liveness, Provider, ProviderError, RenewOrder, Renewed,
    RevokeOrder, Revoked,
};

#[derive(Debug)]
pub(crate) struct BackEnd {
    name: ProviderName,
    roles: [RoleSpec; 1],
}

impl BackEnd {
    pub(crate) fn new() -> Self {
        let rule = |param: &str, rule| (param.parse().expect("a name"), rule);
        let role = RoleSpec {
            name: "fake/reader".parse().expect("a role"),
            kind: "words".to_owned(),
            params: BTreeMap::from([
                rule(
                    "bucket",
                    ParamRule::pattern("[a-z]{1,63}").expect("a pattern"),
                ),
                rule("size", ParamRule::Max(10)),
                rule(
                    "tier",
                    ParamRule::OneOf(vec!["a".to_owned(), "b".to_owned()]),
                ),
            ]),
            required: vec!["bucket".parse().expect("a name")],
            max_ttl: Ttl::from_seconds(900).expect("15 minutes"),
            max_total_ttl: None,
            impact: Impact::Read,
            environment: String::new(),
            data_classes: Vec::new(),
            revocation_class: RevocationClass::Immediate,
            renewable: true,
            env: BTreeMap::new(),
        };
        Self {
            name: role.name.provider().clone(),
            roles: [role],
        }
    }
}

#[async_trait]
impl Provider for BackEnd {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "words"
    }

    fn roles(&self) -> &[RoleSpec] {
        &self.roles
    }

    async fn check(&self) -> Result<Health, ProviderError> {
        Err(ProviderError::Unsupported("it is only words".to_owned()))
    }

    async fn issue(&self, order: &IssueOrder, _: &dyn Anchors) -> Result<Issued, ProviderError> {
        let mut data = SecretFields::new();
        let word = Secret::new("word".to_owned());
        data.insert("password", word)
            .map_err(|e| ProviderError::retryable(e.to_string()))?;
        Ok(Issued {
            data,
            expires_at: order.expires_at,
            lives_for: None,
            revocation_class: RevocationClass::Immediate,
            handle: None,
            anchor: None,
        })
    }

    async fn renew(&self, order: &RenewOrder) -> Result<Renewed, ProviderError> {
        Ok(Renewed {
            expires_at: order.until,
            lives_for: None,
        })
    }

    async fn revoke(
        &self,
        order: &RevokeOrder,
    ) -> Result<Vec<Result<Revoked, ProviderError>>, ProviderError> {
        let gone = |_| {
            Ok(Revoked {
                verified: true,
                proof: "words pass".to_owned(),
                may_live_until: None,
                identity_until: None,
            })
        };
        Ok(order.items.iter().map(gone).collect())
    }

    async fn probe(&self, _: &RevokeOrder) -> Result<Liveness, ProviderError> {
        Ok(Liveness::Unknown("words".to_owned()))
    }

    async fn maintain(&self) -> Result<(), ProviderError> {
        Ok(())
    }
}
