//! `CredentialService`. The reply to `IssueCredential` is the one message that carries secrets.

use taskpass_engine::{IssueCredential, RenewCredential, RevokeCredential};
use taskpass_proto::v1 as pb;
use taskpass_store::CredentialFilter;
use tonic::{Request, Response};

use crate::transport::OnDelivered;

use super::{Answer, Api, convert, parse};

#[tonic::async_trait]
impl pb::credential_service_server::CredentialService for Api {
    async fn issue_credential(
        &self,
        request: Request<pb::IssueCredentialRequest>,
    ) -> Answer<pb::IssueCredentialResponse> {
        self.answer(request, |call, message| async move {
            let issue = IssueCredential {
                task: parse::value("task_id", &message.task_id)?,
                role: parse::value("role", &message.role)?,
                scope: parse::scope("scope", message.scope)?,
                ttl: parse::ttl("ttl_seconds", message.ttl_seconds)?,
            };
            let key = parse::key(&message.idempotency_key)?;
            let issued = self
                .engine
                .issue_credential(&call, key.as_ref(), &issue)
                .await?;
            let mut response = Response::new(pb::IssueCredentialResponse {
                credential_id: issued.id.to_string(),
                role: issued.role.to_string(),
                expires_at: Some(convert::time(issued.expires_at)),
                revocation_class: convert::revocation_class(issued.revocation_class).into(),
                data: issued
                    .data
                    .iter()
                    .map(|(name, secret)| (name.to_owned(), secret.expose().to_owned()))
                    .collect(),
                renewable: issued.renewable,
                env: convert::env(&issued.env),
            });
            let delivery = issued.delivery;
            let on_delivered = OnDelivered::new(move || delivery.confirm());
            response.extensions_mut().insert(on_delivered);
            Ok(response)
        })
        .await
    }

    async fn renew_credential(
        &self,
        request: Request<pb::RenewCredentialRequest>,
    ) -> Answer<pb::RenewCredentialResponse> {
        self.answer(request, |call, message| async move {
            let renew = RenewCredential {
                credential: parse::value("credential_id", &message.credential_id)?,
                ttl: parse::ttl("ttl_seconds", message.ttl_seconds)?,
            };
            let key = parse::key(&message.idempotency_key)?;
            let renewed = self
                .engine
                .renew_credential(&call, key.as_ref(), &renew)
                .await?;
            Ok(Response::new(pb::RenewCredentialResponse {
                credential_id: renewed.credential.to_string(),
                expires_at: Some(convert::time(renewed.expires_at)),
            }))
        })
        .await
    }

    async fn revoke_credential(
        &self,
        request: Request<pb::RevokeCredentialRequest>,
    ) -> Answer<pb::RevokeCredentialResponse> {
        self.answer(request, |call, message| async move {
            let revoke = RevokeCredential {
                credential: parse::value("credential_id", &message.credential_id)?,
                wait: parse::wait(message.wait_ms),
            };
            let receipt = self.engine.revoke_credential(&call, &revoke).await?;
            Ok(Response::new(pb::RevokeCredentialResponse {
                receipt: Some(convert::receipt(&receipt)),
            }))
        })
        .await
    }

    async fn get_credential(
        &self,
        request: Request<pb::GetCredentialRequest>,
    ) -> Answer<pb::GetCredentialResponse> {
        self.answer(request, |call, message| async move {
            let id = parse::value("credential_id", &message.credential_id)?;
            let view = self.engine.credential(&call, id).await?;
            Ok(Response::new(pb::GetCredentialResponse {
                credential: Some(convert::credential(&view)),
            }))
        })
        .await
    }

    async fn list_credentials(
        &self,
        request: Request<pb::ListCredentialsRequest>,
    ) -> Answer<pb::ListCredentialsResponse> {
        self.answer(request, |call, message| async move {
            let filter = CredentialFilter {
                task: parse::optional("task_id", &message.task_id)?,
                agent: parse::optional("agent", &message.agent)?,
                live: message.live,
            };
            let page = parse::page(message.page)?;
            let listing = self.engine.list_credentials(&call, filter, &page).await?;
            Ok(Response::new(pb::ListCredentialsResponse {
                credentials: listing.rows.iter().map(convert::credential).collect(),
                next_page_token: listing.next.unwrap_or_default(),
            }))
        })
        .await
    }
}
