//! What clients were told, kept by the clients: an answer is a promise, and the exported history must hold it.

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
    /// A certificate was issued, by its serial number.
    Identity(String),
    /// A task is open.
    Started(String),
    /// A credential was handed out.
    Issued(CredentialId),
    /// It lives until then.
    Renewed(CredentialId, Timestamp),
    /// It is in this state.
    Receipt(CredentialId, String),
    /// A task is in this state.
    Ended(String, String),
}

/// A secret that was handed out, to try whether it works.
#[derive(Debug, Clone)]
pub enum Drawn {
    /// A token of OpenBao.
    Token(String),
    /// A certificate of its PKI engine, by its serial number.
    Certificate(String),
}

impl From<&IssuedCredential> for Drawn {
    fn from(issued: &IssuedCredential) -> Self {
        let field = |name: &str| issued.field(name).map(|secret| secret.expose().to_owned());
        match field("token") {
            Some(token) => Self::Token(token),
            None => Self::Certificate(field("serial_number").expect("a token or a certificate")),
        }
    }
}

impl Drawn {
    /// Whether OpenBao takes it no more.
    pub fn is_dead(&self, bao: &OpenBao) -> bool {
        match self {
            Self::Token(token) => !bao.token_works(token),
            Self::Certificate(serial) => bao.certificate_is_revoked(serial),
        }
    }
}

/// Everything that clients were told, and what they were given.
#[derive(Debug, Clone, Default)]
pub struct Journal {
    told: Vec<Told>,
    drawn: Vec<(CredentialId, Drawn)>,
}

impl Journal {
    /// Notes an answer.
    pub fn note(&mut self, told: Told) {
        self.told.push(told);
    }

    /// Notes an issued credential with its secret.
    pub fn note_drawn(&mut self, credential: CredentialId, drawn: Drawn) {
        self.told.push(Told::Issued(credential));
        self.drawn.push((credential, drawn));
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

    /// Whether nobody was told anything.
    pub const fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    /// How many answers of a kind there were.
    pub fn count(&self, kind: impl Fn(&Told) -> bool) -> usize {
        self.told.iter().filter(|told| kind(told)).count()
    }

    /// Secrets that work although their credential counts as revoked and proven: what is never to happen.
    pub fn lies(&self, bao: &OpenBao, is_proven: impl Fn(CredentialId) -> bool) -> Vec<String> {
        let lies = self.drawn.iter();
        lies.filter(|(id, drawn)| is_proven(*id) && !drawn.is_dead(bao))
            .map(|(id, _)| format!("{id} is called revoked_verified and works"))
            .collect()
    }

    /// The same for what receipts said to the clients.
    pub fn lies_told(&self, bao: &OpenBao) -> Vec<String> {
        self.lies(bao, |id| {
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

/// The end of the history, by id.
struct Kept<'a> {
    identities: BTreeSet<&'a str>,
    tasks: BTreeMap<&'a str, &'static str>,
    credentials: BTreeMap<String, &'static str>,
    issued: BTreeSet<&'a str>,
    /// The latest end.
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
