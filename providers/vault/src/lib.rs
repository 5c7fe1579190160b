//! taskpass-provider-vault
