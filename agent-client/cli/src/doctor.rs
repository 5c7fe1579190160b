//! `taskpass doctor`: checks everything that a command needs, in order, and advises on each
//! failure.

use std::process::ExitCode;

use serde::Serialize;
use taskpass_client::{Client, ClientConfig, Error, Leaf, RPC_TIMEOUT, Renewal};
use taskpass_core::Timestamp;
use taskpass_proto::v1::{
    GetBundleRequest, WhoAmIRequest, identity_service_client::IdentityServiceClient,
};

use super::{context::Context, failure, output};

/// The broker backdates certificates by so much. A clock that is further behind refuses a fresh
/// one.
const SKEW_MILLIS_MAX: u64 = 10_000;
const LOGIN: &str = "run `taskpass login --join-token-file FILE`";
const OPERATOR_LOGIN: &str =
    "run `taskpassd operator issue NAME` on the broker's machine, with the broker stopped";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

#[derive(Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    advice: Option<String>,
}

pub(crate) async fn run(context: &Context) -> anyhow::Result<ExitCode> {
    let mut config = context.config()?;
    config.renewal = Renewal::OnDemand;
    let mut findings = Vec::new();
    // An operator cannot log in with a join token, since join tokens are for agents.
    let login = if context.is_operator() {
        OPERATOR_LOGIN
    } else {
        LOGIN
    };
    if let Some(leaf) = identity(&config, login, &mut findings).await? {
        validity(&leaf, config.clock.now(), login, &mut findings);
        connection(&config, login, &mut findings).await;
    }
    context.print(&findings, || {
        findings.iter().map(line).collect::<Vec<_>>().join("\n")
    })?;
    let failed = findings.iter().any(|f| f.verdict == Verdict::Failed);
    Ok(ExitCode::from(if failed { failure::FAILED } else { 0 }))
}

fn line(finding: &Finding) -> String {
    let verdict = match finding.verdict {
        Verdict::Ok => "ok     ",
        Verdict::Warning => "warning",
        Verdict::Failed => "FAILED ",
    };
    let advice = finding
        .advice
        .as_ref()
        .map(|advice| format!("; {advice}"))
        .unwrap_or_default();
    output::printable(&format!(
        "{verdict}  {}: {}{advice}",
        finding.check, finding.detail
    ))
}

async fn identity(
    config: &ClientConfig,
    login: &str,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<Leaf>> {
    let directory = config.directory.clone();
    for problem in directory.permission_findings() {
        let (detail, advice) = problem.split_once("; ").unwrap_or((&problem, ""));
        findings.push(warning("permissions", detail, advice));
    }
    let path = directory.path().display().to_string();
    let loaded = tokio::task::spawn_blocking(move || directory.leaf()).await?;
    Ok(match loaded {
        Ok(leaf) => {
            findings.push(fine("identity", format!("{} in `{path}`", leaf.spiffe_id)));
            Some(leaf)
        }
        Err(error) => {
            findings.push(failed("identity", &error, login));
            None
        }
    })
}

fn validity(leaf: &Leaf, now: Timestamp, login: &str, findings: &mut Vec<Finding>) {
    let until = format!("valid until {}", leaf.not_after);
    findings.push(if leaf.not_after <= now {
        Finding {
            check: "svid",
            verdict: Verdict::Failed,
            detail: format!("expired at {}", leaf.not_after),
            advice: Some(login.to_owned()),
        }
    } else if now < leaf.not_before {
        warning("svid", "it is not valid yet", "set this machine's clock")
    } else if leaf.renew_at() <= now {
        warning("svid", &until, "it is due: run `taskpass svid renew`")
    } else {
        fine("svid", until)
    });
}

async fn connection(config: &ClientConfig, login: &str, findings: &mut Vec<Finding>) {
    let addr = config.addr.to_string();
    let client = match Client::connect(config.clone()).await {
        Ok(client) => client,
        Err(error) => {
            let advice = match error {
                Error::Unreachable { .. } | Error::Timeout { .. } => {
                    "check that the broker runs, the address (--addr, TASKPASS_ADDR) and firewalls between"
                }
                Error::Untrusted { .. } => {
                    "check the address; if the broker was set up anew, log in again"
                }
                _ => login,
            };
            findings.push(failed("connection", &error, advice));
            return;
        }
    };
    findings.push(fine(
        "connection",
        format!("{addr} is a broker of our trust domain"),
    ));
    match client.whoami().await {
        Ok(me) => {
            let version = me.broker_version;
            let detail = format!("{} ({}), broker {version}", me.spiffe_id, me.kind);
            findings.push(fine("whoami", detail));
            findings.push(ledger(&client, config).await);
            findings.push(clocks(&client, config).await);
        }
        Err(error) => findings.push(failed("whoami", &error, login)),
    }
}

/// Compares the ledger's key with the pinned one.
async fn ledger(client: &Client, config: &ClientConfig) -> Finding {
    let pinned = config.directory.pinned();
    let shown = client
        .call(RPC_TIMEOUT, |channel| async move {
            IdentityServiceClient::new(channel)
                .get_bundle(GetBundleRequest {})
                .await
        })
        .await
        .map(|reply| reply.bundle.unwrap_or_default().ledger_vkey);
    match (pinned, shown) {
        (Ok(pinned), Ok(shown)) => {
            let Some(key) = pinned.key else {
                return warning(
                    "ledger",
                    "no key is pinned yet",
                    "run `taskpass svid renew`",
                );
            };
            if key.to_string() != shown.trim() {
                let error = Error::LedgerKeyChanged {
                    dir: config.directory.path().to_owned(),
                    pinned: key.to_string(),
                    shown: output::printable(shown.trim()),
                };
                return failed("ledger", &error, &format!("run {}", failure::ACCEPT_KEY));
            }
            let seen = pinned.newest.map_or(0, |checkpoint| checkpoint.size());
            fine(
                "ledger",
                format!("the pinned key; {seen} entries were seen"),
            )
        }
        (Err(error), _) | (_, Err(error)) => failed(
            "ledger",
            &error,
            "run `taskpass doctor` again once that is mended",
        ),
    }
}

/// Compares the clocks by the `date` header of a reply, which has whole seconds.
async fn clocks(client: &Client, config: &ClientConfig) -> Finding {
    let mut service = IdentityServiceClient::new(client.channel());
    let reply = service.who_am_i(WhoAmIRequest {}).await;
    let theirs = reply
        .ok()
        .and_then(|r| http_date(r.metadata().get("date")?.to_str().ok()?));
    let ours = config.clock.now();
    match theirs {
        None => fine("clock", "the broker does not tell its time".to_owned()),
        Some(theirs) => {
            let skew = ours.millis().abs_diff(theirs.millis());
            if skew > SKEW_MILLIS_MAX {
                let detail = format!("differs from the broker's by {} s", skew / 1000);
                warning("clock", &detail, "synchronise the clocks (NTP)")
            } else {
                fine("clock", "agrees with the broker's".to_owned())
            }
        }
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110 section 5.6.7), by way of RFC 3339.
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().position(|m| m == month)? + 1;
    format!("{year}-{month:02}-{day}T{time}Z").parse().ok()
}

fn fine(check: &'static str, detail: String) -> Finding {
    Finding {
        check,
        verdict: Verdict::Ok,
        detail,
        advice: None,
    }
}

fn warning(check: &'static str, detail: &str, advice: &str) -> Finding {
    Finding {
        check,
        verdict: Verdict::Warning,
        detail: detail.to_owned(),
        advice: Some(advice.to_owned()).filter(|a| !a.is_empty()),
    }
}

fn failed(check: &'static str, error: &Error, advice: &str) -> Finding {
    let cause = std::error::Error::source(error)
        .map(|source| format!(": {source}"))
        .unwrap_or_default();
    Finding {
        check,
        verdict: Verdict::Failed,
        detail: format!("{error}{cause}"),
        advice: Some(advice.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_dates_are_read() {
        let time = http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        assert_eq!(time.to_string(), "1994-11-06T08:49:37.000Z");
        assert!(http_date("yesterday").is_none());
    }
}
