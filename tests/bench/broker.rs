//! A broker for measuring: its limits are out of the way, and it logs as much as in production.

use taskpass_tests::{
    Broker, Installation,
    wire::{Certificate, Wire},
};

const LIMITS: &str = r"
[limits]
connections_per_address = 4096
connections_per_caller = 4096
new_connections_per_second = 100000
new_connections_burst = 1000000
requests_per_caller = 4096
agent_requests_per_second = 100000
agent_requests_burst = 1000000
agent_ledger_bytes_per_hour = 4000000000
agent_task_starts_per_hour = 100000000
agent_denials_per_hour = 100000000
task_requests_per_second = 100000
task_requests_burst = 1000000
[tasks]
open_per_agent = 100000
[credentials]
live_per_agent = 1000000
live_per_task = 100000
revoke_wait_max = '10m'
";

/// An installation with limits that no load of this bench reaches.
pub(crate) fn installation() -> Installation {
    let installation = Installation::new();
    installation.configure(LIMITS);
    installation
}

/// Starts its broker at the usual log level. The harness would log everything, which would be
/// measured too.
pub(crate) fn start(installation: &Installation) -> Broker<'_> {
    installation.start_with(&[("TASKPASS_LOG", "info")])
}

/// The certificate of a newly registered agent.
pub(crate) fn certificate(broker: &Broker<'_>, name: &str) -> Certificate {
    Certificate::load(broker.agent(name).identity())
}

/// A connection as a newly registered agent.
pub(crate) fn agent(broker: &Broker<'_>, name: &str) -> Wire {
    Wire::new(broker.address(), Some(&certificate(broker, name)))
}
