//! A relay between the broker and a back end over plain HTTP/1.1 that notes every request. Neither
//! the back end nor the broker can testify that no call was made; the relay can. It can also cause
//! trouble while the test asks the back end directly.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread,
    time::Duration,
};

/// The trouble that the relay causes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trouble {
    /// Passes requests and answers on.
    #[default]
    None,
    /// Closes every connection at once.
    Down,
    /// Delays each request.
    Slow(Duration),
    /// Takes requests and never answers.
    Hung,
    /// Passes requests on, and closes the connection before the answer.
    AnswerLost,
    /// Sends every answer twice, the second time when it can be taken for the answer to the next
    /// request.
    AnswerTwice,
    /// Passes requests on, and answers as proxies and portals do, or with the answers to other
    /// requests.
    AnswerWrong,
    /// Refuses requests with 429 and 5xx.
    Failing,
    /// Passes on only so many bytes of each answer.
    Cut(usize),
    /// Answers with this status in place of the back end, on a page that repeats the whole request.
    Echo(u16),
    /// Answers with this status and page in place of the back end.
    Instead(u16, String),
}

/// Ends when it is dropped: `drop` connects once more, which wakes its listener.
#[derive(Debug)]
pub struct Relay {
    address: String,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    trouble: Trouble,
    /// `METHOD /path` of each request, by connection.
    seen: Vec<Vec<String>>,
    /// All answers of the back end.
    answers: Vec<u8>,
    /// The number of answers that the relay made itself.
    made_up: usize,
    /// The last successful answer to any request.
    good: Option<Vec<u8>>,
    done: bool,
}

impl Relay {
    /// Listens on a free port and passes requests on to `upstream`, `http://HOST:PORT`.
    pub fn start(upstream: &str) -> Self {
        let upstream = upstream
            .strip_prefix("http://")
            .expect("an address over plain HTTP")
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let shared = Arc::<Shared>::default();
        let relay = Self {
            address,
            shared: Arc::clone(&shared),
        };
        thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let place = {
                    let mut state = shared.state();
                    if state.done {
                        return;
                    }
                    state.seen.push(Vec::new());
                    state.seen.len() - 1
                };
                let (shared, upstream) = (Arc::clone(&shared), upstream.clone());
                thread::spawn(move || {
                    // An error on either side ends the connection.
                    let _broken = pass(&client, &upstream, &shared, place);
                    let _closed = client.shutdown(Shutdown::Both);
                });
            }
        });
        relay
    }

    /// The address that the broker is to connect to.
    pub fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Causes this trouble from now on.
    pub fn make(&self, trouble: Trouble) {
        self.shared.state().trouble = trouble;
        self.shared.changed.notify_all();
    }

    /// `METHOD /path` of the requests so far, in order within each connection.
    pub fn requests(&self) -> Vec<String> {
        self.shared.state().seen.concat()
    }

    /// All answers of the back end so far, including answers that did not reach the broker.
    pub fn answers(&self) -> String {
        String::from_utf8_lossy(&self.shared.state().answers).into_owned()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.shared.state().seen.len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.state().done = true;
        self.shared.changed.notify_all();
        let _woken = TcpStream::connect(&self.address);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the lock")
    }

    /// Waits while this is the trouble, at most for `limit`.
    fn wait_while(&self, trouble: &Trouble, limit: Duration) {
        let state = self.state();
        let _waited = self
            .changed
            .wait_timeout_while(state, limit, |s| s.trouble == *trouble && !s.done)
            .expect("the lock");
    }
}

/// Serves one connection. Each request is noted before it is passed on, so no effect on the back
/// end goes unnoted.
fn pass(client: &TcpStream, upstream: &str, shared: &Shared, place: usize) -> std::io::Result<()> {
    const FOR_EVER: Duration = Duration::from_secs(3600);
    if shared.state().trouble == Trouble::Down {
        return Ok(());
    }
    let (mut requests, mut answers) = (BufReader::new(client), client);
    let mut server = BufReader::new(TcpStream::connect(upstream)?);
    let mut again: Option<Vec<u8>> = None;
    while let Some(request) = Message::read(&mut requests, false)? {
        if let Some(answer) = again.take() {
            answers.write_all(&answer)?;
        }
        let trouble = {
            let mut state = shared.state();
            state.seen[place].push(request.line());
            state.trouble.clone()
        };
        match &trouble {
            Trouble::Down => return Ok(()),
            Trouble::Echo(status) => {
                let shown = String::from_utf8_lossy(&request.bytes).into_owned();
                answers.write_all(&answer(&format!("{status} So"), &shown))?;
                continue;
            }
            Trouble::Instead(status, page) => {
                answers.write_all(&answer(&format!("{status} So"), page))?;
                continue;
            }
            Trouble::Failing => {
                let refusal = refusal(&mut shared.state().made_up);
                answers.write_all(&refusal)?;
                continue;
            }
            Trouble::Hung => {
                shared.wait_while(&trouble, FOR_EVER);
                return Ok(());
            }
            Trouble::Slow(pause) => shared.wait_while(&trouble, *pause),
            _ => {}
        }
        server.get_mut().write_all(&request.bytes)?;
        let is_head = request.line().starts_with("HEAD ");
        let Some(answer) = Message::read(&mut server, is_head)? else {
            return Ok(());
        };
        shared.state().answers.extend_from_slice(&answer.bytes);
        match trouble {
            Trouble::AnswerLost => return Ok(()),
            Trouble::Cut(length) => {
                return answers.write_all(&answer.bytes[..length.min(answer.bytes.len())]);
            }
            Trouble::AnswerTwice => {
                answers.write_all(&answer.bytes)?;
                again = Some(answer.bytes.clone());
            }
            Trouble::AnswerWrong => answers.write_all(&wrong_answer(&mut shared.state()))?,
            _ => answers.write_all(&answer.bytes)?,
        }
        // A 404 would be a true statement of the back end, made about another thing. Only successes
        // are kept.
        if answer.line().contains(" 200 ") {
            shared.state().good = Some(answer.bytes);
        }
    }
    Ok(())
}

/// One of the ways in which servers and proxies refuse requests.
fn refusal(count: &mut usize) -> Vec<u8> {
    const STATUS: [&str; 4] = [
        "503 Service Unavailable",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "429 Too Many Requests",
    ];
    *count += 1;
    answer(STATUS[*count % STATUS.len()], r#"{"errors":["try later"]}"#)
}

/// An answer that does not belong to the request.
fn wrong_answer(state: &mut State) -> Vec<u8> {
    state.made_up += 1;
    match state.made_up % 8 {
        0 => state.good.clone().unwrap_or_else(|| answer("200 OK", "{}")),
        1 => answer("200 OK", "<html>Welcome to the guest network</html>"),
        2 => answer("404 Not Found", "<html>no such page</html>"),
        3 => answer("200 OK", "{}"),
        4 => answer("200 OK", r#"{"data":null,"auth":null,"lease_id":""}"#),
        5 => answer("204 No Content", ""),
        6 => answer("403 Forbidden", r#"{"errors":["permission denied"]}"#),
        _ => answer("400 Bad Request", r#"{"errors":["unknown field"]}"#),
    }
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let length = match status.starts_with("204") {
        true => String::new(),
        false => format!("content-length: {}\r\n", body.len()),
    };
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{length}\r\n{body}")
        .into_bytes()
}

/// A request or an answer as it is on the wire.
#[derive(Debug)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Reads one; `None` at the end. An answer to HEAD has no body, although its headers may
    /// announce one.
    fn read(from: &mut impl BufRead, is_to_head: bool) -> std::io::Result<Option<Self>> {
        let mut message = Self { bytes: Vec::new() };
        loop {
            let before = message.bytes.len();
            if from.read_until(b'\n', &mut message.bytes)? == 0 {
                return Ok(None);
            }
            if &message.bytes[before..] == b"\r\n" {
                break;
            }
        }
        let status = message.line();
        let is_bodiless = is_to_head || [" 204 ", " 304 "].iter().any(|code| status.contains(code));
        if is_bodiless {
            return Ok(Some(message));
        }
        if message.header("transfer-encoding").as_deref() == Some("chunked") {
            while message.read_chunk(from)? > 0 {}
        } else if let Some(length) = message.header("content-length") {
            let length = length.parse().expect("a length");
            from.take(length).read_to_end(&mut message.bytes)?;
        }
        Ok(Some(message))
    }

    /// Reads a chunk with the size before it and the line end behind it. Returns its length.
    fn read_chunk(&mut self, from: &mut impl BufRead) -> std::io::Result<u64> {
        let mut size = Vec::new();
        from.read_until(b'\n', &mut size)?;
        let length = u64::from_str_radix(String::from_utf8_lossy(&size).trim(), 16).unwrap_or(0);
        self.bytes.extend(size);
        from.take(length + 2).read_to_end(&mut self.bytes)?;
        Ok(length)
    }

    /// The first line without the protocol's version at its end.
    fn line(&self) -> String {
        let head = String::from_utf8_lossy(&self.bytes);
        let line = head.lines().next().unwrap_or_default();
        line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let head = String::from_utf8_lossy(&self.bytes);
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_ascii_lowercase())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Message;

    #[test]
    fn messages_with_any_bodies_are_told_apart() {
        let wire = "POST /v1/a HTTP/1.1\r\nContent-Length: 15\r\n\r\nGET /b HTTP/1.1\
            LIST /v1/c HTTP/1.1\r\nhost: x\r\n\r\n\
            HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n\
            HTTP/1.1 204 No Content\r\ncontent-length: 7\r\n\r\n";
        let mut reader = wire.as_bytes();
        let mut read = || Message::read(&mut reader, false).expect("no error");
        let mut lengths = 0;
        for line in [
            "POST /v1/a",
            "LIST /v1/c",
            "HTTP/1.1 200 OK",
            "HTTP/1.1 204 No Content",
        ] {
            let message = read().expect("another message");
            assert_eq!(message.line(), line);
            lengths += message.bytes.len();
        }
        assert!(read().is_none());
        assert_eq!(lengths, wire.len());
    }
}
