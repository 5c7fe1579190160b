//! Requests as they arrive: decoded, authenticated, turned into use cases, decided. The first byte
//! chooses the RPC, the second one the caller.
//!
//! The broker has one of everything. Its store accepts no more commits, so that every input meets
//! the same state.

use std::sync::OnceLock;

use tonic::Code;

use crate::{input, wording::one_line, world::World};

/// The length of the longest message, which names a field and repeats a value.
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
    // A message that cannot be decoded is `Internal` in tonic's words. Any other `Internal` is a
    // bug of ours.
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
