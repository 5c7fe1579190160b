//! taskpass-ca
