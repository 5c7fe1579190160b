//! Requests that no gRPC library would send: headers that claim an identity, bodies with false
//! lengths, bodies that never come.

use std::time::Duration;

use http::{Request, request::Builder};
use prost::Message;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    Broker, Installation,
    wire::{Answer, Certificate, Sending, Wire, runtime, send, try_connect},
};
use tokio::time::Instant;
use tonic::Code;

use super::{Bystander, WHO_AM_I, peak_memory};

const LIST_AGENTS: &str = "/taskpass.v1.AgentService/ListAgents";
const START_TASK: &str = "/taskpass.v1.TaskService/StartTask";

/// A request as a gRPC library begins it.
fn grpc(path: &str) -> Builder {
    Request::post(format!("https://broker{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
}

fn whole(builder: Builder) -> Request<()> {
    builder.body(()).expect("a request")
}

/// A message behind its length.
fn framed(message: &[u8]) -> Vec<u8> {
    prefixed(0, message.len(), message)
}

/// A message behind any flag and any length.
fn prefixed(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("four bytes");
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

fn agent(broker: &Broker<'_>) -> Certificate {
    Certificate::load(broker.agent("builder").identity())
}

/// Headers in which proxies and other products put a caller's name. The broker reads none of them.
const CLAIMS: [(&str, &str); 14] = [
    (
        "x-forwarded-client-cert",
        "By=spiffe://acme.test/broker/b;URI=spiffe://acme.test/operator/admin",
    ),
    ("x-spiffe-id", "spiffe://acme.test/operator/admin"),
    ("x-client-cert-san", "spiffe://acme.test/operator/admin"),
    ("ssl-client-s-dn", "CN=admin"),
    ("ssl-client-verify", "SUCCESS"),
    ("x-peer", "spiffe://acme.test/operator/admin"),
    ("x-taskpass-operator", "admin"),
    ("x-remote-user", "admin"),
    ("authorization", "Bearer spiffe://acme.test/operator/admin"),
    ("authorization", "Basic YWRtaW46YWRtaW4="),
    ("cookie", "session=admin"),
    ("x-forwarded-for", "127.0.0.1"),
    ("forwarded", "for=127.0.0.1;by=admin"),
    ("x-http-method-override", "PUT"),
];

#[test]
fn headers_that_claim_an_identity_change_nothing() {
    let installation = Installation::new();
    let broker = installation.start();
    let (bystander, agent) = (Bystander::new(&broker), agent(&broker));
    let empty = framed(&[]);
    let ask = |certificate: Option<&Certificate>, path: &str, claims: &[(&str, &str)]| {
        let with = |request: Builder, (name, value): &(&str, &str)| request.header(*name, *value);
        let request = claims.iter().fold(grpc(path), with);
        send(broker.address(), certificate, whole(request), &[&empty])
    };
    let honest = ask(Some(&agent), WHO_AM_I, &[]);
    let Answer::Grpc(Code::Ok, me) = &honest else {
        panic!("{honest:?}")
    };
    let me = pb::WhoAmIResponse::decode(&me[5..]).expect("an answer");
    assert_eq!(me.spiffe_id, "spiffe://acme.test/agent/builder");
    let one_by_one = CLAIMS.iter().map(std::slice::from_ref);
    for claims in one_by_one.chain([&CLAIMS[..]]) {
        assert_eq!(ask(Some(&agent), WHO_AM_I, claims), honest, "{claims:?}");
        for (who, code) in [
            (Some(&agent), Code::PermissionDenied),
            (None, Code::Unauthenticated),
        ] {
            let refused = ask(who, LIST_AGENTS, claims);
            assert_eq!(refused, Answer::Grpc(code, Vec::new()), "{claims:?}");
        }
        bystander.goes_on(claims[0].0);
    }
    broker.stop();
}

/// A class, the request with its body, and the answer.
type Row = (&'static str, Request<()>, Vec<u8>, Answer);

fn refused(code: Code) -> Answer {
    Answer::Grpc(code, Vec::new())
}

/// Heads that are no gRPC request for this broker.
fn of_heads() -> Vec<Row> {
    let to = |path: &str| whole(grpc(path));
    let nowhere = |class, path: &str| {
        let answer = refused(Code::Unimplemented);
        (class, to(path), framed(&[]), answer)
    };
    vec![
        nowhere(
            "dots in the path",
            "/taskpass.v1.IdentityService/../taskpass.v1.AgentService/ListAgents",
        ),
        nowhere("two slashes", "//taskpass.v1.IdentityService/WhoAmI"),
        nowhere("a slash at the end", "/taskpass.v1.IdentityService/WhoAmI/"),
        nowhere("an escaped letter", "/taskpass.v1.IdentityService/%57hoAmI"),
        nowhere("an escaped slash", "/taskpass.v1.IdentityService%2fWhoAmI"),
        nowhere("other capitals", "/taskpass.v1.identityservice/whoami"),
        nowhere(
            "a NUL in the path",
            "/taskpass.v1.IdentityService/WhoAmI%00",
        ),
        (
            "a query does not change the method",
            to(&format!(
                "{LIST_AGENTS}?/taskpass.v1.IdentityService/WhoAmI"
            )),
            framed(&[]),
            refused(Code::PermissionDenied),
        ),
        (
            "GET",
            whole(grpc(WHO_AM_I).method("GET")),
            framed(&[]),
            Answer::Http(405),
        ),
        (
            "no gRPC",
            whole(
                Request::post(format!("https://broker{WHO_AM_I}"))
                    .header("content-type", "text/plain"),
            ),
            framed(&[]),
            Answer::Http(415),
        ),
        (
            "headers of 20 KiB",
            whole(grpc(WHO_AM_I).header("x-large", "x".repeat(20 << 10))),
            framed(&[]),
            Answer::Http(431),
        ),
        (
            "1,000 headers",
            whole((0..1000).fold(grpc(WHO_AM_I), |it, n| it.header(format!("x-{n}"), "x"))),
            framed(&[]),
            Answer::Http(431),
        ),
    ]
}

/// Bodies that contradict their own length or encoding.
fn of_bodies() -> Vec<Row> {
    let whoami = |class, body, code| (class, whole(grpc(WHO_AM_I)), body, refused(code));
    let start = |class, message: &[u8], code| {
        (
            class,
            whole(grpc(START_TASK)),
            framed(message),
            refused(code),
        )
    };
    let roles = pb::StartTaskRequest {
        purpose: "many roles".to_owned(),
        roles: vec![pb::TaskRole::default(); 100_000],
        ..Default::default()
    };
    let labels = pb::StartTaskRequest {
        purpose: "many labels".to_owned(),
        labels: (0..20_000)
            .map(|n| (format!("k{n}"), String::new()))
            .collect(),
        ..Default::default()
    };
    vec![
        whoami("no message", Vec::new(), Code::Internal),
        whoami("half a prefix", vec![0, 0, 0], Code::Internal),
        whoami(
            "less than announced",
            prefixed(0, 100, b"abc"),
            Code::Internal,
        ),
        whoami(
            "4 GiB announced",
            prefixed(0, 0xffff_ffff, b"abc"),
            Code::OutOfRange,
        ),
        whoami(
            "one byte too many announced",
            prefixed(0, 256 * 1024 + 1, b""),
            Code::OutOfRange,
        ),
        whoami(
            "compressed without a word",
            prefixed(1, 0, b""),
            Code::Internal,
        ),
        whoami("an unknown flag", prefixed(2, 0, b""), Code::Internal),
        (
            "compressed",
            whole(grpc(WHO_AM_I).header("grpc-encoding", "gzip")),
            prefixed(
                1,
                20,
                &[
                    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ],
            ),
            refused(Code::Unimplemented),
        ),
        start(
            "groups nested 100,000 deep",
            &[0x7b; 100_000],
            Code::Internal,
        ),
        start(
            "a field longer than the message",
            &[0x0a, 0xff, 0xff, 3, b'x'],
            Code::Internal,
        ),
        start("a number without an end", &[0xff; 64], Code::Internal),
        start(
            "a name that is not UTF-8",
            &[0x12, 2, 0xc3, 0x28],
            Code::Internal,
        ),
        start(
            "100,000 empty roles",
            &roles.encode_to_vec(),
            Code::InvalidArgument,
        ),
        start(
            "20,000 labels",
            &labels.encode_to_vec(),
            Code::InvalidArgument,
        ),
    ]
}

#[test]
fn requests_that_lie_about_themselves_are_refused() {
    let installation = Installation::new();
    installation.configure("[limits]\nagent_requests_per_second = 10000\n");
    let broker = installation.start();
    let (bystander, agent) = (Bystander::new(&broker), agent(&broker));
    let mut complaints = Vec::new();
    for (class, request, body, expected) in [of_heads(), of_bodies()].concat() {
        let pieces: Vec<&[u8]> = body.chunks(16 << 10).collect();
        let answer = send(broker.address(), Some(&agent), request, &pieces);
        if answer != expected {
            complaints.push(format!("{class}: {answer:?} instead of {expected:?}"));
        }
        bystander.is_served(class);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    broker.stop();
}

/// A few bytes on the wire that become many in memory, from one agent with as many requests in
/// flight as it may have.
#[test]
fn messages_that_swell_in_memory_are_bounded() {
    let installation = Installation::new();
    installation
        .configure("[limits]\nagent_requests_per_second = 10000\nagent_requests_burst = 10000\nbody_timeout = \"60s\"\n");
    let broker = installation.start();
    let (bystander, agent) = (Bystander::new(&broker), agent(&broker));
    let message = pb::StartTaskRequest {
        purpose: "many roles".to_owned(),
        roles: vec![pb::TaskRole::default(); 120_000],
        ..Default::default()
    }
    .encode_to_vec();
    let wire = Wire::new(broker.address(), Some(&agent));
    let before = peak_memory(broker.pid());
    runtime().block_on(async {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..200 {
            let (wire, message) = (wire.clone(), message.clone());
            all.spawn(async move { wire.call_async(START_TASK, message).await });
        }
        while let Some(answer) = all.join_next().await {
            let status = answer.expect("no panic").expect_err("too many roles");
            assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        }
    });
    let grown = peak_memory(broker.pid()) - before;
    // 200 requests of 240 KiB; each would be 20 MiB if all of them were read at once.
    assert!(grown < 256 << 20, "the broker grew by {} MiB", grown >> 20);
    bystander.is_served("swelling messages");
    broker.stop();
}

/// Requests that never become whole hold their permits only for a while, and only permits of their
/// own address.
#[test]
fn bodies_that_do_not_come_are_no_longer_waited_for() {
    let installation = Installation::new();
    installation.configure("[limits]\nbody_timeout = \"1s\"\n");
    let broker = installation.start();
    let (bystander, agent) = (Bystander::new(&broker), agent(&broker));
    let beginning = prefixed(0, 1000, b"the rest is still to come");
    for certificate in [Some(&agent), None] {
        let began = Instant::now();
        let slow: Vec<_> = (0..16)
            .map(|_| {
                let request = whole(grpc("/taskpass.v1.IdentityService/GetBundle"));
                let mut sending = Sending::begin(broker.address(), certificate, request, false)
                    .expect("a connection");
                sending.more(&beginning, false);
                sending
            })
            .collect();
        bystander.is_served("slow bodies");
        if certificate.is_none() {
            let refused = Wire::new(broker.address(), None)
                .ask::<_, pb::GetBundleResponse>(
                    "/taskpass.v1.IdentityService/GetBundle",
                    &pb::GetBundleRequest {},
                )
                .expect_err("all permits of this address are in use");
            assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        }
        for one in slow {
            assert_eq!(one.answer(), refused(Code::DeadlineExceeded));
        }
        let took = began.elapsed();
        assert!(
            took >= Duration::from_millis(900),
            "given up after {took:?}"
        );
    }
    Wire::new(broker.address(), None)
        .ask::<_, pb::GetBundleResponse>(
            "/taskpass.v1.IdentityService/GetBundle",
            &pb::GetBundleRequest {},
        )
        .expect("the permits are free again");
    try_connect(broker.address(), None).expect("a client without a certificate may connect");
    broker.stop();
}
