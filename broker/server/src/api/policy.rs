//! `PolicyService`.

use taskpass_proto::v1::{
    GetPolicyRequest, GetPolicyResponse, PolicyFile, policy_service_server::PolicyService,
};
use tonic::{Request, Response, Status};

use super::{Api, status};

#[tonic::async_trait]
impl PolicyService for Api {
    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        let call = self.call(request.extensions()).await?;
        let policy = self.engine.policy_set(&call).await.map_err(status::from)?;
        let files = policy
            .files()
            .iter()
            .map(|file| PolicyFile {
                name: file.name.clone(),
                content: file.text.clone(),
            })
            .collect();
        Ok(Response::new(GetPolicyResponse {
            policy_set: policy.hash().to_owned(),
            files,
        }))
    }
}
