//! The Taskpass broker as a library: transport, authentication, API, and the [`App`] that puts them
//! together with the engine and its reconcilers. The program `taskpassd` is a thin shell around it.
//!
//! A request goes one way: `transport` (bytes to peer) → `authn` (peer to caller) → `api` (message
//! to use case) → [`taskpass_engine`] (decide, record, act, record) and back. Its reconcilers
//! repeat the same use cases without a request: at deadlines, after crashes, and for as long as a
//! revocation fails.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use taskpass_broker::{App, Deps, config::Config, provider_kinds};
//! use taskpass_core::{SystemClock, SystemEntropy};
//!
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::load(Path::new("taskpass.toml"), &provider_kinds())?;
//! let (clock, entropy) = (Arc::new(SystemClock::new()), Arc::new(SystemEntropy::new()));
//! let deps = Deps { clock, entropy, credentials: None };
//! let app = App::build(config, deps).await?;
//! println!("listening on {}", app.local_addr());
//! app.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
//! # Ok(())
//! # }
//! ```

mod api;
mod app;
pub mod archive;
mod authn;
mod certificate;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
#[cfg(test)]
mod fixture;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod init;
mod issuing;
pub mod keys;
pub mod observe;
pub mod operator;
pub mod order;
pub mod reason;
pub mod reload;
pub mod transport;
mod unhashed;

pub use app::{App, AppError, Deps, provider_kinds};
