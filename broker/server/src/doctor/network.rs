//! The address to listen on, and the providers.

use std::{io, time::Duration};

use taskpass_core::with_sources;
use tokio::net::{TcpListener, TcpStream};

use super::{BuiltProvider, Diagnosis};
use crate::config::Config;

/// How long one provider's check may take. Providers have shorter deadlines of their own for each
/// call.
const PROVIDER_DEADLINE: Duration = Duration::from_secs(30);
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// The address must be free, or a broker must answer there.
pub(super) async fn check_address(config: &Config, diagnosis: &mut Diagnosis) {
    let address = config.listen.grpc;
    match TcpListener::bind(address).await {
        Ok(_) => diagnosis.ok(
            "address",
            format!("{address} is free: no broker is running there"),
        ),
        Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
            let connected = tokio::time::timeout(CONNECT_DEADLINE, TcpStream::connect(address));
            match connected.await {
                Ok(Ok(_)) => diagnosis.ok("address", format!("something answers at {address}")),
                Ok(Err(_)) | Err(_) => diagnosis.warn(
                    "address",
                    format!("{address} is in use, but nothing answers there"),
                    "look at the log of the broker, or choose another address in [listen]",
                ),
            }
        }
        Err(e) => diagnosis.fail(
            "address",
            format!("cannot listen on {address}: {e}"),
            "give an address of this machine in [listen]",
        ),
    }
}

/// Calls `check` of every provider, all at the same time: a provider that hangs does not delay the
/// others.
pub(super) async fn check_providers(providers: Vec<BuiltProvider>, diagnosis: &mut Diagnosis) {
    let answers = providers.into_iter().map(|(name, provider)| async move {
        let answer = match provider {
            Ok(provider) => tokio::time::timeout(PROVIDER_DEADLINE, provider.check()).await,
            Err(reason) => return (name, Err(reason)),
        };
        let answer = match answer {
            Ok(Ok(health)) => Ok(health),
            Ok(Err(error)) => Err(with_sources(&error)),
            Err(_elapsed) => Err(format!(
                "no answer within {} s",
                PROVIDER_DEADLINE.as_secs()
            )),
        };
        (name, answer)
    });
    for (name, answer) in futures_util::future::join_all(answers).await {
        let check = format!("provider {name}");
        match answer {
            Ok(health) => {
                for finding in &health.findings {
                    diagnosis.ok(&check, finding);
                }
                for warning in &health.warnings {
                    diagnosis.warn(&check, warning, "credentials are issued all the same");
                }
            }
            Err(reason) => diagnosis.fail(
                &check,
                reason,
                "its credentials cannot be issued or revoked until this is repaired",
            ),
        }
    }
}
