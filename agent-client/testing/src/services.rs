//! The calls of the tests' broker: as little as shows whether the client asks for the right thing.

mod agents;
mod policy;

use std::collections::HashMap;

use prost_types::Timestamp as WireTime;
use rustls_pki_types::CertificateDer;
use taskpass_core::{EnvName, RoleName};
use taskpass_proto::v1::{self, attest_request::Evidence, *};
use tonic::{Code, Request, Response, Status, transport::server::Router};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    fake::{AGENT, PeerInfo, SECRET, Shared, State},
    pki::{DOMAIN, Leaf, now, wire},
};

pub(crate) type Reply<T> = Result<Response<T>, Status>;

pub fn router(shared: &Shared) -> Router {
    tonic::transport::Server::builder()
        .add_service(identity_service_server::IdentityServiceServer::new(
            shared.clone(),
        ))
        .add_service(task_service_server::TaskServiceServer::new(shared.clone()))
        .add_service(credential_service_server::CredentialServiceServer::new(
            shared.clone(),
        ))
        .add_service(agent_service_server::AgentServiceServer::new(
            shared.clone(),
        ))
        .add_service(provider_service_server::ProviderServiceServer::new(
            shared.clone(),
        ))
        .add_service(policy_service_server::PolicyServiceServer::new(
            shared.clone(),
        ))
        .add_service(ledger_service_server::LedgerServiceServer::new(
            shared.clone(),
        ))
}

/// A refusal as the broker words it.
pub fn refusal(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: std::collections::HashMap<String, String> = metadata
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    let details = ErrorDetails::with_error_info(reason, "taskpass", metadata);
    Status::with_error_details(code, format!("refused: {reason}"), details)
}

/// The caller. Neither a replaced certificate nor the certificate of an ended task counts. The
/// first use of a new certificate replaces the old one.
fn caller<T>(shared: &Shared, request: &Request<T>) -> Result<PeerInfo, Status> {
    let peer = request
        .extensions()
        .get::<PeerInfo>()
        .cloned()
        .unwrap_or_default();
    let mut state = shared.lock();
    if peer.uri.is_empty() || state.dead_serials.contains(&peer.serial) {
        return Err(refusal(Code::Unauthenticated, "UNAUTHENTICATED", &[]));
    }
    let over = |t: &v1::Task| {
        t.state() == TaskState::Ended && peer.uri.ends_with(&format!("/task/{}", t.id))
    };
    if state.tasks.iter().any(over) {
        return Err(refusal(Code::Unauthenticated, "UNAUTHENTICATED", &[]));
    }
    if let Some(old) = state.pending.remove(&peer.serial) {
        state.dead_serials.insert(old);
    }
    state.callers.push(peer.uri.clone());
    Ok(peer)
}

fn svid(state: &State, path: &str, csr: &[u8]) -> X509Svid {
    let mut leaf = Leaf::named(path);
    leaf.until = state.svid_life;
    let chain = state.pki.sign_request(&leaf, csr);
    X509Svid {
        spiffe_id: leaf.uris[0].clone(),
        expires_at: Some(wire(now() + leaf.until)),
        serial: serial(&chain[0]),
        chain: chain.iter().map(|der| der.to_vec()).collect(),
    }
}

fn serial(der: &CertificateDer<'_>) -> String {
    use x509_parser::prelude::{FromDer, X509Certificate};
    X509Certificate::from_der(der)
        .unwrap()
        .1
        .raw_serial_as_string()
}

#[tonic::async_trait]
impl identity_service_server::IdentityService for Shared {
    async fn attest(&self, request: Request<AttestRequest>) -> Reply<AttestResponse> {
        self.enter("attest")?;
        let request = request.into_inner();
        let mut state = self.lock();
        let shown = match &request.evidence {
            Some(Evidence::JoinToken(token)) => token.as_str(),
            None => "",
        };
        if state.token_used || !shown.contains(SECRET) {
            return Err(refusal(Code::PermissionDenied, "JOIN_TOKEN_INVALID", &[]));
        }
        state.token_used = true;
        Ok(Response::new(AttestResponse {
            svid: Some(svid(&state, AGENT, &request.csr)),
            bundle: Some(state.bundle()),
            ledger: state.head(request.consistent_with),
        }))
    }

    async fn renew_svid(&self, request: Request<RenewSvidRequest>) -> Reply<RenewSvidResponse> {
        self.enter("renew_svid")?;
        let peer = caller(self, &request)?;
        let reply = {
            let mut state = self.lock();
            let request = request.into_inner();
            let path = peer.uri.trim_start_matches(&format!("spiffe://{DOMAIN}"));
            let fresh = svid(&state, path, &request.csr);
            state.pending.insert(fresh.serial.clone(), peer.serial);
            RenewSvidResponse {
                svid: Some(fresh),
                bundle: Some(state.bundle()),
                ledger: state.head(request.consistent_with),
            }
        };
        self.leave("renew_svid", reply)
    }

    async fn get_bundle(&self, _request: Request<GetBundleRequest>) -> Reply<GetBundleResponse> {
        self.enter("get_bundle")?;
        let reply = {
            let state = self.lock();
            GetBundleResponse {
                bundle: Some(state.bundle()),
                signed_roots: state.signed_roots(),
            }
        };
        self.leave("get_bundle", reply)
    }

    async fn who_am_i(&self, request: Request<WhoAmIRequest>) -> Reply<WhoAmIResponse> {
        self.enter("who_am_i")?;
        let peer = caller(self, &request)?;
        let reply = WhoAmIResponse {
            spiffe_id: peer.uri,
            kind: CallerKind::Agent.into(),
            serial: peer.serial,
            expires_at: Some(wire(now())),
            broker_version: "0.0.0".to_owned(),
        };
        self.leave("who_am_i", reply)
    }
}

fn receipts(state: &State) -> Vec<Receipt> {
    let receipt = |id: &String| Receipt {
        credential_id: id.clone(),
        role: "vault-main/ci-db".to_owned(),
        state: CredentialState::RevokedVerified.into(),
        revocation_class: RevocationClass::Immediate.into(),
        took_ms: 12,
        may_live_until: None,
        identity_until: state.identity_until,
        proof: "lookup says gone".to_owned(),
    };
    state.issued.iter().map(receipt).collect()
}

#[tonic::async_trait]
impl task_service_server::TaskService for Shared {
    async fn start_task(&self, request: Request<StartTaskRequest>) -> Reply<StartTaskResponse> {
        self.enter("start_task")?;
        caller(self, &request)?;
        let request = request.into_inner();
        let (task, svid) = {
            let mut state = self.lock();
            let task = v1::Task {
                id: format!("t{:016}", state.tasks.len()),
                agent: "builder".to_owned(),
                purpose: request.purpose,
                requester: request.requester,
                self_declared: true,
                roles: request.roles,
                started_at: Some(wire(now())),
                deadline: Some(wire(now() + state.task_life)),
                heartbeat_seconds: request.heartbeat_seconds,
                parent: request.parent,
                labels: request.labels,
                state: TaskState::Open.into(),
                ..v1::Task::default()
            };
            state.tasks.push(task.clone());
            let path = format!("{AGENT}/task/{}", task.id);
            let kept = state.keeps_bound_svids > 0;
            state.keeps_bound_svids = state.keeps_bound_svids.saturating_sub(1);
            let bound =
                (!request.csr.is_empty() && !kept).then(|| svid(&state, &path, &request.csr));
            (Some(task), bound)
        };
        self.leave("start_task", StartTaskResponse { task, svid })
    }

    async fn end_task(&self, request: Request<EndTaskRequest>) -> Reply<EndTaskResponse> {
        self.enter("end_task")?;
        caller(self, &request)?;
        let request = request.into_inner();
        let cause = if request.cancel {
            EndCause::Cancelled
        } else {
            EndCause::Completed
        };
        let reply = {
            let mut state = self.lock();
            for task in state.tasks.iter_mut().filter(|t| t.id == request.task_id) {
                task.state = TaskState::Ended.into();
                task.end_cause = cause.into();
            }
            EndTaskResponse {
                task_id: request.task_id,
                state: TaskState::Ended.into(),
                end_cause: cause.into(),
                receipts: receipts(&state),
            }
        };
        self.leave("end_task", reply)
    }

    async fn heartbeat(&self, request: Request<HeartbeatRequest>) -> Reply<HeartbeatResponse> {
        self.enter("heartbeat")?;
        caller(self, &request)?;
        let next = Some(wire(now()));
        let deadline = Some(wire(now()));
        self.leave(
            "heartbeat",
            HeartbeatResponse {
                next_before: next,
                deadline,
            },
        )
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Reply<GetTaskResponse> {
        self.enter("get_task")?;
        let id = request.into_inner().task_id;
        let state = self.lock();
        let task = state.tasks.iter().find(|t| t.id == id).cloned();
        let missing = || refusal(Code::NotFound, "TASK_NOT_FOUND", &[]);
        Ok(Response::new(GetTaskResponse {
            anchors: Vec::new(),
            task: Some(task.ok_or_else(missing)?),
            receipts: receipts(&state),
        }))
    }

    /// Two rows a page, for any requested size.
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Reply<ListTasksResponse> {
        self.enter("list_tasks")?;
        let page = request.into_inner().page.unwrap_or_default();
        let from: usize = page.page_token.parse().unwrap_or(0);
        let state = self.lock();
        let tasks: Vec<v1::Task> = state.tasks.iter().skip(from).take(2).cloned().collect();
        let more = from + 2 < state.tasks.len();
        Ok(Response::new(ListTasksResponse {
            tasks,
            next_page_token: if more {
                (from + 2).to_string()
            } else {
                String::new()
            },
        }))
    }
}

/// The variables that the script declares, or one for each field when it declares none.
fn env(state: &State, role: &RoleName) -> HashMap<String, String> {
    if !state.env.is_empty() {
        let owned = |(field, name): &(&str, &str)| ((*field).to_owned(), (*name).to_owned());
        return state.env.iter().map(owned).collect();
    }
    let made = |field: &str| EnvName::of_field(role, field).unwrap().to_string();
    let fields = state.data.iter().map(|(field, _)| *field);
    fields.map(|f| (f.to_owned(), made(f))).collect()
}

#[tonic::async_trait]
impl credential_service_server::CredentialService for Shared {
    async fn issue_credential(
        &self,
        request: Request<IssueCredentialRequest>,
    ) -> Reply<IssueCredentialResponse> {
        let key = request.get_ref().idempotency_key.clone();
        self.lock().tried_keys.push(key);
        self.enter("issue_credential")?;
        caller(self, &request)?;
        let request = request.into_inner();
        let reply = {
            let mut state = self.lock();
            let before = state
                .keys
                .iter()
                .find(|(key, _)| *key == request.idempotency_key);
            if let Some((_, id)) = before {
                let metadata = [("credential_id", id.as_str())];
                return Err(refusal(Code::AlreadyExists, "ALREADY_ISSUED", &metadata));
            }
            let id = format!("c{:016}", state.issued.len());
            state.keys.push((request.idempotency_key, id.clone()));
            state.issued.push(id.clone());
            let role = request.role.parse().unwrap();
            IssueCredentialResponse {
                credential_id: id,
                role: request.role,
                expires_at: Some(wire(now() + state.credential_life)),
                revocation_class: RevocationClass::Immediate.into(),
                data: state
                    .data
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect(),
                renewable: state.renewable,
                env: env(&state, &role),
            }
        };
        self.leave("issue_credential", reply)
    }

    async fn renew_credential(
        &self,
        request: Request<RenewCredentialRequest>,
    ) -> Reply<RenewCredentialResponse> {
        self.enter("renew_credential")?;
        let expires_at = Some(wire(now() + time::Duration::hours(1)));
        let credential_id = request.into_inner().credential_id;
        self.leave(
            "renew_credential",
            RenewCredentialResponse {
                credential_id,
                expires_at,
            },
        )
    }

    async fn revoke_credential(
        &self,
        request: Request<RevokeCredentialRequest>,
    ) -> Reply<RevokeCredentialResponse> {
        let id = request.into_inner().credential_id;
        self.lock().revoked.push(id.clone());
        self.enter("revoke_credential")?;
        let receipt = Some(Receipt {
            credential_id: id,
            role: "vault-main/ci-db".to_owned(),
            state: CredentialState::RevokedVerified.into(),
            ..Receipt::default()
        });
        self.leave("revoke_credential", RevokeCredentialResponse { receipt })
    }

    async fn get_credential(
        &self,
        request: Request<GetCredentialRequest>,
    ) -> Reply<GetCredentialResponse> {
        self.enter("get_credential")?;
        let credential = Credential {
            revocation: self.lock().revocation.clone(),
            ..credential(request.into_inner().credential_id)
        };
        let credential = Some(credential);
        self.leave("get_credential", GetCredentialResponse { credential })
    }

    async fn list_credentials(
        &self,
        _request: Request<ListCredentialsRequest>,
    ) -> Reply<ListCredentialsResponse> {
        self.enter("list_credentials")?;
        let credentials = vec![credential("c0123456789abcdef".to_owned())];
        let next_page_token = String::new();
        self.leave(
            "list_credentials",
            ListCredentialsResponse {
                credentials,
                next_page_token,
            },
        )
    }
}

fn credential(id: String) -> Credential {
    Credential {
        id,
        task_id: "t0123456789abcdef".to_owned(),
        agent: "builder".to_owned(),
        role: "vault-main/ci-db".to_owned(),
        state: CredentialState::Active.into(),
        revocation_class: RevocationClass::Immediate.into(),
        expires_at: Some(moment()),
        ..Credential::default()
    }
}

/// 2026-11-22T10:00:00.500Z
fn moment() -> WireTime {
    WireTime {
        seconds: 1_795_341_600,
        nanos: 500_000_000,
    }
}

fn provider(name: String) -> Provider {
    let role = |short: &str| Role {
        name: format!("{name}/{short}"),
        r#type: "dynamic".to_owned(),
        max_ttl_seconds: 900,
        revocation_class: RevocationClass::Immediate.into(),
        ..Role::default()
    };
    Provider {
        kind: "vault".to_owned(),
        circuit: CircuitState::Closed.into(),
        state: ProviderState::Retired.into(),
        roles: vec![role("ci-db"), role("other")],
        name,
        ..Provider::default()
    }
}

#[tonic::async_trait]
impl provider_service_server::ProviderService for Shared {
    async fn list_providers(
        &self,
        _request: Request<ListProvidersRequest>,
    ) -> Reply<ListProvidersResponse> {
        self.enter("list_providers")?;
        let providers = vec![provider("vault-main".to_owned())];
        let next_page_token = String::new();
        self.leave(
            "list_providers",
            ListProvidersResponse {
                providers,
                next_page_token,
            },
        )
    }

    async fn get_provider(
        &self,
        request: Request<GetProviderRequest>,
    ) -> Reply<GetProviderResponse> {
        self.enter("get_provider")?;
        let provider = Some(provider(request.into_inner().name));
        self.leave("get_provider", GetProviderResponse { provider })
    }

    async fn check_provider(
        &self,
        _request: Request<CheckProviderRequest>,
    ) -> Reply<CheckProviderResponse> {
        self.enter("check_provider")?;
        let reply = CheckProviderResponse {
            healthy: false,
            findings: vec!["token is valid".to_owned()],
            warnings: Vec::new(),
            error: "the token may not renew itself".to_owned(),
        };
        self.leave("check_provider", reply)
    }
}
