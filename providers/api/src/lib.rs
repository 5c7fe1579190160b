//! taskpass-provider
