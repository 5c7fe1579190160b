//! The operations as clients request them. Each answer goes into the journal.

use std::process::{Child, Stdio};

use taskpass_client::{Client, EndMode, JoinToken, TaskOptions};
use taskpass_core::{CredentialId, RoleName, Scope, TaskId};

use crate::{Broker, Cli, IssuedSecret, Told, wire::runtime, witness::client_config};

use super::{Operation, play::Play};

pub(super) const CONFIG: &str = "vault-main/config";
pub(super) const CERT: &str = "vault-main/cert";
pub(super) const SCOPE: &str = "common_name=ci.acme.test";

/// `Ok` or the error text.
pub(super) type Answer = Result<(), String>;

impl Play<'_> {
    /// Requests the operation once, with a new connection and the library's usual retries.
    pub(super) fn ask(&self, broker: &Broker<'_>) -> Answer {
        match self.stage.cell.operation {
            Operation::Attest => self.attest(broker),
            Operation::Rotate => self.await_rotation(broker),
            operation => {
                let client = self.connect(broker)?;
                runtime().block_on(self.carry_out(operation, &client))
            }
        }
    }

    /// Connects as the agent.
    pub(super) fn connect(&self, broker: &Broker<'_>) -> Result<Client, String> {
        let connecting = Client::connect(client_config(&self.agent(broker)));
        runtime().block_on(connecting).map_err(in_words)
    }

    /// Requests the operation over an open connection.
    pub(super) async fn carry_out(&self, operation: Operation, client: &Client) -> Answer {
        match operation {
            Operation::Start => self.start(client).await.map(drop),
            Operation::Issue => {
                let both = tokio::join!(
                    self.issue(client, self.task(), CONFIG),
                    self.issue(client, self.task(), CERT)
                );
                both.0.and(both.1).map(drop)
            }
            Operation::Renew => {
                let renewed = client.renew_credential(self.token(), None).await;
                let until = renewed.map_err(in_words)?;
                self.note(Told::Renewed(self.token(), until));
                Ok(())
            }
            Operation::Revoke => {
                let receipt = client.revoke_credential(self.token(), None).await;
                let receipt = receipt.map_err(in_words)?;
                self.journal().note_receipt(&receipt);
                Ok(())
            }
            Operation::End => self.end(client, self.task()).await,
            Operation::Attest | Operation::Rotate => Ok(()),
        }
    }

    /// Opens a task.
    pub(super) async fn start(&self, client: &Client) -> Result<TaskId, String> {
        let options = TaskOptions::new("a fault")
            .role(role(CONFIG))
            .role(role(CERT));
        let task = client.open_task(options).await.map_err(in_words)?;
        self.note(Told::Started(task.id.to_string()));
        Ok(task.id)
    }

    /// Issues a credential and notes its secret.
    pub(super) async fn issue(
        &self,
        client: &Client,
        task: TaskId,
        name: &str,
    ) -> Result<CredentialId, String> {
        let scope = match name {
            CERT => Scope::from_pairs([("common_name", "ci.acme.test")]).expect("a scope"),
            _ => Scope::default(),
        };
        let issued = client
            .issue_credential(task, &role(name), &scope, None)
            .await
            .map_err(in_words)?;
        let secret = IssuedSecret::from(&issued);
        self.journal().note_secret(issued.id, secret);
        Ok(issued.id)
    }

    /// Ends a task.
    pub(super) async fn end(&self, client: &Client, task: TaskId) -> Answer {
        let ended = client.end_task(task, EndMode::Completed, None).await;
        self.journal().note_ended(&ended.map_err(in_words)?);
        Ok(())
    }

    /// Attests with the join token at hand. If an earlier attempt used it up and lost the answer,
    /// it attests with a new one.
    fn attest(&self, broker: &Broker<'_>) -> Answer {
        let token = self.take_join_token(broker)?;
        let cli = self.without_identity(broker);
        let config = client_config(&cli);
        let login = Client::login(&config, &token);
        let leaf = runtime().block_on(login).map_err(in_words);
        if leaf.as_ref().is_err_and(|why| !why.contains("join token")) {
            // The broker did not check the token, so it is still unused.
            self.keep_join_token(token);
        }
        let leaf = leaf?;
        self.note(Told::Identity(leaf.serial));
        Ok(())
    }

    /// Waits until the history shows that the authority's successor is published.
    fn await_rotation(&self, broker: &Broker<'_>) -> Answer {
        const POLLS: u32 = 160;
        let mut last = "nothing was published".to_owned();
        for _ in 0..POLLS {
            match self.published_authorities(broker) {
                Ok(count) if count > 1 => return Ok(()),
                Ok(_) => {}
                Err(_) if broker.has_ended() => return Err("the broker ended".to_owned()),
                Err(why) => last = why,
            }
            super::strike::pause(250);
        }
        Err(last)
    }

    /// The same operation through the command line, in a process that a test can kill. Rotation
    /// needs no client; a client that renews its certificate stands in for one.
    pub(super) fn spawn(&self, broker: &Broker<'_>) -> Child {
        let (task, token) = (self.task().to_string(), self.token().to_string());
        let cli = match self.stage.cell.operation {
            Operation::Attest => self.without_identity(broker),
            _ => self.agent(broker),
        };
        let given = self.stage.installation.scratch().join("given");
        std::fs::create_dir_all(&given).expect("a directory");
        let token_file = given.join("join-token");
        let token_name = token_file.display().to_string();
        let args: Vec<&str> = match self.stage.cell.operation {
            Operation::Attest => {
                let secret = self
                    .new_join_token(broker)
                    .expect("the broker makes a token");
                std::fs::write(&token_file, secret).expect("the token can be written");
                vec!["login", "--join-token-file", &token_name]
            }
            Operation::Start => vec!["task", "start", "--purpose", "x", "--role", CONFIG],
            Operation::Issue => {
                vec![
                    "credential",
                    "issue",
                    "--task",
                    &task,
                    "--role",
                    CERT,
                    "--scope",
                    SCOPE,
                ]
            }
            Operation::Renew => vec!["credential", "renew", &token],
            Operation::Revoke => vec!["credential", "revoke", &token],
            Operation::End => vec!["task", "end", &task],
            Operation::Rotate => vec!["svid", "renew"],
        };
        spawn(&cli, &args)
    }
}

fn spawn(cli: &Cli, args: &[&str]) -> Child {
    let mut command = cli.command(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("taskpass starts")
}

fn role(name: &str) -> RoleName {
    name.parse().expect("a role")
}

/// The error with all its causes on one line.
pub(super) fn in_words(error: impl std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(": ");
        words.push_str(&cause.to_string());
        source = cause.source();
    }
    words
}

/// A join token as the operator receives it.
pub(super) fn parsed(token: &str) -> JoinToken {
    token.parse().expect("a join token")
}
