//! Connections: peers that stall at each step of the handshake, more peers than there is room for,
//! and peers that connect as fast as they can.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use taskpass_tests::{
    Installation, World, eventually,
    wire::{client_hello, connect_from, descriptors, runtime, try_connect},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval, timeout},
};

use super::{Bystander, peak_memory};

/// The addresses of the attack. All other callers are at 127.0.0.1.
fn elsewhere(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(number).expect("few addresses"))
}

/// Whether the broker has closed the connection. Bytes that it sent before are dropped.
fn has_hung_up(stream: &TcpStream) -> bool {
    let mut buffer = [0_u8; 4096];
    loop {
        match stream.try_read(&mut buffer) {
            Ok(1..) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return false,
            Ok(0) | Err(_) => return true,
        }
    }
}

/// The step of the handshake at which a peer stalls.
#[derive(Debug, Clone, Copy)]
enum Stall {
    Silent,
    HalfAHello,
    AByteAtATime,
    AfterTheHello,
}

impl Stall {
    /// Stalls until the broker closes the connection.
    async fn act(self, from: Ipv4Addr, address: &str, hello: &[u8]) {
        let mut stream = connect_from(from, address).await.expect("a connection");
        let (first, rest) = hello.split_at(hello.len() / 2);
        let said = match self {
            Self::Silent => &[],
            Self::HalfAHello | Self::AByteAtATime => first,
            Self::AfterTheHello => hello,
        };
        stream.write_all(said).await.expect("it is taken");
        let (mut reading, mut writing) = stream.split();
        let slowly = async {
            let mut pace = interval(Duration::from_millis(50));
            let rest = match self {
                Self::AByteAtATime => rest,
                _ => &[],
            };
            for byte in rest {
                pace.tick().await;
                if writing.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
            std::future::pending().await
        };
        let hung_up = async {
            let mut buffer = [0_u8; 4096];
            while let Ok(1..) = reading.read(&mut buffer).await {}
        };
        tokio::select! {
            () = slowly => {}
            () = hung_up => {}
        }
    }
}

/// Many more peers than permits for handshakes, and none of them ever finishes.
#[test]
fn handshakes_that_are_never_finished_delay_no_other_caller_and_are_ended() {
    const DEADLINE: Duration = Duration::from_secs(6);
    descriptors();
    let installation = Installation::new();
    installation.configure("[limits]\nhandshake_timeout = \"6s\"\n");
    let broker = installation.start();
    let bystander = Bystander::new(&broker);
    let hello: Arc<[u8]> = client_hello().into();
    let mut all = Vec::new();
    for (number, stall) in (1..).zip([
        Stall::Silent,
        Stall::HalfAHello,
        Stall::AByteAtATime,
        Stall::AfterTheHello,
    ]) {
        for _ in 0..32 {
            let (address, hello) = (broker.address().to_owned(), Arc::clone(&hello));
            let acting = async move { stall.act(elsewhere(number), &address, &hello).await };
            all.push((stall, runtime().spawn(acting)));
        }
        let began = Instant::now();
        bystander.is_served(&format!("{stall:?}"));
        let waited = began.elapsed();
        assert!(
            waited < DEADLINE / 2,
            "{stall:?}: the bystander waited {waited:?}"
        );
    }
    for (stall, acting) in all {
        let ended = runtime().block_on(async { timeout(DEADLINE * 5, acting).await });
        ended
            .unwrap_or_else(|_| panic!("{stall:?}: a connection was kept"))
            .expect("no panic");
    }
    bystander.is_served("all of them");
    broker.stop();
}

/// The idle connections that the broker keeps of `wanted` made at once, from a few addresses.
struct Idle {
    kept: Vec<TcpStream>,
    refused: usize,
}

impl Idle {
    /// Makes `each` connections from one address after the other.
    fn open(address: &str, wanted: usize, each: usize, room: usize) -> Self {
        let mut idle = Self {
            kept: Vec::new(),
            refused: 0,
        };
        for number in 0..wanted.div_ceil(each) {
            let wave = runtime().block_on(async {
                let connecting = (0..each).map(|_| connect_from(elsewhere(number + 1), address));
                let mut made = Vec::new();
                for connection in connecting {
                    // A connection may be refused before the client can use it.
                    made.push(connection.await.ok());
                }
                made
            });
            idle.refused += wave.iter().filter(|it| it.is_none()).count();
            idle.kept.extend(wave.into_iter().flatten());
            eventually("the connections over the limit are closed", || {
                let before = idle.kept.len();
                let _entered = runtime().enter();
                idle.kept.retain(|stream| !has_hung_up(stream));
                idle.refused += before - idle.kept.len();
                (idle.kept.len() <= room).then_some(())
            });
        }
        idle
    }
}

/// The named limit holds and bounds memory, and a caller with a connection notices nothing.
#[test]
fn of_ten_thousand_idle_connections_as_many_are_kept_as_the_limit_says() {
    const LIMIT: usize = 1000;
    descriptors();
    let installation = Installation::new();
    installation.configure(&format!(
        "[limits]\nconnections = {LIMIT}\nhandshake_timeout = \"60s\"\n"
    ));
    let broker = installation.start_after("true");
    let bystander = Bystander::new(&broker);
    let before = peak_memory(broker.pid());

    // The bystander has one of the connections.
    let idle = Idle::open(broker.address(), 10_000, 250, LIMIT - 1);

    assert_eq!(idle.kept.len() + idle.refused, 10_000);
    assert_eq!(idle.kept.len(), LIMIT - 1, "the limit was not used up");
    bystander.goes_on("10,000 idle connections");
    try_connect(broker.address(), Some(&bystander.certificate)).expect_err("there is no room");
    let each = (peak_memory(broker.pid()) - before) / 1000;
    assert!(each < 64 << 10, "each of them takes {each} bytes");
    drop(idle);
    eventually("there is room again", || {
        try_connect(broker.address(), Some(&bystander.certificate)).ok()
    });
    broker.stop();
}

/// With fewer open files than connections, the broker refuses connections and keeps the files that
/// it needs itself.
#[test]
fn with_few_open_files_the_broker_takes_fewer_connections_and_goes_on() {
    const FILES: usize = 400;
    descriptors();
    let world = World::new();
    let broker = world
        .installation
        .start_after(&format!("ulimit -n {FILES}"));
    assert!(
        broker.log().contains("only 200 connections are taken"),
        "{}",
        broker.log()
    );
    let bystander = Bystander::new(&broker);
    let agent = broker.agent("builder");
    let task = World::task(&agent, &["vault-main/config"]);
    let idle = Idle::open(broker.address(), 2 * FILES, 200, FILES / 2);
    bystander.goes_on("more connections than files");
    drop(idle);
    eventually("there is room again", || {
        try_connect(broker.address(), Some(&bystander.certificate)).ok()
    });
    // With every connection in use it still has files for its ledger and its providers.
    World::issue(&agent, &task, "vault-main/config", &[]);
    assert!(!broker.log().contains("cannot accept"), "{}", broker.log());
    broker.stop();
}

/// Five hundred connections per second, each with a ClientHello that costs the broker a signature.
struct Flood {
    stop: Arc<AtomicBool>,
    tried: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
}

impl Flood {
    fn start(address: &str) -> Self {
        let flood = Self {
            stop: Arc::default(),
            tried: Arc::default(),
            answered: Arc::default(),
        };
        let hello: Arc<[u8]> = client_hello().into();
        for _ in 0..32 {
            let (stop, tried, answered) = (
                Arc::clone(&flood.stop),
                Arc::clone(&flood.tried),
                Arc::clone(&flood.answered),
            );
            let (address, hello) = (address.to_owned(), Arc::clone(&hello));
            runtime().spawn(async move {
                let mut pace = interval(Duration::from_millis(64));
                while !stop.load(Ordering::Acquire) {
                    pace.tick().await;
                    tried.fetch_add(1, Ordering::AcqRel);
                    let Ok(mut stream) = connect_from(elsewhere(1), &address).await else {
                        continue;
                    };
                    let mut first = [0_u8; 1];
                    if stream.write_all(&hello).await.is_ok()
                        && stream.read_exact(&mut first).await.is_ok()
                    {
                        answered.fetch_add(1, Ordering::AcqRel);
                    }
                }
            });
        }
        flood
    }

    fn stop(self, span: Duration) -> Flooded {
        self.stop.store(true, Ordering::Release);
        Flooded {
            span,
            answered: self.answered.load(Ordering::Acquire),
        }
    }
}

/// The outcome of the flood.
#[derive(Debug)]
struct Flooded {
    span: Duration,
    answered: u64,
}

#[test]
fn a_flood_of_connections_from_one_address_leaves_others_their_latency() {
    const SPAN: Duration = Duration::from_secs(2);
    descriptors();
    let installation = Installation::new();
    // The measuring caller asks more often than an agent should.
    installation.configure(
        "[limits]\nagent_requests_per_second = 100000\n\
         agent_ledger_bytes_per_hour = 4000000000\n\
         new_connections_per_second = 20\nnew_connections_burst = 50\n",
    );
    let broker = installation.start_after("true");
    let bystander = Bystander::new(&broker);
    let mut seen = Vec::new();
    // A busy machine can spoil a measurement but cannot improve one, so the best of three counts.
    for _ in 0..3 {
        let calm = bystander.latency(SPAN);
        let (flood, began) = (Flood::start(broker.address()), Instant::now());
        eventually("the burst is used up", || {
            (flood.tried.load(Ordering::Acquire) >= 100).then_some(())
        });
        let flooded = bystander.latency(SPAN);
        let flood = flood.stop(began.elapsed());
        bystander.is_served("the flood");
        let most = 50 + 20 * (flood.span.as_secs() + 1);
        assert!(flood.answered <= most, "{flood:?}, but {most} at most");
        let times = |flooded: Duration, calm: Duration| {
            flooded.as_secs_f64() / calm.max(Duration::from_millis(2)).as_secs_f64()
        };
        seen.push(times(flooded.p50, calm.p50).max(times(flooded.p99, calm.p99)));
        if seen.last().is_some_and(|times| *times < 10.0) {
            break;
        }
    }
    assert!(
        seen.iter().any(|times| *times < 10.0),
        "the bystander waited {seen:?} times as long"
    );
    broker.stop();
}
