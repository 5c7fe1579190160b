//! A relay between the broker and a back end over plain HTTP/1.1 that notes every request: whether somebody was asked
//! at all is not the back end's to say, nor the broker's.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Ends when its listener is connected to for the last time, at drop.
#[derive(Debug)]
pub struct Relay {
    address: String,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    done: Arc<std::sync::atomic::AtomicBool>,
}

impl Relay {
    /// Listens on a free port and passes everything on to `upstream`, `http://HOST:PORT`.
    pub fn start(upstream: &str) -> Self {
        let upstream = upstream
            .strip_prefix("http://")
            .expect("an address over plain HTTP")
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let (seen, done) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::default());
        let relay = Self {
            address,
            seen: Arc::clone(&seen),
            done: Arc::clone(&done),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                if done.load(std::sync::atomic::Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { return };
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                pass(client, server, &seen);
            }
        });
        relay
    }

    /// Where the broker is to connect to.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far, `METHOD /path`, in order within each connection.
    pub fn requests(&self) -> Vec<String> {
        let seen = self.seen.lock().expect("the lock");
        seen.iter()
            .flat_map(|bytes| requests(&String::from_utf8_lossy(bytes)))
            .collect()
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.seen.lock().expect("the lock").len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.done.store(true, std::sync::atomic::Ordering::Release);
        let _woken = TcpStream::connect(&self.address);
    }
}

fn pass(client: TcpStream, server: TcpStream, seen: &Arc<Mutex<Vec<Vec<u8>>>>) {
    let place = {
        let mut seen = seen.lock().expect("the lock");
        seen.push(Vec::new());
        seen.len() - 1
    };
    let (client_back, server_back) = (
        client.try_clone().expect("a socket"),
        server.try_clone().expect("a socket"),
    );
    let seen = Arc::clone(seen);
    thread::spawn(move || {
        copy(client, server, |bytes| {
            seen.lock().expect("the lock")[place].extend_from_slice(bytes)
        });
    });
    thread::spawn(move || copy(server_back, client_back, |_| ()));
}

/// Noted before it is passed on, so that what the back end did is always noted.
fn copy(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut buffer = [0_u8; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        note(&buffer[..length]);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _closed = to.shutdown(Shutdown::Write);
}

/// A body has no newline at its end, so a request line may follow one directly.
fn requests(text: &str) -> Vec<String> {
    const METHODS: [&str; 6] = ["GET", "POST", "PUT", "LIST", "DELETE", "PATCH"];
    let lines = text
        .split("\r\n")
        .filter_map(|line| line.strip_suffix(" HTTP/1.1"));
    lines
        .map(|line| {
            let (before, path) = line.rsplit_once(' ').expect("a method before the path");
            let method = METHODS
                .iter()
                .find(|method| before.ends_with(**method))
                .expect("a known method");
            format!("{method} {path}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::requests;

    #[test]
    fn requests_are_found_between_headers_and_bodies() {
        let text =
            "POST /v1/a HTTP/1.1\r\nhost: x\r\n\r\n{\"b\":1}GET /v1/c HTTP/1.1\r\nhost: x\r\n\r\n";
        assert_eq!(requests(text), ["POST /v1/a", "GET /v1/c"]);
    }
}
