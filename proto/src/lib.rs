//! The wire: messages and services of `taskpass.v1`, generated from the .proto files beside this
//! crate.
//!
//! No logic lives here. Messages that carry secrets have no derived `Debug`.
//!
//! ```
//! use taskpass_proto::v1::EndTaskRequest;
//!
//! let request = EndTaskRequest { task_id: "t0123456789abcdef".to_owned(), ..Default::default() };
//! assert!(!request.cancel);
//! ```

/// Package `taskpass.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("taskpass.v1");

    /// The encoded `FileDescriptorSet` of the package, for gRPC reflection and for tests that
    /// enumerate the RPCs.
    pub const FILE_DESCRIPTOR_SET: &[u8] =
        include_bytes!(concat!(env!("OUT_DIR"), "/taskpass.v1.bin"));

    /// Generic code needs `Debug`; messages with secrets print their type only.
    macro_rules! opaque_debug {
        ($($message:ident),*) => {$(
            impl std::fmt::Debug for $message {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(concat!(stringify!($message), " { … }"))
                }
            }
        )*};
    }
    opaque_debug!(
        AttestRequest,
        CreateJoinTokenResponse,
        IssueCredentialResponse
    );
}
