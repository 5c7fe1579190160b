//! `PolicyService`.

use taskpass_engine::AccessQuestion;
use taskpass_policy::Decision;
use taskpass_proto::v1 as pb;
use tonic::{Request, Response};

use super::{Answer, Api, parse, status::Refusal};

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

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Answer<pb::ExplainAccessResponse> {
        self.answer(request, |call, message| async move {
            let agent = parse::value("agent", &message.agent)?;
            let question = question(message.question)?;
            let decisions = self.engine.explain_access(&call, &agent, &question).await?;
            Ok(Response::new(pb::ExplainAccessResponse {
                policy_set: call.policy_set().to_owned(),
                decisions: decisions.iter().map(decision).collect(),
            }))
        })
        .await
    }

    async fn list_access(
        &self,
        request: Request<pb::ListAccessRequest>,
    ) -> Answer<pb::ListAccessResponse> {
        self.answer(request, |call, message| async move {
            let page = parse::page(message.page)?;
            let question = question(message.question)?;
            let listing = self.engine.list_access(&call, &question, &page).await?;
            let agents = listing.rows.iter().map(|row| pb::AgentAccess {
                agent: row.agent.to_string(),
                decisions: row.decisions.iter().map(decision).collect(),
            });
            Ok(Response::new(pb::ListAccessResponse {
                policy_set: call.policy_set().to_owned(),
                agents: agents.collect(),
                next_page_token: listing.next.unwrap_or_default(),
            }))
        })
        .await
    }
}

fn question(asked: Option<pb::AccessQuestion>) -> Result<AccessQuestion, Refusal> {
    let asked = asked.unwrap_or_default();
    Ok(AccessQuestion {
        role: parse::value("question.role", &asked.role)?,
        scope: parse::scope("question.scope", asked.scope)?,
        ttl: parse::ttl("question.ttl_seconds", asked.ttl_seconds)?,
        ip: parse::address("question.address", &asked.address)?,
    })
}

fn decision(decided: &Decision) -> pb::AccessDecision {
    let record = decided.record();
    pb::AccessDecision {
        action: record.action.clone(),
        allowed: decided.is_allowed(),
        reason: record.reason.clone(),
        policies: record.policies.clone(),
        errors: record.errors.clone(),
    }
}
