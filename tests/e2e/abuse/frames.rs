//! Abuse of HTTP/2 itself: hand-written frames (RFC 9113). A careful peer ends the request or the
//! connection for each of them.

use std::time::Duration;

use taskpass_tests::{
    Installation,
    wire::{
        Certificate,
        End::{self, Answered, Closed, GoAway, Reset},
        Frames, block, frame,
    },
};

use super::{Bystander, WHO_AM_I, peak_memory};

/// Error codes (RFC 9113 §7).
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const FRAME_SIZE: u32 = 6;
const CALM: u32 = 11;

type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The fields of a valid request.
fn good() -> Fields<'static> {
    vec![
        (b":method", b"POST"),
        (b":scheme", b"https"),
        (b":path", WHO_AM_I.as_bytes()),
        (b":authority", b"broker"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    ]
}

/// A request with one more field.
fn with(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut fields = good();
    fields.push((name, value));
    frame::headers(1, &block(&fields))
}

/// A request without one of the fields.
fn without(name: &[u8]) -> Vec<u8> {
    let mut fields = good();
    fields.retain(|(key, _)| *key != name);
    frame::headers(1, &block(&fields))
}

/// A request that announces a wrong length of its body.
fn announced(length: &[u8]) -> Vec<u8> {
    let mut fields = good();
    fields.push((b"content-length", length));
    let head = frame::head(1, &block(&fields));
    [head, frame::last_data(1, &[0; 5])].concat()
}

/// A header of 4,000 bytes that goes into the table and is then named by one byte, as often as a
/// frame has room.
fn bomb() -> Vec<u8> {
    let mut fields = block(&good());
    fields.push(0x40);
    let large = block(&[(b"x", &[b'x'; 4000])]);
    fields.extend(&large[1..]);
    fields.extend([0x80 | 62; 12_000]);
    frame::headers(1, &fields)
}

/// A class, the frames, and how the request or connection ends.
type Row = (&'static str, Vec<u8>, End);

/// Requests that another server behind the broker could take for two (RFC 9113 §8.2, §8.3).
fn of_requests() -> Vec<Row> {
    let malformed = |class, bytes| (class, bytes, Reset(PROTOCOL));
    // An invalid name or value is a connection error.
    let fatal = |class, bytes| (class, bytes, GoAway(PROTOCOL));
    let late = {
        let mut fields = good();
        let path = fields.remove(2);
        fields.push(path);
        frame::headers(1, &block(&fields))
    };
    let two_lengths = {
        let mut fields = good();
        fields.push((b"content-length", b"5"));
        fields.push((b"content-length", b"50"));
        let head = frame::head(1, &block(&fields));
        [head, frame::last_data(1, &[0; 5])].concat()
    };
    vec![
        ("nothing wrong", with(b"x-good", b"yes"), Answered),
        malformed("connection", with(b"connection", b"close")),
        malformed("transfer-encoding", with(b"transfer-encoding", b"chunked")),
        malformed("upgrade", with(b"upgrade", b"h2c")),
        malformed("te", with(b"te", b"gzip")),
        fatal("capitals in a name", with(b"X-Admin", b"yes")),
        fatal("a space in a name", with(b"x admin", b"yes")),
        fatal("a colon before a name", with(b":admin", b"yes")),
        fatal("no name", with(b"", b"yes")),
        fatal("a line end in a value", with(b"x", b"a\r\nx-admin: yes")),
        fatal("a NUL in a value", with(b"x", b"a\0b")),
        malformed(
            "the path twice",
            with(b":path", b"/taskpass.v1.AgentService/ListAgents"),
        ),
        malformed("the path after the fields", late),
        malformed("no path", without(b":path")),
        malformed("no method", without(b":method")),
        malformed("more body than announced", announced(b"3")),
        malformed("less body than announced", announced(b"50")),
        malformed("a length that is no number", announced(b"-5")),
        malformed("two lengths", two_lengths),
    ]
}

/// Frames that end the connection.
fn of_connections() -> Vec<Row> {
    let request = || block(&good());
    let gone = |class, bytes, code| (class, bytes, GoAway(code));
    let settings = |name: u16, value: u32| {
        let payload = [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame::any(4, 0, 0, &payload)
    };
    let window = |stream, by: u32| frame::any(8, 0, stream, &by.to_be_bytes());
    vec![
        gone(
            "a stream of the server's",
            frame::headers(2, &request()),
            PROTOCOL,
        ),
        gone("a body of nothing", frame::data(0, b"x"), PROTOCOL),
        gone("a body before its head", frame::data(1, b"x"), PROTOCOL),
        gone(
            "a frame of 17 KB",
            frame::any(0, 0, 1, &[0; 17_000]),
            FRAME_SIZE,
        ),
        gone("a window of zero", window(0, 0), PROTOCOL),
        gone(
            "a window without end",
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
            FLOW_CONTROL,
        ),
        gone(
            "a setting beyond its range",
            settings(4, 0x8000_0000),
            PROTOCOL,
        ),
        gone(
            "settings of five bytes",
            frame::any(4, 0, 0, &[0; 5]),
            PROTOCOL,
        ),
        gone("a promise", frame::any(5, 4, 1, &[0, 0, 0, 2]), PROTOCOL),
        gone(
            "a field that was never in the table",
            frame::headers(1, &[0x80 | 127, 0xff, 0xff, 3]),
            PROTOCOL,
        ),
        gone(
            "another frame within a head",
            [frame::beginning(1, &request()), frame::data(1, b"x")].concat(),
            PROTOCOL,
        ),
    ]
}

fn agent(installation: &Installation) -> Certificate {
    Certificate::load(&installation.scratch().join("agent-builder"))
}

#[test]
fn frames_that_no_library_would_send_end_the_request_or_the_connection() {
    let installation = Installation::new();
    let broker = installation.start();
    broker.agent("builder");
    let (bystander, agent) = (Bystander::new(&broker), agent(&installation));
    let mut complaints = Vec::new();
    for (class, bytes, expected) in [of_requests(), of_connections()].concat() {
        let mut frames = Frames::open(broker.address(), Some(&agent));
        frames.write(&bytes, Duration::from_secs(10));
        let end = frames.end();
        if end != expected {
            complaints.push(format!("{class}: {end:?} instead of {expected:?}"));
        }
        bystander.is_served(class);
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
    broker.stop();
}

/// Much work for few bytes: each flood goes on until the broker ends it or stops reading.
#[test]
fn floods_of_frames_are_stopped_and_cost_no_memory() {
    let installation = Installation::new();
    let broker = installation.start();
    broker.agent("builder");
    let (bystander, agent) = (Bystander::new(&broker), agent(&installation));
    let request = block(&good());
    let rapid_reset: Vec<u8> = (0..20_000)
        .flat_map(|n| [frame::head(2 * n + 1, &request), frame::reset(2 * n + 1)].concat())
        .collect();
    let endless_head = [
        frame::beginning(1, &request),
        frame::continuation(1, &block(&[(b"x", &[b'x'; 8000])])).repeat(2000),
    ]
    .concat();
    let hidden = |payload: &[u8], kind| frame::any(kind, 0, 0, payload).repeat(500_000);
    let empty_parts = [
        frame::head(1, &request),
        frame::data(1, b"").repeat(500_000),
    ]
    .concat();
    let before = peak_memory(broker.pid());
    for (class, bytes, ends) in [
        ("rapid reset", rapid_reset, &[GoAway(CALM)][..]),
        (
            "a head without an end",
            endless_head,
            &[GoAway(CALM), Closed],
        ),
        ("a small head that is large", bomb(), &[GoAway(CALM)]),
        ("pings", hidden(&[0; 8], 6), &[]),
        ("settings", hidden(&[], 4), &[]),
        ("parts of a body without a byte", empty_parts, &[]),
    ] {
        let mut frames = Frames::open(broker.address(), Some(&agent));
        frames.write(&bytes, Duration::from_secs(2));
        bystander.is_served(class);
        if !ends.is_empty() {
            let end = frames.end();
            assert!(ends.contains(&end), "{class}: {end:?}");
        }
    }
    let grown = peak_memory(broker.pid()) - before;
    assert!(grown < 32 << 20, "the broker grew by {} MiB", grown >> 20);
    broker.stop();
}

/// A refused request costs its caller that request only. If the broker answered before the body is
/// there, it would have to reset the stream. After a few dozen resets HTTP/2 ends the connection
/// with all requests on it.
#[test]
fn many_refused_requests_end_neither_the_connection_nor_other_requests_on_it() {
    const REFUSED: u32 = 200;
    let installation = Installation::new();
    installation.configure("[limits]\nrequests_per_caller = 1\n");
    let broker = installation.start();
    broker.agent("builder");
    let (bystander, agent) = (Bystander::new(&broker), agent(&installation));
    let request = block(&good());
    let head = |n: u32| frame::head(2 * n + 1, &request);
    let message = |n: u32| frame::last_data(2 * n + 1, &[0; 5]);
    let mut frames = Frames::open(broker.address(), Some(&agent));
    // The first request uses the only permit and stays unfinished.
    let heads: Vec<u8> = (0..=REFUSED).flat_map(head).collect();
    assert!(frames.write(&heads, Duration::from_secs(10)));
    // Enough time for a broker that would not wait for the bodies.
    bystander.is_served("many heads");
    let bodies: Vec<u8> = (1..=REFUSED).flat_map(message).collect();
    assert!(frames.write(&bodies, Duration::from_secs(10)));
    for number in 1..=REFUSED {
        assert_eq!(frames.end(), Answered, "refused request {number}");
    }
    assert!(frames.write(&message(0), Duration::from_secs(10)));
    assert_eq!(frames.end(), Answered, "the request with the permit");
    bystander.is_served("many refused requests");
    broker.stop();
}
