//! What the other parts of the broker need, made from the configuration.

use std::time::Duration;

use taskpass_engine::{ProviderSettings, Rate, Settings};

use super::Config;
use crate::transport;

/// The life of the root certificate, used when an installation is made.
const ROOT_TTL: Duration = Duration::from_secs(3650 * 86_400);

impl Config {
    /// Limits and defaults of the engine.
    pub fn settings(&self) -> Settings {
        let Self {
            limits,
            tasks,
            credentials,
            provider_calls: calls,
            ..
        } = self;
        Settings {
            task_ttl_default: tasks.ttl_default,
            task_ttl_max: tasks.ttl_max,
            heartbeat_min: tasks.heartbeat_min,
            open_tasks_per_agent: tasks.open_per_agent,
            live_credentials_per_agent: credentials.live_per_agent,
            live_credentials_per_task: credentials.live_per_task,
            idempotency_keys_per_caller: limits.idempotency_keys_per_caller,
            requests_per_agent: Rate {
                per_second: limits.agent_requests_per_second,
                burst: limits.agent_requests_burst,
            },
            requests_per_task: Rate {
                per_second: limits.task_requests_per_second,
                burst: limits.task_requests_burst,
            },
            attestations: Rate {
                per_second: limits.attestations_per_second,
                burst: limits.attestations_burst,
            },
            revoke_wait_default: credentials.revoke_wait_default,
            revoke_wait_max: credentials.revoke_wait_max,
            provider: ProviderSettings {
                issue_timeout: calls.issue_timeout,
                revoke_timeout: calls.revoke_timeout,
                issue_concurrency: calls.issue_concurrency,
                issue_queue: calls.issue_queue,
                revoke_concurrency: calls.revoke_concurrency,
                breaker_failures: calls.breaker_failures,
                breaker_pause: calls.breaker_pause,
            },
        }
    }

    /// Limits of connections and requests.
    pub const fn transport_limits(&self) -> transport::Limits {
        let limits = &self.limits;
        transport::Limits {
            connections: limits.connections,
            connections_per_address: limits.connections_per_address,
            connections_per_caller: limits.connections_per_caller,
            arrivals: Rate {
                per_second: limits.new_connections_per_second,
                burst: limits.new_connections_burst,
            },
            handshakes: limits.handshakes,
            handshake_timeout: limits.handshake_timeout,
            streams_per_connection: limits.streams_per_connection,
            requests: limits.requests,
            requests_per_caller: limits.requests_per_caller,
            unauthenticated_requests_per_address: limits.unauthenticated_requests_per_address,
            request_timeout: limits.request_timeout,
            body_timeout: limits.body_timeout,
            header_bytes: limits.header_bytes,
            idle_timeout: limits.idle_timeout,
            keepalive_interval: limits.keepalive_interval,
            keepalive_timeout: limits.keepalive_timeout,
            connection_age: limits.connection_age,
            unauthenticated_connection_age: limits.unauthenticated_connection_age,
            connection_grace: limits.connection_grace,
            drain_timeout: limits.drain_timeout,
        }
    }

    /// Lifetimes of the certificate authority; fails when they do not fit together.
    pub fn ca(&self) -> Result<taskpass_ca::Config, taskpass_ca::Error> {
        taskpass_ca::Config::new(self.identity.svid_ttl, self.identity.ca_ttl, ROOT_TTL)
    }

    /// The name under which the ledger's checkpoints are signed (C2SP tlog-checkpoint, origin).
    pub fn ledger_origin(&self) -> String {
        format!("taskpass/{}", self.trust_domain)
    }
}
