//! The ledger's record of the evidence with which an agent proved its identity.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of evidence. Each has one attestor, which verifies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvidenceKind {
    /// A single-use token that an operator made.
    JoinToken,
}

impl fmt::Display for EvidenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::JoinToken => "join token",
        })
    }
}

/// The evidence for an SVID, as the ledger keeps it: enough for an auditor to find out which issuer
/// vouched for the agent, and never a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRecord {
    /// The kind of evidence.
    pub kind: EvidenceKind,
    /// The maker of the evidence; for a join token the SPIFFE ID of its operator.
    pub issuer: String,
    /// The issuer's name for the evidence or its holder; for a join token its id.
    pub subject: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::Event;

    fn issued(more: &Value) -> Value {
        let mut event = json!({
            "type": "svid_issued",
            "svid": {
                "serial": "0".repeat(32),
                "agent": "builder",
                "key_sha256": "",
                "not_before": "2026-01-01T00:00:00.000Z",
                "not_after": "2026-01-01T01:00:00.000Z",
                "state": "pending",
            },
            "join_token": "j0123456789abcdef",
        });
        let object = event.as_object_mut().unwrap();
        object.extend(more.as_object().unwrap().clone());
        event
    }

    /// An auditor reads entries from before evidence was recorded as they were written.
    #[test]
    fn entries_with_and_without_evidence_keep_their_form() {
        let evidence = json!({
            "kind": "join_token",
            "issuer": "spiffe://acme.test/operator/admin",
            "subject": "j0123456789abcdef",
        });
        for more in [json!({}), json!({ "evidence": evidence })] {
            let written = issued(&more);
            let event: Event = serde_json::from_value(written.clone()).unwrap();
            assert_eq!(serde_json::to_value(&event).unwrap(), written);
        }
    }
}
