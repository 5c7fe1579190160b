//! The targets, one file for each parser.

pub(crate) mod certificate_chain;
pub(crate) mod checkpoint;
pub(crate) mod config;
pub(crate) mod csr;
pub(crate) mod identity_directory;
pub(crate) mod join_token;
pub(crate) mod ledger_directory;
pub(crate) mod ledger_entry;
pub(crate) mod ledger_export;
pub(crate) mod policy_set;
pub(crate) mod proof;
pub(crate) mod provider_answers;
pub(crate) mod scope;
pub(crate) mod session_policy;
pub(crate) mod spiffe_id;
pub(crate) mod values;
pub(crate) mod vault_path;
pub(crate) mod wire;
