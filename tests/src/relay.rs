//! A relay between the broker and a back end over plain HTTP/1.1 that notes everything: whether somebody was asked at all is
//! not the back end's to say, nor the broker's. It can also spoil what passes.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// What the relay does with connections and answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: all passes.
    #[default]
    None,
    /// Nobody is there: connections are closed.
    Down,
    /// Requests are taken and nothing comes back.
    Hung,
    /// Requests are carried out, and their answers are lost.
    Lost,
    /// Of each answer only so many bytes come back.
    Cut(usize),
    /// Not the back end answers but something before it, which shows the whole request in its page.
    Echo(u16),
    /// The same, with a page of its own.
    Instead(u16, String),
}

/// Ends when its listener is connected to for the last time, at drop.
#[derive(Debug)]
pub struct Relay {
    address: String,
    seen: Arc<Mutex<Vec<Vec<u8>>>>,
    answers: Arc<Mutex<Vec<u8>>>,
    fault: Arc<Mutex<Fault>>,
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
        let (answers, fault) = (Arc::default(), Arc::<Mutex<Fault>>::default());
        let relay = Self {
            address,
            seen: Arc::clone(&seen),
            answers: Arc::clone(&answers),
            fault: Arc::clone(&fault),
            done: Arc::clone(&done),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                if done.load(std::sync::atomic::Ordering::Acquire) {
                    return;
                }
                let Ok(client) = client else { return };
                if *fault.lock().expect("the lock") == Fault::Down {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&upstream) else {
                    continue;
                };
                pass(client, server, &seen, &answers, &fault);
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

    /// Spoils what passes from now on.
    pub fn set(&self, fault: Fault) {
        *self.fault.lock().expect("the lock") = fault;
    }

    /// All answers of the back end so far, also those that were lost on the way.
    pub fn answers(&self) -> String {
        String::from_utf8_lossy(&self.answers.lock().expect("the lock")).into_owned()
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

fn pass(
    client: TcpStream,
    server: TcpStream,
    seen: &Arc<Mutex<Vec<Vec<u8>>>>,
    answers: &Arc<Mutex<Vec<u8>>>,
    fault: &Arc<Mutex<Fault>>,
) {
    let place = {
        let mut seen = seen.lock().expect("the lock");
        seen.push(Vec::new());
        seen.len() - 1
    };
    let (client_back, server_back) = (
        client.try_clone().expect("a socket"),
        server.try_clone().expect("a socket"),
    );
    let (seen, answers) = (Arc::clone(seen), Arc::clone(answers));
    let (there, back) = (Arc::clone(fault), Arc::clone(fault));
    thread::spawn(move || {
        let mut client_back = client.try_clone().expect("a socket");
        copy(client, server, |bytes| {
            seen.lock().expect("the lock")[place].extend_from_slice(bytes);
            match &*there.lock().expect("the lock") {
                Fault::Down => None,
                Fault::Hung => Some(&[]),
                Fault::Echo(status) => {
                    let shown = String::from_utf8_lossy(bytes).into_owned();
                    answer(&mut client_back, *status, &shown)
                }
                Fault::Instead(status, body) => answer(&mut client_back, *status, body),
                Fault::None | Fault::Lost | Fault::Cut(_) => Some(bytes),
            }
        });
    });
    thread::spawn(move || {
        copy(server_back, client_back, |bytes| {
            answers.lock().expect("the lock").extend_from_slice(bytes);
            match *back.lock().expect("the lock") {
                Fault::Down | Fault::Lost => None,
                Fault::Cut(length) => bytes.get(..length.min(bytes.len())),
                _ => Some(bytes),
            }
        });
    });
}

/// Answers in place of the back end, which hears nothing of it.
fn answer(client: &mut TcpStream, status: u16, body: &str) -> Option<&'static [u8]> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} So\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    );
    let written = client.write_all((head + body).as_bytes());
    written.is_ok().then_some(&[])
}

/// `note` sees what passes before it does, so that what the back end did is always noted, and says what of it may go on;
/// nothing at all ends the connection.
fn copy(
    mut from: TcpStream,
    mut to: TcpStream,
    mut note: impl for<'b> FnMut(&'b [u8]) -> Option<&'b [u8]>,
) {
    let mut buffer = [0_u8; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let Some(bytes) = note(&buffer[..length]) else {
            let _closed = from.shutdown(Shutdown::Both);
            break;
        };
        if to.write_all(bytes).is_err() {
            break;
        }
        if bytes.len() < length && !bytes.is_empty() {
            let _closed = from.shutdown(Shutdown::Both);
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
