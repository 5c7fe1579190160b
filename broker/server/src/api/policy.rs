//! `PolicyService`.

use taskpass_proto::v1 as pb;
use tonic::{Request, Response};

use super::{Answer, Api};

#[tonic::async_trait]
impl pb::policy_service_server::PolicyService for Api {
    async fn get_policy(
        &self,
        request: Request<pb::GetPolicyRequest>,
    ) -> Answer<pb::GetPolicyResponse> {
        self.answer(request, |call, _| async move {
            let policy = self.engine.policy_set(&call).await?;
            let files = policy
                .files()
                .iter()
                .map(|file| pb::PolicyFile {
                    name: file.name.clone(),
                    content: file.text.clone(),
                })
                .collect();
            Ok(Response::new(pb::GetPolicyResponse {
                policy_set: policy.hash().to_owned(),
                files,
            }))
        })
        .await
    }
}
