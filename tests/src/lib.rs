//! The harness of the end-to-end tests: real programs and real back ends. Each has a free port and
//! a directory of its own, so that tests run in parallel and do not affect each other.
//!
//! A [`Broker`] fails its test when it logs an ERROR that the test did not announce, or leaves a
//! process running.
//!
//! ```no_run
//! use taskpass_tests::{Installation, OpenBao};
//!
//! let bao = OpenBao::start();
//! let mut installation = Installation::new();
//! installation.configure(&bao.provider("vault-main", ""));
//! let broker = installation.start();
//! let operator = broker.operator();
//! operator.json(&["agent", "register", "builder", "--owner", "alice@acme.test"]);
//! ```

mod broker;
mod cli;
mod disk;
pub mod faults;
pub mod flood;
mod history;
mod journal;
pub mod kills;
mod link;
pub mod load;
mod ministack;
mod openbao;
pub mod overload;
mod process;
mod relay;
mod search;
pub mod wire;
pub mod witness;
mod world;

pub use broker::{Broker, Installation};
pub use cli::{Cli, Output};
pub use disk::Disk;
pub use history::{History, export, vkey};
pub use journal::{IssuedSecret, Journal, Told};
pub use link::Link;
pub use ministack::{Ministack, Session};
pub use openbao::OpenBao;
pub use process::{Server, eventually, program, tool, workspace};
pub use relay::{Relay, Trouble};
pub use search::Search;
pub use world::World;
