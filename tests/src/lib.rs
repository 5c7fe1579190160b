//! taskpass-tests
