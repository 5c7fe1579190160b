//! `CredentialService`. The reply to `IssueCredential` is the one message that carries secrets.

use taskpass_engine::{Error, IssueCredential, RenewCredential, RevokeCredential};
use taskpass_proto::v1::{
    GetCredentialRequest, GetCredentialResponse, IssueCredentialRequest, IssueCredentialResponse,
    ListCredentialsRequest, ListCredentialsResponse, RenewCredentialRequest,
    RenewCredentialResponse, RevokeCredentialRequest, RevokeCredentialResponse,
    credential_service_server::CredentialService,
};
use taskpass_store::CredentialFilter;
use tonic::{Request, Response, Status};

use crate::transport::OnDelivered;

use super::{Api, convert, status};

#[tonic::async_trait]
impl CredentialService for Api {
    async fn issue_credential(
        &self,
        request: Request<IssueCredentialRequest>,
    ) -> Result<Response<IssueCredentialResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let issue = IssueCredential {
            task_id: message.task_id,
            role: message.role,
            scope: convert::pairs(message.scope),
            ttl_seconds: message.ttl_seconds,
        };
        let issued = self
            .engine
            .issue_credential(&call, &message.idempotency_key, &issue)
            .await
            .map_err(status::from)?;
        let mut response = Response::new(IssueCredentialResponse {
            credential_id: issued.id.to_string(),
            role: issued.role.to_string(),
            expires_at: Some(convert::time(issued.expires_at)),
            revocation_class: issued.revocation_class.as_str().to_owned(),
            data: issued
                .data
                .iter()
                .map(|(name, secret)| (name.to_owned(), secret.expose().to_owned()))
                .collect(),
            renewable: issued.renewable,
        });
        let handover = issued.handover;
        let on_delivered = OnDelivered::new(move || handover.done());
        response.extensions_mut().insert(on_delivered);
        Ok(response)
    }

    async fn renew_credential(
        &self,
        request: Request<RenewCredentialRequest>,
    ) -> Result<Response<RenewCredentialResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let renew = RenewCredential {
            credential_id: message.credential_id,
            ttl_seconds: message.ttl_seconds,
        };
        let (id, expires_at) = self
            .engine
            .renew_credential(&call, &message.idempotency_key, &renew)
            .await
            .map_err(status::from)?;
        Ok(Response::new(RenewCredentialResponse {
            credential_id: id.to_string(),
            expires_at: Some(convert::time(expires_at)),
        }))
    }

    async fn revoke_credential(
        &self,
        request: Request<RevokeCredentialRequest>,
    ) -> Result<Response<RevokeCredentialResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let revoke = RevokeCredential {
            credential_id: message.credential_id,
            wait_ms: message.wait_ms,
        };
        let receipt = self
            .engine
            .revoke_credential(&call, &revoke)
            .await
            .map_err(status::from)?;
        Ok(Response::new(RevokeCredentialResponse {
            receipt: Some(convert::receipt(&receipt)),
        }))
    }

    async fn get_credential(
        &self,
        request: Request<GetCredentialRequest>,
    ) -> Result<Response<GetCredentialResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let (credential, renewable) = self
            .engine
            .credential(&call, &request.get_ref().credential_id)
            .await
            .map_err(status::from)?;
        Ok(Response::new(GetCredentialResponse {
            credential: Some(convert::credential(&credential, renewable)),
        }))
    }

    async fn list_credentials(
        &self,
        request: Request<ListCredentialsRequest>,
    ) -> Result<Response<ListCredentialsResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let message = request.into_inner();
        let page = convert::page(message.page.clone()).map_err(status::from)?;
        let filter = filter(&message).map_err(status::from)?;
        let listing = self
            .engine
            .list_credentials(&call, filter, &page)
            .await
            .map_err(status::from)?;
        Ok(Response::new(ListCredentialsResponse {
            credentials: listing
                .rows
                .iter()
                .map(|(credential, renewable)| convert::credential(credential, *renewable))
                .collect(),
            next_page_token: listing.next.unwrap_or_default(),
        }))
    }
}

fn filter(message: &ListCredentialsRequest) -> Result<CredentialFilter, Error> {
    let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let task = optional(&message.task_id).map(|id| id.parse()).transpose();
    let agent = optional(&message.agent)
        .map(|name| name.parse())
        .transpose();
    Ok(CredentialFilter {
        task: task.map_err(|e| Error::invalid("task_id", e))?,
        agent: agent.map_err(|e| Error::invalid("agent", e))?,
        live: message.live,
    })
}
