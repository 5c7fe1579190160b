//! HTTP/2 without gRPC's rules: any request with any headers and any bytes as its body, and frames
//! written by hand (RFC 9113) that no library would send.

use std::time::Duration;

use http::Request;
use prost::bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;
use tonic::Code;

use super::{Certificate, HERE, PREFACE, TIMEOUT, client_config, handshake, runtime};

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// A gRPC status, from the headers or the trailers, with the bytes of the body.
    Grpc(Code, Vec<u8>),
    /// An HTTP status without a gRPC one.
    Http(u16),
    /// The request or the connection was reset or closed.
    Broken(String),
}

/// Sends one request on a connection of its own, its body in these pieces.
pub fn send(
    address: &str,
    certificate: Option<&Certificate>,
    request: Request<()>,
    body: &[&[u8]],
) -> Answer {
    match Sending::begin(address, certificate, request, body.is_empty()) {
        Ok(mut sending) => {
            for (at, piece) in body.iter().enumerate() {
                sending.more(piece, at + 1 == body.len());
            }
            sending.answer()
        }
        Err(e) => Answer::Broken(e.to_string()),
    }
}

/// A request on a connection of its own that may stay incomplete.
#[derive(Debug)]
pub struct Sending {
    body: h2::SendStream<Bytes>,
    response: h2::client::ResponseFuture,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Sending {
    /// Connects, and sends the head.
    pub fn begin(
        address: &str,
        certificate: Option<&Certificate>,
        request: Request<()>,
        without_body: bool,
    ) -> std::io::Result<Self> {
        runtime().block_on(async {
            let stream = handshake(HERE, address, client_config(certificate)).await?;
            let (mut client, connection) = h2::client::handshake(stream)
                .await
                .map_err(std::io::Error::other)?;
            let driver = runtime().spawn(connection);
            let (response, body) = client
                .send_request(request, without_body)
                .map_err(std::io::Error::other)?;
            Ok(Self {
                body,
                response,
                driver,
            })
        })
    }

    /// Sends more of the body.
    pub fn more(&mut self, piece: &[u8], last: bool) {
        // The broker may have answered already and stopped reading.
        let _unwanted = self.body.send_data(Bytes::copy_from_slice(piece), last);
    }

    /// Waits for the answer.
    pub fn answer(self) -> Answer {
        let Self {
            response,
            driver,
            body,
        } = self;
        let answered = runtime().block_on(async { timeout(TIMEOUT, answer(response)).await });
        driver.abort();
        // The body lives until now, because dropping it would cancel the request.
        drop(body);
        let answered = answered.expect("an answer in time");
        answered.unwrap_or_else(|e| Answer::Broken(e.to_string()))
    }
}

async fn answer(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let response = response.await?;
    let (head, mut body) = response.into_parts();
    if let Some(code) = code(&head.headers) {
        return Ok(Answer::Grpc(code, Vec::new()));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        let _counted = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(match code(&trailers) {
        Some(code) => Answer::Grpc(code, bytes),
        None => Answer::Http(head.status.as_u16()),
    })
}

fn code(headers: &http::HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

/// How a connection with hand-written frames ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// A response came.
    Answered,
    /// RST_STREAM with this error code.
    Reset(u32),
    /// GOAWAY with this error code.
    GoAway(u32),
    /// The connection was closed without a frame.
    Closed,
}

/// A connection on which frames are written by hand.
#[derive(Debug)]
pub struct Frames {
    stream: TlsStream<TcpStream>,
}

impl Frames {
    /// Connects, and sends the preface.
    pub fn open(address: &str, certificate: Option<&Certificate>) -> Self {
        let opening = async {
            let mut stream = handshake(HERE, address, client_config(certificate)).await?;
            stream.write_all(PREFACE).await?;
            Ok::<_, std::io::Error>(Self { stream })
        };
        runtime()
            .block_on(opening)
            .expect("the broker takes the connection")
    }

    /// Writes for at most `span`. Returns false when the peer stopped reading or closed the
    /// connection.
    pub fn write(&mut self, bytes: &[u8], span: Duration) -> bool {
        let writing = async { timeout(span, self.stream.write_all(bytes)).await };
        matches!(runtime().block_on(writing), Ok(Ok(())))
    }

    /// Waits for the next response, RST_STREAM or GOAWAY, or the end.
    pub fn end(&mut self) -> End {
        let reading = async { timeout(TIMEOUT, self.next()).await };
        let ended = runtime().block_on(reading);
        ended.expect("an answer in time").unwrap_or(End::Closed)
    }

    async fn next(&mut self) -> std::io::Result<End> {
        loop {
            let mut head = [0_u8; 9];
            self.stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; usize::try_from(length).expect("a length")];
            self.stream.read_exact(&mut payload).await?;
            let word = |at: usize| {
                let bytes = payload.get(at..at + 4).expect("the frame has its fields");
                u32::from_be_bytes(bytes.try_into().expect("four bytes"))
            };
            match head[3] {
                frame::HEADERS => return Ok(End::Answered),
                frame::RST_STREAM => return Ok(End::Reset(word(0))),
                frame::GOAWAY => return Ok(End::GoAway(word(4))),
                _ => {}
            }
        }
    }
}

/// Frames (RFC 9113 §4.1, §6).
pub mod frame {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// Any frame.
    pub fn any(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("a frame's length");
        let mut bytes = length.to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// A whole request without a body.
    pub fn headers(stream: u32, block: &[u8]) -> Vec<u8> {
        any(HEADERS, END_HEADERS | END_STREAM, stream, block)
    }

    /// The head of a request with a body behind it.
    pub fn head(stream: u32, block: &[u8]) -> Vec<u8> {
        any(HEADERS, END_HEADERS, stream, block)
    }

    /// The beginning of a head that goes on in CONTINUATION frames.
    pub fn beginning(stream: u32, block: &[u8]) -> Vec<u8> {
        any(HEADERS, 0, stream, block)
    }

    /// More of a head, and not the last of it.
    pub fn continuation(stream: u32, block: &[u8]) -> Vec<u8> {
        any(9, 0, stream, block)
    }

    /// A part of a body.
    pub fn data(stream: u32, payload: &[u8]) -> Vec<u8> {
        any(0, 0, stream, payload)
    }

    /// The last part of a body.
    pub fn last_data(stream: u32, payload: &[u8]) -> Vec<u8> {
        any(0, END_STREAM, stream, payload)
    }

    /// RST_STREAM, CANCEL.
    pub fn reset(stream: u32) -> Vec<u8> {
        any(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
    }
}

/// A header block (RFC 7541): each field as a literal, neither indexed nor compressed, with any
/// bytes.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// An integer with a prefix of seven bits (RFC 7541 §5.1).
fn integer(bytes: &mut Vec<u8>, value: usize) {
    let octet = |n: usize| u8::try_from(n).expect("an octet");
    if value < 127 {
        return bytes.push(octet(value));
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(octet(rest % 128 + 128));
        rest /= 128;
    }
    bytes.push(octet(rest));
}
