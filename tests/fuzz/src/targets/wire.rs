//! Requests as they come off the wire: decoded, authenticated, turned into use cases, decided. First byte: which RPC;
//! second: who calls.
//!
//! The world they meet holds one of everything. Its store takes no more commits, so that every input meets the same.

use std::sync::OnceLock;

use tonic::Code;

use crate::{input, wording::one_line, world::World};

/// As long as the longest, which names a field and repeats a value.
const MESSAGE_CHARS_MAX: usize = 600;

pub(crate) fn run(data: &[u8]) {
    let (rpc, rest) = input::choice(data);
    let (caller, message) = input::choice(rest);
    let world = world();
    let rpcs = world.rpcs();
    let Some(rpc) = rpcs.get(usize::from(rpc) % rpcs.len()) else {
        return;
    };
    let Err(status) = world.call(rpc, usize::from(caller), message) else {
        return;
    };
    let text = one_line(status.message(), MESSAGE_CHARS_MAX);
    // What cannot be decoded is `Internal` in tonic's words; anything else of that kind would be ours to mend.
    let undecodable = text.starts_with("failed to decode Protobuf message");
    assert!(
        undecodable || !matches!(status.code(), Code::Internal | Code::Unknown),
        "{status}"
    );
}

fn world() -> &'static World {
    static MADE: OnceLock<World> = OnceLock::new();
    MADE.get_or_init(World::new)
}
