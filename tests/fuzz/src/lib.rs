//! Fuzz targets for every parser and decoder. No bytes may cause a panic, and accepted inputs must
//! follow the rules.
//!
//! A target is a function from bytes that asserts. `make fuzz` drives the targets with libFuzzer;
//! `make test` replays the committed inputs in `corpus/`. A finding is fixed in the product, and
//! its input stays in the corpus.

mod back_end;
pub mod corpus;
mod der;
mod fixtures;
mod input;
pub mod seeds;
mod targets;
mod wording;
mod world;

/// One parser or decoder with its rules.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line, and the name of its directory in `corpus/`.
    pub name: &'static str,
    /// Panics when a rule is broken.
    pub run: fn(&[u8]),
    /// Bytes of the longest input that libFuzzer tries.
    pub bytes_max: usize,
}

impl Target {
    const fn new(name: &'static str, run: fn(&[u8])) -> Self {
        Self {
            name,
            run,
            bytes_max: 4096,
        }
    }

    const fn up_to(self, bytes_max: usize) -> Self {
        Self { bytes_max, ..self }
    }

    /// The target of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target::new("values", targets::values::run).up_to(2200),
    Target::new("spiffe_id", targets::spiffe_id::run).up_to(2200),
    Target::new("scope", targets::scope::run),
    Target::new("csr", targets::csr::run),
    Target::new("certificate_chain", targets::certificate_chain::run),
    Target::new("identity_directory", targets::identity_directory::run),
    Target::new("join_token", targets::join_token::run).up_to(600),
    Target::new("config", targets::config::run).up_to(65_536),
    Target::new("policy_set", targets::policy_set::run).up_to(65_536),
    Target::new("session_policy", targets::session_policy::run),
    Target::new("aws_answer", targets::provider_answers::aws),
    Target::new("vault_answer", targets::provider_answers::vault),
    Target::new("vault_path", targets::vault_path::run),
    Target::new("ledger_entry", targets::ledger_entry::run),
    Target::new("ledger_directory", targets::ledger_directory::run),
    Target::new("ledger_export", targets::ledger_export::run).up_to(16_384),
    Target::new("checkpoint", targets::checkpoint::run),
    Target::new("proof", targets::proof::run),
    Target::new("wire", targets::wire::run),
];
