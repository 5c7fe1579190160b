//! The resources that a caller may use, and the information that the broker gives about itself:
//! sizes, idle connections, garbage on the socket, health, reflection.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use prost::Message;
use taskpass_proto::v1 as pb;
use taskpass_tests::{
    World, eventually,
    wire::{Certificate, Wire, try_connect},
};
use tonic::Code;

const WHO_AM_I: &str = "/taskpass.v1.IdentityService/WhoAmI";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn operator(world: &World) -> Certificate {
    Certificate::load(&world.installation.home().join("operator"))
}

#[test]
fn a_message_over_the_limit_is_refused_and_one_below_it_is_read() {
    let world = World::new();
    let broker = world.start();
    let agent = Certificate::load(broker.agent("builder").identity());
    let agent = Wire::new(broker.address(), Some(&agent));
    let start = |purpose: usize| {
        let request = pb::StartTaskRequest {
            purpose: "x".repeat(purpose),
            ..Default::default()
        };
        agent
            .call(
                "/taskpass.v1.TaskService/StartTask",
                request.encode_to_vec(),
            )
            .expect_err("far too long a purpose")
    };
    let fits = start(256 * 1024 - 64);
    assert_eq!(
        fits.code(),
        Code::InvalidArgument,
        "it was read and judged: {fits:?}"
    );
    let over = start(256 * 1024 + 1);
    assert!(
        matches!(over.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{over:?}"
    );
    assert!(over.message().contains("262144"), "{over:?}");
    // The refusal costs the caller this request, not its connection.
    agent
        .ask::<_, pb::WhoAmIResponse>(WHO_AM_I, &pb::WhoAmIRequest {})
        .expect("the next one is answered");
}

#[test]
fn idle_and_silent_connections_delay_no_other_caller() {
    let world = World::new();
    world
        .installation
        .configure("[limits]\nhandshake_timeout = \"1s\"\nconnections_per_address = 90\n");
    let broker = world.start();
    let agent = broker.agent("builder");
    // More connections than permits for handshakes, none of which sends a byte.
    let silent: Vec<TcpStream> = (0..70)
        .map(|_| TcpStream::connect(broker.address()).expect("a connection"))
        .collect();
    let task = World::task(&agent, &["vault-main/config"]);
    World::issue(&agent, &task, "vault-main/config", &[]);
    for mut stream in silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        let mut byte = [0_u8; 1];
        let ended = stream.read(&mut byte);
        assert!(matches!(ended, Ok(0) | Err(_)), "the broker spoke first");
        let late = ended.is_err_and(|e| {
            matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            )
        });
        assert!(!late, "a silent connection was kept");
    }
}

#[test]
fn connections_over_the_limit_of_an_address_are_closed_and_free_ones_are_used_again() {
    let world = World::new();
    world
        .installation
        .configure("[limits]\nconnections_per_address = 4\n");
    let broker = world.start();
    let certificate = operator(&world);
    let held: Vec<Wire> = (0..4)
        .map(|_| Wire::new(broker.address(), Some(&certificate)))
        .collect();
    for wire in &held {
        wire.ask::<_, pb::WhoAmIResponse>(WHO_AM_I, &pb::WhoAmIRequest {})
            .expect("there is room");
    }
    try_connect(broker.address(), Some(&certificate)).expect_err("the fifth connection");
    held[0]
        .ask::<_, pb::WhoAmIResponse>(WHO_AM_I, &pb::WhoAmIRequest {})
        .expect("those that are open go on");
    drop(held);
    eventually("a place is free again", || {
        try_connect(broker.address(), Some(&certificate)).ok()
    });
}

#[test]
fn garbage_on_the_socket_is_answered_with_the_end_of_the_connection() {
    let world = World::new();
    let broker = world.start();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: broker\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\xff\xff\xff\xff\xff\xff",
        &[0; 4096],
        b"SSH-2.0-OpenSSH\r\n",
    ] {
        let mut stream = TcpStream::connect(broker.address()).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("a timeout");
        // The broker may have closed the connection before everything is written.
        let _written = stream.write_all(garbage);
        let mut answer = Vec::new();
        let ended = stream.read_to_end(&mut answer);
        let timed_out = ended.is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "{garbage:?} was not answered");
        assert!(
            answer.is_empty() || answer[0] == 0x15,
            "more than a TLS alert: {answer:?}"
        );
    }
    try_connect(broker.address(), Some(&operator(&world))).expect("it still serves");
}

/// Health is for load balancers, which have no certificate.
#[test]
fn health_is_answered_without_a_certificate() {
    let world = World::new();
    let broker = world.start();
    for certificate in [None, Some(operator(&world))] {
        let wire = Wire::new(broker.address(), certificate.as_ref());
        let answer = wire
            .call("/grpc.health.v1.Health/Check", Vec::new())
            .expect("an answer");
        // HealthCheckResponse { status: SERVING }
        assert_eq!(answer.concat(), [0x08, 0x01]);
    }
    broker.stop();
}

/// Names of services and messages are no secret, but they are not published by default either.
#[test]
fn reflection_is_off_until_it_is_switched_on() {
    let world = World::new();
    // ServerReflectionRequest { list_services: "" }
    let list = vec![0x3a, 0x00];
    {
        let broker = world.start();
        let wire = Wire::new(broker.address(), Some(&operator(&world)));
        let refused = wire
            .call(REFLECTION, list.clone())
            .expect_err("reflection is off");
        assert_eq!(refused.code(), Code::Unimplemented, "{refused:?}");
        broker.stop();
    }
    world
        .installation
        .edit(|text| text.replacen("[listen]\n", "[listen]\nreflection = true\n", 1));
    let broker = world.start();
    let wire = Wire::new(broker.address(), Some(&operator(&world)));
    let answer = wire
        .call(REFLECTION, list)
        .expect("reflection is on")
        .concat();
    let answer = String::from_utf8_lossy(&answer);
    for service in [
        "taskpass.v1.TaskService",
        "taskpass.v1.CredentialService",
        "grpc.health.v1.Health",
    ] {
        assert!(
            answer.contains(service),
            "{service} is not listed: {answer}"
        );
    }
}
