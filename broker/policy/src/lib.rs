//! taskpass-policy
