//! How a request ended.

/// The names of the gRPC codes, in the order of their numbers.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// How many codes there are.
pub(crate) const COUNT: usize = GRPC.len() + 1;

/// The code with which a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(usize);

impl Code {
    /// The caller cancelled, or its connection was cut.
    pub const CANCELLED: Self = Self(1);
    /// The request was not one of gRPC.
    pub const NOT_GRPC: Self = Self(GRPC.len());

    /// The code with gRPC's number; `UNKNOWN` for a number that gRPC does not have.
    pub fn grpc(number: i32) -> Self {
        let known = usize::try_from(number).ok().filter(|n| *n < GRPC.len());
        Self(known.unwrap_or(2))
    }

    /// The name, in gRPC's spelling.
    pub fn as_str(self) -> &'static str {
        GRPC.get(self.0).copied().unwrap_or("NOT_GRPC")
    }

    pub(crate) const fn index(self) -> usize {
        self.0
    }
}
