//! Every RPC against every kind of caller. The table has a row for each RPC of the compiled
//! descriptors. An RPC without a row fails the first test here, so that each new RPC must name its
//! callers.

mod keys;
mod table;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use prost::Message as _;
use taskpass_ca::{Authority, IssueOptions, PublicKey};
use taskpass_core::{Clock, Identity, ManualClock, SystemClock, SystemEntropy, Timestamp, Ttl};
use taskpass_proto::v1::{
    EndTaskRequest, EndTaskResponse, IssueCredentialRequest, IssueCredentialResponse,
    RenewSvidRequest, RenewSvidResponse, StartTaskRequest, StartTaskResponse, TaskRole,
    WhoAmIRequest, WhoAmIResponse, X509Svid,
};
use taskpass_tests::{
    Broker, Installation, World,
    wire::{Certificate, KeyAndCsr, Wire, try_connect},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use table::{ROWS, Who};

/// The things that the messages of the table name.
pub(crate) struct Target {
    pub(crate) task: String,
    pub(crate) credential: String,
    /// The parent that StartTask names.
    pub(crate) parent: String,
    /// An identity bound to the task.
    pub(crate) in_task: Certificate,
}

pub(crate) struct Stage<'a> {
    pub(crate) broker: Broker<'a>,
    pub(crate) operator: Wire,
    agent: Certificate,
}

const LIMITS: &str = "
[limits]
agent_requests_per_second = 10000
agent_requests_burst = 10000
agent_ledger_bytes_per_hour = 4000000000
agent_task_starts_per_hour = 100000000
agent_denials_per_hour = 100000000
attestations_per_second = 10000
[tasks]
open_per_agent = 10000
";

impl<'a> Stage<'a> {
    fn new(world: &'a World) -> Self {
        world.installation.configure(LIMITS);
        let broker = world.start();
        let agent = Certificate::load(broker.agent("builder").identity());
        broker.operator().json(&[
            "agent",
            "register",
            "new-agent",
            "--owner",
            "alice@acme.test",
        ]);
        let operator = Certificate::load(&world.installation.home().join("operator"));
        let operator = Wire::new(broker.address(), Some(&operator));
        Self {
            broker,
            operator,
            agent,
        }
    }

    /// The same callers, at a broker that has read its policies anew.
    fn restarted(self, world: &'a World) -> Self {
        let Self { broker, agent, .. } = self;
        broker.stop();
        let broker = world.start();
        let operator = Certificate::load(&world.installation.home().join("operator"));
        let operator = Wire::new(broker.address(), Some(&operator));
        Self {
            broker,
            operator,
            agent,
        }
    }

    fn wire(&self, certificate: &Certificate) -> Wire {
        Wire::new(self.broker.address(), Some(certificate))
    }

    /// A fresh task with a live credential.
    fn target(&self) -> Target {
        let agent = self.wire(&self.agent);
        let (task, in_task) = start(&agent);
        let issue = IssueCredentialRequest {
            task_id: task.clone(),
            role: "vault-main/config".to_owned(),
            ..Default::default()
        };
        let issued: IssueCredentialResponse = agent
            .ask("/taskpass.v1.CredentialService/IssueCredential", &issue)
            .expect("a credential");
        Target {
            task,
            credential: issued.credential_id,
            parent: String::new(),
            in_task,
        }
    }

    fn who(&self, who: Who, target: &Target) -> Wire {
        match who {
            Who::Unauthenticated => Wire::new(self.broker.address(), None),
            Who::Agent => self.wire(&self.agent),
            Who::InTask => self.wire(&target.in_task),
            Who::Operator => self.operator.clone(),
        }
    }

    /// The message of a row, as the caller `who` sends it.
    fn message(&self, row: &table::Row, who: Who, target: &mut Target) -> Vec<u8> {
        target.parent = if who == Who::InTask {
            target.task.clone()
        } else {
            String::new()
        };
        (row.message)(self, target)
    }
}

/// A task of the agent, and an identity that is bound to it.
pub(crate) fn started(agent: &Wire) -> (String, Certificate) {
    start(agent)
}

fn start(agent: &Wire) -> (String, Certificate) {
    let key = KeyAndCsr::new();
    let request = StartTaskRequest {
        purpose: "a row of the table".to_owned(),
        roles: vec![TaskRole {
            role: "vault-main/config".to_owned(),
            ..Default::default()
        }],
        csr: key.csr.clone(),
        ..Default::default()
    };
    let started: StartTaskResponse = agent
        .ask("/taskpass.v1.TaskService/StartTask", &request)
        .expect("a task");
    (
        started.task.expect("a task").id,
        certificate(started.svid, key),
    )
}

fn certificate(svid: Option<X509Svid>, key: KeyAndCsr) -> Certificate {
    let chain = svid.expect("an SVID").chain;
    Certificate::new(chain.into_iter().map(Into::into).collect(), key.key)
}

fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map(|info| info.reason)
        .unwrap_or_default()
}

fn must_be(status: Result<Vec<prost::bytes::Bytes>, Status>, code: Code, what: &str) {
    let status = status.expect_err(what);
    assert_eq!(status.code(), code, "{what}: {status:?}");
    let expected = match code {
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "DENIED",
        other => panic!("{other:?} is not a refusal"),
    };
    assert_eq!(reason(&status), expected, "{what}: {status:?}");
    assert_eq!(
        status.message().lines().count(),
        1,
        "{what}: {}",
        status.message()
    );
}

#[test]
fn the_table_has_exactly_the_rpcs_of_the_descriptors() {
    let set = prost_types::FileDescriptorSet::decode(taskpass_proto::v1::FILE_DESCRIPTOR_SET)
        .expect("descriptors");
    let declared: BTreeSet<String> = set
        .file
        .iter()
        .filter(|file| file.package().starts_with("taskpass."))
        .flat_map(|file| {
            file.service
                .iter()
                .map(move |service| (file.package(), service))
        })
        .flat_map(|(package, service)| {
            service
                .method
                .iter()
                .map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
        })
        .collect();
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.method.to_owned()).collect();
    assert_eq!(rows.len(), ROWS.len(), "a method has two rows");
    let missing: Vec<_> = declared.difference(&rows).collect();
    let stale: Vec<_> = rows.difference(&declared).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "no row for {missing:?}; no RPC for {stale:?}"
    );
    assert!(
        declared.len() > 20,
        "the descriptors are not those of the API"
    );
}

#[test]
fn each_kind_of_caller_may_call_the_rpcs_in_the_table_and_no_others() {
    let world = World::new();
    let stage = Stage::new(&world);
    let mut target = stage.target();
    for row in ROWS {
        for who in Who::ALL
            .into_iter()
            .filter(|who| !row.allowed.contains(who))
        {
            let message = stage.message(row, who, &mut target);
            let answer = stage.who(who, &target).call(row.method, message);
            let code = if who == Who::Unauthenticated {
                Code::Unauthenticated
            } else {
                Code::PermissionDenied
            };
            must_be(answer, code, &format!("{} by {who:?}", row.method));
        }
    }
    for row in ROWS {
        for who in row.allowed {
            let mut target = stage.target();
            let message = stage.message(row, *who, &mut target);
            let answer = stage.who(*who, &target).call(row.method, message);
            assert!(answer.is_ok(), "{} by {who:?}: {answer:?}", row.method);
        }
    }
}

/// An operator without a permitting policy may only ask for its own identity and renew it.
#[test]
fn an_operator_without_any_permission_is_refused_on_each_rpc() {
    let world = World::new();
    let stage = Stage::new(&world);
    let mut target = stage.target();
    let starter = world.installation.home().join("policy/starter.cedar");
    let policies = std::fs::read_to_string(&starter).expect("the starter policy");
    let for_others = policies.replace("\"admin\"", "\"somebody-else\"");
    assert_ne!(policies, for_others);
    std::fs::write(&starter, for_others).expect("it can be changed");
    // Prepared while the operator still has permissions: some messages need a token or a task.
    let messages: Vec<_> = ROWS
        .iter()
        .map(|row| (row, stage.message(row, Who::Operator, &mut target)))
        .collect();
    let stage = stage.restarted(&world);
    for (row, message) in messages {
        let open = ["Attest", "GetBundle", "WhoAmI", "RenewSvid"]
            .iter()
            .any(|name| row.method.ends_with(name));
        let answer = stage.operator.call(row.method, message);
        if open {
            assert!(answer.is_ok(), "{}: {answer:?}", row.method);
        } else {
            must_be(answer, Code::PermissionDenied, row.method);
        }
    }
}

/// A task of another agent and a task that never existed must look the same. Otherwise ids could be
/// guessed.
#[test]
fn agents_learn_nothing_about_tasks_and_credentials_of_others() {
    let world = World::new();
    let stage = Stage::new(&world);
    let mut real = stage.target();
    let mut made_up = Target {
        task: another(&real.task),
        credential: another(&real.credential),
        parent: String::new(),
        in_task: Certificate::new(Vec::new(), Vec::new()),
    };
    let (_, sibling) = start(&stage.wire(&stage.agent));
    let other = Certificate::load(stage.broker.agent("other").identity());
    let mut rows = 0;
    for (name, other) in [
        ("another agent", &other),
        ("the identity of a sibling task", &sibling),
    ] {
        let other = stage.wire(other);
        for row in ROWS {
            let message = stage.message(row, Who::InTask, &mut real);
            let fake = stage.message(row, Who::InTask, &mut made_up);
            let speaks_of = |id: &str| message.windows(id.len()).any(|part| part == id.as_bytes());
            if !speaks_of(&real.task) && !speaks_of(&real.credential) {
                continue;
            }
            rows += 1;
            let what = format!("{} by {name}", row.method);
            let [theirs, nothing] =
                [(&message, &real), (&fake, &made_up)].map(|(message, target)| {
                    let answer = other.call(row.method, message.clone());
                    let status = answer.as_ref().expect_err(&what);
                    let text = status
                        .message()
                        .replace(&target.task, "ID")
                        .replace(&target.credential, "ID");
                    let mut info = status.get_details_error_info().expect("details");
                    // Each request has an id of its own, which tells nothing of the others.
                    info.metadata.remove("request_id").expect("a request id");
                    let seen = (status.code(), text, info.reason, info.metadata);
                    must_be(answer, Code::PermissionDenied, &what);
                    seen
                });
            assert_eq!(theirs, nothing, "{what}");
        }
    }
    assert!(rows >= 18, "only {rows} rows speak of a task or credential");
}

/// Certificates that were valid once, or that our own authority signed without a record.
#[test]
fn identities_that_do_not_count_are_refused_on_each_rpc() {
    let world = World::new();
    let stage = Stage::new(&world);
    let mut target = stage.target();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let authority = authority(&world.installation, clock);
    let forged = |identity: Identity| {
        let key = KeyAndCsr::new();
        let public = PublicKey::from_csr(&key.csr).expect("a good request");
        let signed = authority
            .issue(&identity, &public, &IssueOptions::default())
            .expect("a certificate");
        Certificate::new(signed.chain_der, key.key)
    };
    let name = |name: &str| name.parse().expect("a name");
    let open_task = target.task.parse().expect("an id");
    let callers = [
        ("no certificate", Wire::new(stage.broker.address(), None)),
        (
            "an unregistered agent",
            stage.wire(&forged(Identity::Agent(name("ghost")))),
        ),
        (
            "a serial that is not on record",
            stage.wire(&forged(Identity::Agent(name("builder")))),
        ),
        (
            "a task's serial that is not on record",
            stage.wire(&forged(Identity::AgentTask(name("builder"), open_task))),
        ),
        (
            "an operator's serial that is not on record",
            stage.wire(&forged_operator(&authority)),
        ),
        ("a superseded SVID", superseded(&stage)),
        ("the SVID of an ended task", of_ended_task(&stage)),
    ];
    for (caller, wire) in &callers {
        for row in ROWS
            .iter()
            .filter(|row| !row.allowed.contains(&Who::Unauthenticated))
        {
            let message = stage.message(row, Who::Agent, &mut target);
            must_be(
                wire.call(row.method, message),
                Code::Unauthenticated,
                &format!("{} with {caller}", row.method),
            );
        }
    }
}

/// An agent that a person stopped is told so, and no more, whatever identity it shows.
#[test]
fn frozen_and_retired_agents_are_refused_on_each_rpc() {
    for (stop, reason_word) in [("freeze", "AGENT_FROZEN"), ("retire", "AGENT_RETIRED")] {
        let world = World::new();
        let stage = Stage::new(&world);
        let mut target = stage.target();
        let operator = stage.broker.operator();
        operator.json(&["agent", stop, "builder", "--reason", "a test"]);
        for who in [Who::Agent, Who::InTask] {
            for row in ROWS
                .iter()
                .filter(|row| !row.allowed.contains(&Who::Unauthenticated))
            {
                let message = stage.message(row, who, &mut target);
                let what = format!("{} by {who:?} after {stop}", row.method);
                let answer = stage.who(who, &target).call(row.method, message);
                let status = answer.expect_err(&what);
                assert_eq!(status.code(), Code::PermissionDenied, "{what}: {status:?}");
                assert_eq!(reason(&status), reason_word, "{what}");
            }
        }
    }
}

/// These callers do not get as far as a request.
#[test]
fn untrusted_and_expired_certificates_are_refused_in_the_handshake() {
    let world = World::new();
    let stage = Stage::new(&world);
    let mut target = stage.target();
    let operator = Certificate::load(&world.installation.home().join("operator"));
    let callers = [
        (
            "an agent by its own authority",
            Certificate::self_made("spiffe://acme.test/agent/builder"),
            "UnknownCA",
        ),
        (
            "an operator by its own authority",
            Certificate::self_made("spiffe://acme.test/operator/admin"),
            "UnknownCA",
        ),
        (
            "another trust domain",
            Certificate::self_made("spiffe://evil.test/agent/builder"),
            "AccessDenied",
        ),
        (
            "the operator's certificate without its key",
            operator.with_key_of(&stage.agent),
            "DecryptError",
        ),
        (
            "an agent's certificate without its key",
            stage.agent.with_key_of(&operator),
            "DecryptError",
        ),
        ("an expired SVID", expired(&world), "CertificateExpired"),
    ];
    for (caller, certificate, alert) in &callers {
        let refused = try_connect(stage.broker.address(), Some(certificate)).expect_err(caller);
        assert!(refused.contains(alert), "{caller}: {refused}");
        let wire = stage.wire(certificate);
        for row in ROWS {
            let message = stage.message(row, Who::Agent, &mut target);
            let status = wire.call(row.method, message).expect_err(caller);
            assert_eq!(
                reason(&status),
                "",
                "{} answered {caller}: {status:?}",
                row.method
            );
        }
    }
    try_connect(stage.broker.address(), Some(&stage.agent)).expect("a good certificate is taken");
    try_connect(stage.broker.address(), None).expect("a client without a certificate may connect");
}

/// The installation's own authority, in a copy that the broker knows nothing of.
pub(crate) fn authority(installation: &Installation, clock: Arc<dyn Clock>) -> Authority {
    let (from, to) = (
        installation.home().join("data/ca"),
        installation.scratch().join("stolen-ca"),
    );
    std::fs::create_dir(&to).expect("a new directory");
    std::fs::set_permissions(&to, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("permissions");
    for file in std::fs::read_dir(from).expect("the authority is there") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
    let seconds = |s| Ttl::from_seconds(s).expect("a ttl");
    let config = taskpass_ca::Config::new(
        seconds(3600),
        seconds(86_400),
        Duration::from_secs(3650 * 86_400),
    );
    let domain = "acme.test".parse().expect("a trust domain");
    Authority::open(
        &to,
        taskpass_ca::Deps {
            trust_domain: domain,
            config: config.expect("lifetimes"),
            clock,
            entropy: Arc::new(SystemEntropy::new()),
            keys: taskpass_ca::KeyFiles::plain(),
        },
    )
    .expect("it opens")
}

/// Signed by the root for the existing operator, without a record.
fn forged_operator(authority: &Authority) -> Certificate {
    let key = KeyAndCsr::new();
    let public = PublicKey::from_csr(&key.csr).expect("a good request");
    let name = "admin".parse().expect("a name");
    let signed = authority
        .issue_operator(&name, &public)
        .expect("a certificate");
    Certificate::new(signed.chain_der, key.key)
}

/// Signed a few seconds ago, for one second.
fn expired(world: &World) -> Certificate {
    let now = SystemClock::new().now();
    let clock = ManualClock::new(Timestamp::from_millis(now.millis() - 5000));
    let key = KeyAndCsr::new();
    let public = PublicKey::from_csr(&key.csr).expect("a good request");
    let options = IssueOptions {
        ttl: Some(Ttl::from_seconds(1).expect("a ttl")),
        ..IssueOptions::default()
    };
    let identity = Identity::Agent("builder".parse().expect("a name"));
    let signed = authority(&world.installation, Arc::new(clock))
        .issue(&identity, &public, &options)
        .expect("a certificate");
    Certificate::new(signed.chain_der, key.key)
}

fn superseded(stage: &Stage<'_>) -> Wire {
    let old = stage.wire(&Certificate::load(stage.broker.agent("renewed").identity()));
    let key = KeyAndCsr::new();
    let request = RenewSvidRequest {
        csr: key.csr.clone(),
        consistent_with: 0,
    };
    let renewed: RenewSvidResponse = old
        .ask("/taskpass.v1.IdentityService/RenewSvid", &request)
        .expect("a new SVID");
    let who = |wire: &Wire| {
        wire.ask::<_, WhoAmIResponse>("/taskpass.v1.IdentityService/WhoAmI", &WhoAmIRequest {})
    };
    who(&old).expect("the old one counts until the new one is used");
    who(&stage.wire(&certificate(renewed.svid, key))).expect("the new one counts");
    old
}

fn of_ended_task(stage: &Stage<'_>) -> Wire {
    let agent = stage.wire(&stage.agent);
    let (task, identity) = start(&agent);
    let bound = stage.wire(&identity);
    bound
        .ask::<_, WhoAmIResponse>("/taskpass.v1.IdentityService/WhoAmI", &WhoAmIRequest {})
        .expect("it counts while the task is open");
    let end = EndTaskRequest {
        task_id: task,
        ..Default::default()
    };
    agent
        .ask::<_, EndTaskResponse>("/taskpass.v1.TaskService/EndTask", &end)
        .expect("the task ends");
    bound
}

/// An id of the same form that was never issued.
fn another(id: &str) -> String {
    let last = if id.ends_with('0') { '1' } else { '0' };
    format!("{}{last}", &id[..id.len() - 1])
}
