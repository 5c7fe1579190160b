//! `[identity]`: how long certificates live.

use taskpass_core::{AgentName, Ttl};

use super::{lifetime, section::section};

section! {
    /// How long certificates live.
    Identity = "identity" {
        /// How long an agent's certificate lives. Clients renew at two thirds of it. At most a
        /// sixth of `ca_ttl`.
        svid_ttl: Ttl = lifetime(3600), lifetime(60)..=lifetime(7 * 86_400);
        /// How long a signing CA lives. It is rotated ahead of its end, and what it signed is trusted until the
        /// last of it ends.
        ca_ttl: Ttl = lifetime(86_400), lifetime(3600)..=lifetime(90 * 86_400);
        /// The broker's own name, the last part of `spiffe://<trust domain>/broker/<node>`.
        node: AgentName = super::node_name();
    }
}
