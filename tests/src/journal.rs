//! The answers that clients received, kept by the clients. An answer is a promise, so the exported
//! history must hold it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use taskpass_client::{EndedTask, IssuedCredential, Receipt};
use taskpass_core::{CredentialId, Timestamp};

use crate::{
    History, OpenBao,
    witness::{text, time},
};

/// One answer of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A certificate was issued, with this serial number.
    Identity(String),
    /// A task is open.
    Started(String),
    /// A credential was issued.
    Issued(CredentialId),
    /// A credential lives until then.
    Renewed(CredentialId, Timestamp),
    /// A credential is in this state.
    Receipt(CredentialId, String),
    /// A task is in this state.
    Ended(String, String),
}

/// A secret that was issued, so that a test can try whether it works.
#[derive(Debug, Clone)]
pub enum IssuedSecret {
    /// A token of OpenBao.
    Token(String),
    /// A certificate of its PKI engine, by its serial number.
    Certificate(String),
}

impl From<&IssuedCredential> for IssuedSecret {
    fn from(issued: &IssuedCredential) -> Self {
        let field = |name: &str| issued.field(name).map(|secret| secret.expose().to_owned());
        match field("token") {
            Some(token) => Self::Token(token),
            None => Self::Certificate(field("serial_number").expect("a token or a certificate")),
        }
    }
}

impl IssuedSecret {
    /// Whether OpenBao no longer accepts it.
    pub fn is_dead(&self, bao: &OpenBao) -> bool {
        match self {
            Self::Token(token) => !bao.token_works(token),
            Self::Certificate(serial) => bao.certificate_is_revoked(serial),
        }
    }
}

/// All answers and all secrets that clients received.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    told: Vec<Told>,
    secrets: Vec<(CredentialId, IssuedSecret)>,
}

impl Journal {
    /// Notes an answer.
    pub fn note(&mut self, told: Told) {
        self.told.push(told);
    }

    /// Notes an issued credential with its secret.
    pub fn note_secret(&mut self, credential: CredentialId, secret: IssuedSecret) {
        self.told.push(Told::Issued(credential));
        self.secrets.push((credential, secret));
    }

    /// Notes a receipt.
    pub fn note_receipt(&mut self, receipt: &Receipt) {
        let told = Told::Receipt(receipt.credential_id, receipt.state.to_string());
        self.told.push(told);
    }

    /// Notes the end of a task with its receipts.
    pub fn note_ended(&mut self, ended: &EndedTask) {
        let task = ended.task_id.to_string();
        self.told.push(Told::Ended(task, ended.state.to_string()));
        for receipt in &ended.receipts {
            self.note_receipt(receipt);
        }
    }

    /// How many answers there were.
    pub const fn len(&self) -> usize {
        self.told.len()
    }

    /// Whether no client has received an answer.
    pub const fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// How many answers `kind` selects.
    pub fn count(&self, kind: impl Fn(&Told) -> bool) -> usize {
        self.told.iter().filter(|told| kind(told)).count()
    }

    /// Secrets that still work although their credential counts as revoked with proof. There must
    /// never be any.
    pub fn false_proofs(
        &self,
        bao: &OpenBao,
        is_proven: impl Fn(CredentialId) -> bool,
    ) -> Vec<String> {
        let false_proofs = self.secrets.iter();
        false_proofs
            .filter(|(id, secret)| is_proven(*id) && !secret.is_dead(bao))
            .map(|(id, _)| format!("{id} is called revoked_verified and works"))
            .collect()
    }

    /// Secrets that still work although a receipt told the client that they are revoked with proof.
    pub fn false_receipts(&self, bao: &OpenBao) -> Vec<String> {
        self.false_proofs(bao, |id| {
            self.told
                .contains(&Told::Receipt(id, "revoked_verified".to_owned()))
        })
    }

    /// Answers that the history does not hold.
    pub fn lost(&self, history: &History) -> Vec<String> {
        let kept = Kept::new(history);
        let missing = self.told.iter().filter(|told| !kept.holds(told));
        missing
            .map(|told| format!("the history does not hold {told:?}"))
            .collect()
    }
}

/// The last states in the history, by id.
struct Kept<'a> {
    identities: BTreeSet<&'a str>,
    tasks: BTreeMap<&'a str, &'static str>,
    credentials: BTreeMap<String, &'static str>,
    issued: BTreeSet<&'a str>,
    /// The latest end of each credential.
    renewed: BTreeMap<&'a str, Timestamp>,
}

impl<'a> Kept<'a> {
    fn new(history: &'a History) -> Self {
        let mut tasks = BTreeMap::new();
        for event in history.of_type("task_started") {
            tasks.insert(text(&event["task"], "id"), "open");
        }
        for (kind, state) in [("task_ending", "ending"), ("task_ended", "ended")] {
            tasks.extend(history.of_type(kind).map(|e| (text(e, "task"), state)));
        }
        let mut renewed = BTreeMap::new();
        for event in history.of_type("credential_renewed") {
            let until = time(event, "expires_at");
            let latest = renewed.entry(text(event, "credential")).or_insert(until);
            *latest = until.max(*latest);
        }
        let of = |kind, field: fn(&Value) -> &str| history.of_type(kind).map(field).collect();
        Self {
            identities: of("svid_issued", |e| text(&e["svid"], "serial")),
            tasks,
            credentials: history.credential_states(),
            issued: of("credential_issued", |e| text(e, "credential")),
            renewed,
        }
    }

    fn holds(&self, told: &Told) -> bool {
        let state = |id: &CredentialId| self.credentials.get(&id.to_string()).copied();
        match told {
            Told::Identity(serial) => self.identities.contains(serial.as_str()),
            Told::Started(task) => self.tasks.contains_key(task.as_str()),
            Told::Issued(id) => self.issued.contains(id.to_string().as_str()),
            Told::Renewed(id, until) => {
                let latest = self.renewed.get(id.to_string().as_str());
                latest.is_some_and(|latest| latest >= until)
            }
            Told::Receipt(id, was) if ["revoking", "stuck"].contains(&was.as_str()) => {
                state(id).is_some_and(|is| !["intended", "active"].contains(&is))
            }
            Told::Receipt(id, was) => state(id).is_some_and(|is| is == was),
            Told::Ended(task, was) => match self.tasks.get(task.as_str()) {
                Some(&"ended") => true,
                Some(is) => is == was,
                None => false,
            },
        }
    }
}
