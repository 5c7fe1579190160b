//! What operators see of a running broker. Only logs so far.

pub mod logging;
