//! The policy of the tests' broker.

use taskpass_proto::v1::*;
use tonic::Request;

use super::Reply;
use crate::fake::Shared;

#[tonic::async_trait]
impl policy_service_server::PolicyService for Shared {
    async fn get_policy(&self, _request: Request<GetPolicyRequest>) -> Reply<GetPolicyResponse> {
        self.enter("get_policy")?;
        let files = vec![PolicyFile {
            name: "people.cedar".to_owned(),
            content: "permit (principal, action, resource);\n".to_owned(),
        }];
        let policy_set = "00".repeat(32);
        self.leave("get_policy", GetPolicyResponse { policy_set, files })
    }

    async fn explain_access(
        &self,
        request: Request<ExplainAccessRequest>,
    ) -> Reply<ExplainAccessResponse> {
        self.enter("explain_access")?;
        let role = request.into_inner().question.unwrap_or_default().role;
        let reply = ExplainAccessResponse {
            policy_set: "00".repeat(32),
            decisions: decisions(&role),
        };
        self.leave("explain_access", reply)
    }

    async fn list_access(&self, request: Request<ListAccessRequest>) -> Reply<ListAccessResponse> {
        self.enter("list_access")?;
        let role = request.into_inner().question.unwrap_or_default().role;
        let reply = ListAccessResponse {
            policy_set: "00".repeat(32),
            agents: vec![AgentAccess {
                agent: "builder".to_owned(),
                decisions: decisions(&role),
            }],
            next_page_token: String::new(),
        };
        self.leave("list_access", reply)
    }
}

/// Everything is allowed for roles of `vault-main`, and only renewals for others.
fn decisions(role: &str) -> Vec<AccessDecision> {
    ["task.start", "credential.issue", "credential.renew"]
        .map(|action| {
            let allowed = role.starts_with("vault-main/") || action == "credential.renew";
            AccessDecision {
                action: action.to_owned(),
                allowed,
                reason: if allowed {
                    "permitted by policy `grant`"
                } else {
                    "no policy permits it"
                }
                .to_owned(),
                policies: if allowed {
                    vec!["grant".to_owned()]
                } else {
                    Vec::new()
                },
                errors: Vec::new(),
            }
        })
        .into()
}
