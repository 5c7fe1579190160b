//! A job that needs a database login for as long as it runs.
//!
//! Needs a running broker, an identity directory (`taskpass login --join-token-file token`) and a
//! role of a Vault database engine:
//!
//! ```text
//! cargo run -p taskpass-client --example database_job -- \
//!     127.0.0.1:7443 ~/.config/taskpass vault-main/ci-db
//! ```

#![expect(clippy::print_stdout, reason = "an example prints its steps")]

use std::time::Duration;

use anyhow::Context;
use taskpass_client::{Client, ClientConfig, Credential, TaskGuard, TaskOptions};
use taskpass_core::RoleName;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [addr, identity, role] = arguments.as_slice() else {
        anyhow::bail!("usage: database_job HOST:PORT IDENTITY-DIRECTORY PROVIDER/ROLE");
    };
    let role: RoleName = role.parse()?;
    // Renews the identity in the background from here on.
    let client = Client::connect(ClientConfig::new(addr.parse()?, identity)).await?;
    let options = TaskOptions::new("count the orders of last night")
        .role(role.clone())
        .ttl("30m".parse()?)
        // If this process dies, the broker revokes everything within half a minute.
        .heartbeat("30s".parse()?);
    let task = client.start_task(options).await?;
    println!(
        "started {}, until {} at the latest",
        task.id(),
        task.deadline()
    );

    let outcome = tokio::select! {
        outcome = job(&task, role) => outcome,
        why = task.ended() => Err(anyhow::anyhow!("the broker ended the task: {why}")),
    };

    // Runs also when the job failed, so that no credential outlives the task.
    for receipt in task.end().await? {
        println!("{} is {}", receipt.credential_id, receipt.state);
    }
    client.shutdown().await;
    outcome
}

async fn job(task: &TaskGuard, role: RoleName) -> anyhow::Result<()> {
    let database = task
        .credential(role)
        .ttl("10m".parse()?)
        .issue()
        .await
        .context("no database login")?;
    for _ in 0..3 {
        query(&database).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}

/// Reads the login anew for each query, because the client may have refreshed it meanwhile.
async fn query(database: &Credential) -> anyhow::Result<()> {
    let login = database.current().await?;
    let username = login.field("username").context("no `username`")?;
    let password = login.field("password").context("no `password`")?;
    println!(
        "here a client library would connect, with a login of {} characters that is good until {}",
        username.expose().len() + password.expose().len(),
        login.expires_at
    );
    Ok(())
}
