//! taskpass-store
