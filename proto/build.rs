//! Compiles the .proto files without protoc, and keeps the descriptor set for reflection and tests.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 8] = [
    "taskpass/v1/types.proto",
    "taskpass/v1/identity.proto",
    "taskpass/v1/agent.proto",
    "taskpass/v1/task.proto",
    "taskpass/v1/credential.proto",
    "taskpass/v1/provider.proto",
    "taskpass/v1/policy.proto",
    "taskpass/v1/ledger.proto",
];

#[expect(
    clippy::disallowed_methods,
    reason = "cargo names the output directory in the environment"
)]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("taskpass.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Messages that carry secrets must not be printable by accident.
        .skip_debug([
            "taskpass.v1.AttestRequest",
            "taskpass.v1.CreateJoinTokenResponse",
            "taskpass.v1.IssueCredentialResponse",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
