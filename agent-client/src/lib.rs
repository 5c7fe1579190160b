//! taskpass-client
