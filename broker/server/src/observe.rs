//! What operators see of a running broker: its log.

pub mod logging;
