//! The clients of a cell: their identities and credentials, the answers they received, and the end
//! of the cell.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use taskpass_client::{Client, JoinToken};
use taskpass_core::{CredentialId, TaskId};

use crate::{
    Broker, Cli, Journal, Search, Told, World,
    wire::runtime,
    witness::{client_config, text},
};

use super::{
    Fault, Operation,
    operation::{Answer, CERT, CONFIG, parsed},
    stage::Stage,
    strike::{Struck, pause},
    verdict::{Back, Verdict},
};

/// The longest that the service may take to recover.
const BACK_MAX: Duration = Duration::from_secs(120);

/// The clients' side of a cell.
#[derive(Debug)]
pub(super) struct Play<'a> {
    pub(super) stage: &'a Stage,
    /// An open task with one token and one certificate, and that token.
    held: OnceLock<(TaskId, CredentialId)>,
    /// A checkpoint from before the fault.
    pub(super) checkpoint: PathBuf,
    journal: Mutex<Journal>,
    join_token: Mutex<Option<JoinToken>>,
    /// The secrets of all join tokens of the cell.
    join_secrets: Mutex<Vec<String>>,
    attempts: AtomicU32,
    /// The number of the agent's identity directory. It grows each time the agent has to attest
    /// anew.
    identity: Mutex<u32>,
    notes: Mutex<Vec<String>>,
}

impl<'a> Play<'a> {
    /// Attests an agent and gives it a task with live credentials.
    pub(super) fn begin(stage: &'a Stage, broker: &Broker<'_>) -> Self {
        let operator = broker.operator();
        for name in ["builder", "new-agent"] {
            operator.json(&["agent", "register", name, "--owner", "alice@acme.test"]);
        }
        let play = Self {
            stage,
            held: OnceLock::new(),
            checkpoint: stage.installation.scratch().join("checkpoint.txt"),
            journal: Mutex::default(),
            join_token: Mutex::default(),
            join_secrets: Mutex::default(),
            attempts: AtomicU32::new(0),
            identity: Mutex::new(0),
            notes: Mutex::default(),
        };
        play.attest_anew(broker).expect("nothing is wrong yet");
        if stage.cell.operation != Operation::Rotate {
            stage.installation.let_pass();
        }
        let client = play.connect(broker).expect("the broker takes the identity");
        let begun: Result<_, String> = runtime().block_on(async {
            let task = play.start(&client).await?;
            let token = play.issue(&client, task, CONFIG).await?;
            play.issue(&client, task, CERT).await?;
            Ok((task, token))
        });
        play.held
            .set(begun.expect("nothing is wrong yet"))
            .expect("it is set once");
        play.keep_join_token(parsed(&play.new_join_token(broker).expect("a join token")));
        let signed = operator.json(&["ledger", "checkpoint"]);
        fs::write(&play.checkpoint, text(&signed, "checkpoint"))
            .expect("the checkpoint can be kept");
        play
    }

    /// The task with live credentials.
    pub(super) fn task(&self) -> TaskId {
        self.held.get().expect("the play has begun").0
    }

    /// The token of that task.
    pub(super) fn token(&self) -> CredentialId {
        self.held.get().expect("the play has begun").1
    }

    /// `taskpass` as the agent.
    pub(super) fn agent(&self, broker: &Broker<'_>) -> Cli {
        let number = *self.identity.lock().expect("no poison");
        broker.attested(&format!("builder-{number}"))
    }

    /// `taskpass` without an identity, in a new directory.
    pub(super) fn without_identity(&self, broker: &Broker<'_>) -> Cli {
        let number = self.attempts.fetch_add(1, Ordering::Relaxed);
        broker.attested(&format!("new-agent-{number}"))
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("no poison")
    }

    pub(super) fn note(&self, told: Told) {
        self.journal().note(told);
    }

    pub(super) fn remark(&self, note: impl Into<String>) {
        self.notes.lock().expect("no poison").push(note.into());
    }

    /// The join token that was created before the fault. After it is taken, each call creates
    /// another.
    pub(super) fn take_join_token(&self, broker: &Broker<'_>) -> Result<JoinToken, String> {
        if let Some(token) = self.join_token.lock().expect("no poison").take() {
            return Ok(token);
        }
        self.new_join_token(broker).map(|token| parsed(&token))
    }

    pub(super) fn keep_join_token(&self, token: JoinToken) {
        *self.join_token.lock().expect("no poison") = Some(token);
    }

    pub(super) fn new_join_token(&self, broker: &Broker<'_>) -> Result<String, String> {
        self.join_token_for("new-agent", broker)
    }

    fn join_token_for(&self, agent: &str, broker: &Broker<'_>) -> Result<String, String> {
        let made = broker
            .operator()
            .run(&["-o", "json", "agent", "token", agent]);
        let value: serde_json::Value =
            serde_json::from_str(&made.stdout).map_err(|_| made.stderr)?;
        let token = text(&value, "join_token").to_owned();
        let secret = token.split('.').nth(2).expect("it has a secret").to_owned();
        self.join_secrets.lock().expect("no poison").push(secret);
        Ok(token)
    }

    /// Whether the agent's identity has ended: it has expired, or the wrong clock has ended the
    /// authority that signed it, which happens in the cell with a short-lived authority only. A
    /// connection may break before the client reads the broker's alert.
    fn needs_a_login(&self, why: &str) -> bool {
        // Says so of the broker's own certificate, too, until the broker has noticed the corrected
        // clock.
        why.contains("expired")
            || (self.stage.cell.fault == Fault::ClockAheadThenRight
                && self.stage.cell.operation == Operation::Rotate
                && ["does not accept this identity", "broken pipe"]
                    .iter()
                    .any(|refusal| why.contains(refusal)))
    }

    /// Attests the agent anew, in another directory.
    fn attest_anew(&self, broker: &Broker<'_>) -> Answer {
        let token = self.join_token_for("builder", broker)?;
        *self.identity.lock().expect("no poison") += 1;
        let done = self
            .agent(broker)
            .run_with(&["login", "--join-token", "-"], &token);
        if done.code == 0 {
            return Ok(());
        }
        Err(done.stderr)
    }

    /// The number of issuing authorities that were ever published.
    pub(super) fn published_authorities(&self, broker: &Broker<'_>) -> Result<usize, String> {
        let path = self.stage.installation.scratch().join("authorities.jsonl");
        let name = path.display().to_string();
        let done = broker.operator().run(&["ledger", "export", "--to", &name]);
        if done.code != 0 {
            return Err(done.stderr);
        }
        let history = crate::History::read(&path);
        fs::remove_file(&path).map_err(|e| e.to_string())?;
        let published = history
            .of_type("ca_changed")
            .filter(|e| text(e, "stage") == "published");
        let mut serials: Vec<&str> = published.map(|e| text(e, "serial")).collect();
        serials.sort_unstable();
        serials.dedup();
        Ok(serials.len())
    }

    /// Requests every operation once, on a task of its own.
    pub(super) fn probe(&self, broker: &Broker<'_>) -> Answer {
        let client = self.connect(broker)?;
        runtime().block_on(self.whole_round(&client))
    }

    async fn whole_round(&self, client: &Client) -> Answer {
        let task = self.start(client).await?;
        let token = self.issue(client, task, CONFIG).await?;
        self.issue(client, task, CERT).await?;
        let until = client.renew_credential(token, None).await;
        let until = until.map_err(super::operation::in_words)?;
        self.note(Told::Renewed(token, until));
        let receipt = client.revoke_credential(token, None).await;
        self.journal()
            .note_receipt(&receipt.map_err(super::operation::in_words)?);
        self.end(client, task).await
    }

    /// Secrets that work although a receipt, or the broker's own list, says that they are revoked
    /// with proof.
    pub(super) fn false_proofs_now(&self, broker: &Broker<'_>) -> Vec<String> {
        let listed = broker.operator().run(&["-o", "json", "credential", "list"]);
        let listed: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap_or_default();
        let rows = listed.as_array().cloned().unwrap_or_default();
        let proven: Vec<String> = rows
            .iter()
            .filter(|row| row["state"] == "revoked_verified")
            .map(|row| text(row, "credential_id").to_owned())
            .collect();
        let journal = self.journal();
        let mut false_proofs =
            journal.false_proofs(&self.stage.bao, |id| proven.contains(&id.to_string()));
        false_proofs.extend(journal.false_receipts(&self.stage.bao));
        false_proofs
    }

    /// After the fault: waits until everything works again, ends every task, and lets the witnesses
    /// compare.
    #[expect(
        clippy::disallowed_methods,
        reason = "the report has how long it takes"
    )]
    pub(super) fn finish(&self, struck: Struck<'a>, began: Instant) -> Verdict {
        let over_at = Instant::now();
        let mut verdict = Verdict {
            cell: self.stage.cell,
            meanwhile: struck.meanwhile,
            orphans: Vec::new(),
            lost: Vec::new(),
            false_proofs: struck.false_proofs,
            shown: Vec::new(),
            ledger: Vec::new(),
            wrong: struck.wrong,
            back: struck.back,
            back_after: Duration::ZERO,
            last_live: Duration::ZERO,
            answers: 0,
            notes: Vec::new(),
            took: Duration::ZERO,
        };
        if let (Err(why), true) = (&verdict.meanwhile, self.stage.cell.must_work()) {
            verdict
                .wrong
                .push(format!("it had to work all the same: {why}"));
        }
        let broker = self.until_it_works(struck.broker, over_at, &mut verdict);
        verdict.back_after = over_at.elapsed();
        if verdict.wrong.is_empty() {
            self.end_everything(&broker, &mut verdict);
            broker.stop();
        } else {
            broker.kill();
        }
        verdict.shown = self.secrets_shown();
        verdict.answers = self.journal().len();
        verdict.notes = std::mem::take(&mut *self.notes.lock().expect("no poison"));
        verdict.took = began.elapsed();
        verdict
    }

    /// Secrets in the broker's files, logs and exports.
    fn secrets_shown(&self) -> Vec<String> {
        let (stage, mut search) = (self.stage, Search::default());
        if let Some(disk) = &stage.disk {
            // The disk is mounted only for the broker, so its files are copied to where the search
            // sees them.
            disk.shell("cp -a \"$1\" \"$1.after\"");
        }
        search.answers("vault-main", &stage.relay.answers());
        search.secret("the broker's Vault token", &stage.bao.broker_token());
        for secret in &*self.join_secrets.lock().expect("no poison") {
            search.secret("a join token", secret);
        }
        search.installation(&stage.installation, &stage.identities());
        let secrets = search.secrets();
        assert!(secrets > 10, "only {secrets} secrets were collected");
        let hits = search.hits().into_iter();
        hits.map(|hit| format!("a secret is shown: {hit}"))
            .collect()
    }

    /// Requests the operation again where it failed, then every operation once.
    #[expect(
        clippy::disallowed_methods,
        reason = "patience is measured in real time"
    )]
    fn until_it_works(
        &self,
        broker: Broker<'a>,
        over_at: Instant,
        verdict: &mut Verdict,
    ) -> Broker<'a> {
        let mut broker = broker;
        // Requests about a task that ended meanwhile cannot work.
        let time_passed = matches!(
            self.stage.cell.fault,
            Fault::ClockForwards(_) | Fault::ClockAheadThenRight | Fault::LongDowntime
        );
        let is_of_a_task = self.stage.cell.operation.needs_provider();
        let mut is_asked = verdict.meanwhile.is_ok() || (time_passed && is_of_a_task);
        loop {
            let (now, restarted) = self.stage.restart_if_ended(broker);
            broker = now;
            if restarted && verdict.back == Back::ByItself {
                verdict.back = Back::ByRestart;
            }
            // Once there is room again, the broker ends itself to build its index anew.
            if restarted && self.stage.cell.fault != Fault::DiskFull {
                verdict.wrong.push("the broker ended by itself".to_owned());
            }
            let asked = if is_asked { Ok(()) } else { self.ask(&broker) };
            is_asked |= asked.is_ok();
            let Err(why) = asked.and_then(|()| self.probe(&broker)) else {
                return broker;
            };
            if over_at.elapsed() > BACK_MAX {
                verdict
                    .wrong
                    .push(format!("the service is not back: {why}"));
                return broker;
            }
            if self.needs_a_login(&why) && self.attest_anew(&broker).is_ok() {
                self.remark("the agent attests anew");
            }
            pause(250);
        }
    }

    /// Ends every task and waits until OpenBao lists nothing alive.
    #[expect(clippy::disallowed_methods, reason = "the report is about real time")]
    fn end_everything(&self, broker: &Broker<'_>, verdict: &mut Verdict) {
        let operator = broker.operator();
        crate::witness::wait_one_sweep(&operator);
        let history = verdict.compare(self, broker, "after-the-fault.jsonl");
        let ended_at = Instant::now();
        let open = operator.json(&["task", "list", "--state", "open"]);
        let client = runtime().block_on(Client::connect(client_config(&operator)));
        let client = client.expect("the broker takes the operator");
        for task in open.as_array().expect("tasks") {
            let task = text(task, "task_id").parse().expect("a task id");
            if let Err(why) = runtime().block_on(self.end(&client, task)) {
                verdict.wrong.push(format!("{task} cannot be ended: {why}"));
            }
        }
        verdict.await_silence(self, &history, ended_at);
        crate::eventually("everything on record is final", || {
            World::live_credentials(&operator)
                .iter()
                .all(crate::witness::is_waiting_for_probation)
                .then_some(())
        });
        verdict.compare(self, broker, "at-the-end.jsonl");
    }
}
