//! The harness of the end-to-end tests: real programs, real back ends, everything on a free port and in a directory of
//! its own, so that tests run in parallel and know nothing of each other.
//!
//! A [`Broker`] fails its test when it logged an ERROR that the test did not announce, or when it left something running.
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
pub use journal::{Drawn, Journal, Told};
pub use link::Link;
pub use ministack::{Ministack, Session};
pub use openbao::OpenBao;
pub use process::{Server, eventually, program, tool, workspace};
pub use relay::{Relay, Trouble};
pub use search::Search;
pub use world::World;
