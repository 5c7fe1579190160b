//! The network between a client and the broker. It passes bytes in both directions until a test
//! cuts it.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Ends when it is dropped: `drop` connects once more, which wakes its listener.
#[derive(Debug)]
pub struct Link {
    address: String,
    shared: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether answers of the broker are discarded.
    is_cut: bool,
    open: Vec<TcpStream>,
    done: bool,
}

impl Link {
    /// Listens on a free port and connects each client to the broker at `upstream`, `HOST:PORT`.
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
                        !shared.lock().expect("the lock").is_cut
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

    /// Cuts one direction: requests still arrive, answers do not.
    pub fn cut(&self) {
        self.shared.lock().expect("the lock").is_cut = true;
    }

    /// Closes all connections and lets new ones through.
    pub fn restore(&self) {
        let mut state = self.shared.lock().expect("the lock");
        state.is_cut = false;
        for stream in state.open.drain(..) {
            let _closed = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.restore();
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
