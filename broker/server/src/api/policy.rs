//! `PolicyService`.

use taskpass_proto::v1::{
    GetPolicyRequest, GetPolicyResponse, PolicyFile, policy_service_server::PolicyService,
};
use tonic::{Request, Response, Status};

use super::Api;

#[tonic::async_trait]
impl PolicyService for Api {
    async fn get_policy(
        &self,
        request: Request<GetPolicyRequest>,
    ) -> Result<Response<GetPolicyResponse>, Status> {
        self.answer(request, |call, _| async move {
            let policy = self.engine.policy_set(&call).await?;
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
        })
        .await
    }
}
