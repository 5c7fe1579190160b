//! End to end: the two programs with real back ends. The tests compare the back ends' own word with
//! the broker's.
//!
//! One module for each topic. Every test starts the servers it needs and shares nothing with the
//! others.

#![expect(
    clippy::too_many_lines,
    reason = "a table of cases and what each must say reads best in one piece"
)]

mod abuse;
mod agents;
mod archive;
mod aws;
mod bad_input;
mod budgets;
mod canary;
mod clock;
mod crash;
mod damage;
mod denied;
mod doctor;
mod ends;
mod first_steps;
mod full_disk;
mod grants;
mod house;
mod identity;
mod incidents;
mod keys;
mod ledger;
mod limits;
mod main_path;
mod matrix;
mod metrics;
mod operators;
mod outage;
mod quotas;
mod random_kills;
mod reload;
mod root;
mod rpc_matrix;
mod run;
mod standby;
mod support;
