//! The network between a client and the broker: bytes in both directions, as long as nobody pulls the plug.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Ends when it is dropped and connected to for the last time.
#[derive(Debug)]
pub struct Link {
    address: String,
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// What the broker says does not arrive any more.
    is_parted: bool,
    open: Vec<TcpStream>,
    done: bool,
}

impl Link {
    /// Listens on a free port and leads to the broker at `upstream`, `HOST:PORT`.
    pub fn start(upstream: &str) -> Self {
        let upstream = upstream.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::<Mutex<State>>::default();
        let ours = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                let mut state = ours.lock().expect("the lock");
                if state.done {
                    return;
                }
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                let twice = |stream: &TcpStream| stream.try_clone().expect("a socket");
                state.open.extend([twice(&client), twice(&server)]);
                let (to_client, from_server) = (twice(&client), twice(&server));
                let shared = Arc::clone(&ours);
                thread::spawn(move || carry(client, server, || true));
                thread::spawn(move || {
                    carry(from_server, to_client, || {
                        !shared.lock().expect("the lock").is_parted
                    });
                });
            }
        });
        Self { address, shared }
    }

    /// Where the client is to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Parts the two: what the client says still arrives, what it is answered does not.
    pub fn part(&self) {
        self.shared.lock().expect("the lock").is_parted = true;
    }

    /// Ends all connections, and lets new ones through.
    pub fn join(&self) {
        let mut state = self.shared.lock().expect("the lock");
        state.is_parted = false;
        for stream in state.open.drain(..) {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.join();
        self.shared.lock().expect("the lock").done = true;
        let _woken = TcpStream::connect(&self.address);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, gets_through: impl Fn() -> bool) {
    let mut buffer = [0_u8; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if gets_through() && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(Shutdown::Write);
}
