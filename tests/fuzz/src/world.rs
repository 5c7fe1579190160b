//! A broker without a network, for [`crate::targets::wire`]. Its back end mints words, and its disk
//! is temporary.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full};
use prost::{Message, bytes::Bytes};
use taskpass_broker::fuzz;
use taskpass_ca::{Authority, Config as Lifetimes, PeerIdentity};
use taskpass_core::{Clock, Entropy, Event, Identity, ManualClock, SeededEntropy};
use taskpass_engine::{
    Attestors, Budgets, Configuration, ConfiguredProvider, Context, Credentials, Engine,
    JoinTokenAttestor, LastRun, Requests, Settings, SystemTimer,
};
use taskpass_ledger::Reader;
use taskpass_policy::{PolicyFile, PolicySet};
use taskpass_proto::v1;
use taskpass_store::{Batch, Config, LogStore, Store as _};
use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;
use tonic::{Status, service::Routes};
use tower::ServiceExt as _;

use crate::{back_end::BackEnd, fixtures, targets::csr};

const REQUEST_BYTES_MAX: usize = 64 * 1024;
const EVERYTHING: &str = "@id(\"all\") permit (principal, action, resource);";

/// The broker and its callers.
pub(crate) struct World {
    runtime: Runtime,
    routes: Routes,
    /// No identity, an operator, an agent, and the agent in its task.
    callers: Vec<Option<PeerIdentity>>,
    rpcs: Vec<String>,
    /// The ids of existing things, for seeds.
    pub(crate) task: String,
    pub(crate) credential: String,
    pub(crate) unused_token: String,
    pub(crate) entries: Vec<Vec<u8>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        let scratch = tempfile::tempdir().expect("a directory").keep();
        let clock = Arc::new(ManualClock::new(fixtures::now()));
        let parts = runtime.block_on(parts(&scratch, clock));
        let (engine, store, ledger, authority) = parts;
        let mut world = Self {
            routes: fuzz::services(engine, REQUEST_BYTES_MAX)
                .expect("services")
                .prepare(),
            runtime,
            callers: vec![None, Some(operator())],
            rpcs: rpcs(),
            task: String::new(),
            credential: String::new(),
            unused_token: String::new(),
            entries: Vec::new(),
        };
        world.populate(&authority);
        world.entries = entries(&ledger);
        world.runtime.block_on(store.close()).expect("closed");
        // The index still reads these files, so the store is never dropped.
        std::mem::forget(store);
        world
    }

    /// Every RPC of the API by its path.
    pub(crate) fn rpcs(&self) -> &[String] {
        &self.rpcs
    }

    /// Calls an RPC with the bytes of a message and returns the bytes of the answer.
    pub(crate) fn call(&self, rpc: &str, caller: usize, message: &[u8]) -> Result<Bytes, Status> {
        let caller = self
            .callers
            .get(caller % self.callers.len())
            .cloned()
            .flatten();
        let address: SocketAddr = ([192, 0, 2, 1], 50_000).into();
        let length = u32::try_from(message.len()).expect("inputs are small");
        let frame = [[0].as_slice(), &length.to_be_bytes(), message].concat();
        let request = http::Request::post(rpc)
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .extension(fuzz::peer(caller, address))
            .body(Full::new(Bytes::from(frame)))
            .expect("a request");
        self.runtime.block_on(async {
            let response = self
                .routes
                .clone()
                .oneshot(request)
                .await
                .expect("infallible");
            if let Some(status) = Status::from_header_map(response.headers()) {
                return Err(status);
            }
            let collected = response.into_body().collect().await?;
            if let Some(trailers) = collected.trailers()
                && let Some(status) = Status::from_header_map(trailers)
                && status.code() != tonic::Code::Ok
            {
                return Err(status);
            }
            let mut bytes = collected.to_bytes();
            Ok(bytes.split_off(bytes.len().min(5)))
        })
    }

    /// Adds an agent with an open task, a live credential, and an unused join token.
    fn populate(&mut self, authority: &Authority) {
        const OPERATOR: usize = 1;
        const AGENT: usize = 2;
        let registered = v1::RegisterAgentRequest {
            name: "builder".to_owned(),
            owner: "ann@acme.test".to_owned(),
            ..Default::default()
        };
        self.ask::<_, v1::RegisterAgentResponse>(
            "AgentService/RegisterAgent",
            OPERATOR,
            &registered,
        );
        let token = |world: &Self| {
            let wanted = v1::CreateJoinTokenRequest {
                agent: "builder".to_owned(),
                ..Default::default()
            };
            world
                .ask::<_, v1::CreateJoinTokenResponse>(
                    "AgentService/CreateJoinToken",
                    OPERATOR,
                    &wanted,
                )
                .join_token
        };
        let attest = v1::AttestRequest {
            evidence: Some(v1::attest_request::Evidence::JoinToken(token(self))),
            csr: request(),
            ..Default::default()
        };
        let attested: v1::AttestResponse = self.ask("IdentityService/Attest", 0, &attest);
        self.callers
            .push(Some(peer(authority, attested.svid.as_ref())));
        let start = v1::StartTaskRequest {
            purpose: "to be there".to_owned(),
            roles: vec![v1::TaskRole {
                role: "fake/reader".to_owned(),
                ..Default::default()
            }],
            csr: request(),
            ..Default::default()
        };
        let started: v1::StartTaskResponse = self.ask("TaskService/StartTask", AGENT, &start);
        self.callers
            .push(Some(peer(authority, started.svid.as_ref())));
        self.task = started.task.expect("a task").id;
        let issue = v1::IssueCredentialRequest {
            task_id: self.task.clone(),
            role: "fake/reader".to_owned(),
            scope: [("bucket".to_owned(), "logs".to_owned())].into(),
            ..Default::default()
        };
        let issued: v1::IssueCredentialResponse =
            self.ask("CredentialService/IssueCredential", AGENT, &issue);
        self.credential = issued.credential_id;
        self.unused_token = token(self);
    }

    fn ask<Q: Message, A: Message + Default>(&self, rpc: &str, caller: usize, request: &Q) -> A {
        let answer = self.call(
            &format!("/taskpass.v1.{rpc}"),
            caller,
            &request.encode_to_vec(),
        );
        A::decode(answer.expect("an answer")).expect("a message")
    }
}

/// A valid certificate request, made with [`csr`](crate::targets::csr).
pub(crate) fn request() -> Vec<u8> {
    let made =
        rcgen::CertificateParams::default().serialize_request(&fixtures::authorities().leaf_key);
    let made = made.expect("a request");
    csr::sign(crate::der::signed_part(made.der()))
}

fn entries(reader: &Reader) -> Vec<Vec<u8>> {
    (0..reader.size())
        .map(|index| reader.entry(index).expect("an entry"))
        .collect()
}

fn rpcs() -> Vec<String> {
    let files =
        prost_types::FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).expect("descriptors");
    let mut rpcs: Vec<String> = files
        .file
        .iter()
        .flat_map(|file| &file.service)
        .flat_map(|service| {
            service
                .method
                .iter()
                .map(|method| format!("/taskpass.v1.{}/{}", service.name(), method.name()))
        })
        .collect();
    rpcs.sort();
    rpcs
}

fn operator() -> PeerIdentity {
    let identity = Identity::Operator("ann".parse().expect("a name"));
    PeerIdentity {
        spiffe_id: identity
            .spiffe_id(&fixtures::trust_domain())
            .expect("an ID"),
        identity,
        serial: "0".repeat(32),
        key_sha256: "0".repeat(64),
        not_after: fixtures::now().plus(Duration::from_secs(3600)),
    }
}

/// The broker accepts an operator's certificate only if this event is on record.
fn on_record(operator: &PeerIdentity) -> Event {
    Event::OperatorSvidIssued {
        operator: "ann".parse().expect("a name"),
        serial: operator.serial.clone(),
        key_sha256: operator.key_sha256.clone(),
        not_after: operator.not_after,
        renews: None,
        local: false,
        origin: Some(taskpass_core::SvidOrigin::Machine),
        root: taskpass_core::RootNumber::FIRST,
    }
}

fn peer(authority: &Authority, svid: Option<&v1::X509Svid>) -> PeerIdentity {
    let chain: Vec<_> = svid
        .expect("an SVID")
        .chain
        .iter()
        .map(|der| der.clone().into())
        .collect();
    authority
        .peer_verifier()
        .verify_client(&chain, fixtures::now())
        .expect("a peer")
}

async fn parts(
    scratch: &Path,
    clock: Arc<dyn Clock>,
) -> (Arc<Engine>, Arc<LogStore>, Reader, Arc<Authority>) {
    let domain = fixtures::trust_domain();
    let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
    let ledger_key = fixtures::ledger_key(scratch);
    let opened = LogStore::open(
        &Config::new(scratch.join("data")),
        ledger_key,
        Arc::clone(&clock),
    )
    .expect("a store");
    let store = Arc::new(opened.store);
    let first = [
        Event::Initialized {
            trust_domain: domain.clone(),
            version: "fuzz".to_owned(),
            root: None,
        },
        on_record(&operator()),
    ];
    store.commit(Batch::new(first)).await.expect("recorded");
    let authority = Authority::create(
        &scratch.join("ca"),
        taskpass_ca::Deps {
            trust_domain: domain.clone(),
            config: Lifetimes::default(),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&entropy),
            keys: taskpass_ca::KeyFiles::plain(),
        },
    );
    let authority = Arc::new(authority.expect("an authority"));
    authority.rotate().expect("an issuing authority");
    let policy = PolicyFile {
        name: "all.cedar".to_owned(),
        text: EVERYTHING.to_owned(),
    };
    let requests = Requests {
        agent_requests_per_second: u32::MAX,
        agent_requests_burst: u32::MAX,
        task_requests_per_second: u32::MAX,
        task_requests_burst: u32::MAX,
        attestations_per_second: u32::MAX,
        attestations_burst: u32::MAX,
        ..Requests::default()
    };
    let join_tokens = JoinTokenAttestor::new(Arc::<LogStore>::clone(&store));
    let context = Context {
        metrics: Arc::default(),
        trust_domain: domain,
        store: Arc::<LogStore>::clone(&store),
        ledger: opened.ledger.clone(),
        roots_signer: opened.roots_signer,
        authority: Arc::clone(&authority),
        attestors: Attestors::new(vec![Arc::new(join_tokens)]),
        connections: Arc::new(taskpass_engine::NoConnections),
        clock,
        timer: Arc::new(SystemTimer),
        entropy,
        tasks: TaskTracker::new(),
    };
    let configuration = Configuration {
        policy: Arc::new(PolicySet::parse(&[policy]).expect("a policy")),
        providers: vec![ConfiguredProvider {
            provider: Arc::new(BackEnd::new()),
            fingerprint: String::new(),
            place: BTreeMap::new(),
        }],
        settings: Settings {
            requests,
            budgets: Budgets {
                agent_ledger_bytes_per_hour: u32::MAX,
                agent_task_starts_per_hour: u32::MAX,
                agent_denials_per_hour: u32::MAX,
            },
            credentials: Credentials {
                revoke_wait_max: Duration::ZERO,
                revoke_wait_default: Duration::ZERO,
                ..Credentials::default()
            },
            ..Settings::default()
        },
    };
    let last_run = LastRun {
        newest: fixtures::now(),
        stopped: true,
    };
    let engine = Engine::new(context, configuration, last_run);
    let engine = engine.await.expect("an engine");
    (engine, store, opened.ledger, authority)
}
