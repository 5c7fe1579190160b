//! The proof of a revocation: a canary.
//!
//! The broker does not keep the agent's secret and cannot try its session. It mints a canary
//! instead: a new session of the same role with the same tags, which never leaves this process. The
//! canary tries one harmless action that the role allows, and a control session with other tags
//! tries the same. If AWS refuses the canary and allows the control, the deny list is in force for
//! these tags. Either alone proves nothing.
//!
//! The proof holds where the probe ran: IAM spreads a policy to its services and regions at its own
//! pace.

use std::{fmt, sync::Arc, time::Duration};

use taskpass_core::{Clock, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    config::ProbeConfig,
    deny_list::{AGENT_TAG, CREDENTIAL_TAG, TASK_TAG},
    failure,
    role::Role,
    session_policy::single_action,
    sts::{Session, SessionRequest, Sts},
    transport::{Call, Endpoint, Transport, form},
};

/// The least duration that STS takes. The canary's session policy ends it earlier.
const CANARY_DURATION_SECONDS: i32 = 900;
/// The canary's lifetime by its session policy.
const CANARY_LIFE: Duration = Duration::from_secs(300);
/// The tag value of sessions without a task, credential or agent.
const UNTAGGED: &str = "probe";
/// The first pause between two tries; it doubles up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The tags to prove denied.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tags<'a> {
    /// A task's id.
    pub(crate) task: Option<&'a str>,
    /// The name of its agent.
    pub(crate) agent: Option<&'a str>,
    /// A credential's id.
    pub(crate) credential: Option<&'a str>,
}

/// AWS's answer to a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    /// Neither, for example because AWS does not know a new session everywhere yet.
    Unclear(String),
}

/// The conclusion from the canary and its control.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// AWS denies the action to the tags and allows it to others.
    Denied(String),
    /// AWS allows the action to the tags.
    Allowed(String),
    /// The probe has no conclusion yet.
    Unclear(String),
    /// The probe has no conclusion, because AWS refuses the action to every session of the role.
    Useless(String),
}

/// Tries actions with canary sessions.
#[derive(Debug)]
pub(crate) struct Prober {
    pub(crate) sts: Arc<Sts>,
    pub(crate) transport: Arc<Transport>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) ec2: Endpoint,
    pub(crate) s3: Endpoint,
}

impl fmt::Display for ProbeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DescribeRegions {} => f.write_str("ec2:DescribeRegions"),
            Self::ListBucket { bucket } => write!(f, "s3:ListBucket of `{bucket}`"),
        }
    }
}

impl Prober {
    /// Mints a canary and its control. Both end at the same time: if the canary ended first, AWS
    /// would refuse it for that and allow the control.
    pub(crate) async fn sessions(
        &self,
        role: &Role,
        probe: &ProbeConfig,
        tags: Tags<'_>,
    ) -> Result<(Session, Session), ProviderError> {
        let end = self.end();
        let canary = self.session(role, Some(probe), tags, end).await?;
        let control = self.session(role, Some(probe), Tags::default(), end);
        let control = control.await?;
        Ok((canary, control))
    }

    /// The end of a session minted now.
    pub(crate) fn end(&self) -> Timestamp {
        self.clock.now().plus(CANARY_LIFE)
    }

    /// A session of `role` that may do no more than the probe until `end`, or nothing at all.
    pub(crate) async fn session(
        &self,
        role: &Role,
        probe: Option<&ProbeConfig>,
        tags: Tags<'_>,
        end: Timestamp,
    ) -> Result<Session, ProviderError> {
        let action = probe.map(|probe| match probe {
            ProbeConfig::DescribeRegions {} => "ec2:DescribeRegions",
            ProbeConfig::ListBucket { .. } => "s3:ListBucket",
        });
        let policy = single_action(action, end);
        let tags = [
            (TASK_TAG, tags.task.unwrap_or(UNTAGGED)),
            (CREDENTIAL_TAG, tags.credential.unwrap_or(UNTAGGED)),
            (AGENT_TAG, tags.agent.unwrap_or(UNTAGGED)),
        ];
        let request = SessionRequest {
            role_arn: &role.arn,
            external_id: role.external_id.as_deref(),
            name: "taskpass-probe",
            source_identity: "taskpass-probe",
            policy: &policy,
            duration_seconds: CANARY_DURATION_SECONDS,
            tags: &tags,
        };
        self.sts.assume(&request).await
    }

    /// Compares the canary with its control, once.
    pub(crate) async fn compare(
        &self,
        probe: &ProbeConfig,
        canary: &Session,
        control: &Session,
    ) -> Result<Proof, ProviderError> {
        Ok(match self.attempt(probe, canary).await? {
            Verdict::Allowed => {
                Proof::Allowed(format!("a session with its tags was allowed {probe}"))
            }
            Verdict::Unclear(reason) => Proof::Unclear(reason),
            Verdict::Denied => match self.attempt(probe, control).await? {
                Verdict::Allowed => Proof::Denied(format!(
                    "a session with its tags was refused {probe}, one without was allowed"
                )),
                Verdict::Denied => Proof::Useless(format!(
                    "{probe} is refused to every session of the role, so a refusal proves nothing; let the role allow it"
                )),
                Verdict::Unclear(reason) => Proof::Unclear(reason),
            },
        })
    }

    /// Tries the probe's action with a session, once.
    pub(crate) async fn attempt(
        &self,
        probe: &ProbeConfig,
        session: &Session,
    ) -> Result<Verdict, ProviderError> {
        let action = format!("the probe {probe}");
        let now = self.clock.now();
        let (path, body);
        let (endpoint, call) = match probe {
            ProbeConfig::DescribeRegions {} => {
                body = form(&[
                    ("Action", "DescribeRegions"),
                    ("Version", "2016-11-15"),
                    ("DryRun", "true"),
                ]);
                let call = Call {
                    method: "POST",
                    path: "/",
                    body: &body,
                };
                (&self.ec2, call)
            }
            ProbeConfig::ListBucket { bucket } => {
                path = format!("/{bucket}?list-type=2&max-keys=0");
                let call = Call {
                    method: "GET",
                    path: &path,
                    body: "",
                };
                (&self.s3, call)
            }
        };
        let sent = self
            .transport
            .send(endpoint, &session.credentials, now, &call, &action);
        let answer = sent.await?;
        let code = answer.code().into_owned();
        Ok(match (answer.status, code.as_str()) {
            (200, _) | (412, "DryRunOperation") => Verdict::Allowed,
            // Only a refusal by policy counts. An unknown key or a bad signature says nothing about
            // the deny list.
            (403, "UnauthorizedOperation" | "AccessDenied") => Verdict::Denied,
            (status, code) => Verdict::Unclear(format!("{action} answered {status} {code}")),
        })
    }

    /// Compares until AWS denies the canary. If AWS still allows it after a while, `repair` writes
    /// the deny list again: another broker may have overwritten it. `Ok` holds the proof, or why
    /// there can be none.
    pub(crate) async fn prove<F, R>(
        &self,
        role: &Role,
        probe: &ProbeConfig,
        tags: Tags<'_>,
        within: Duration,
        repair: F,
    ) -> Result<Proof, ProviderError>
    where
        F: Fn() -> R + Send + Sync,
        R: Future<Output = Result<(), ProviderError>> + Send,
    {
        let mut last = None;
        let started = self.clock.monotonic();
        let attempts = async {
            let (canary, control) = self.sessions(role, probe, tags).await?;
            let mut pause = PAUSE_MIN;
            loop {
                match self.compare(probe, &canary, &control).await {
                    Ok(Proof::Denied(how)) => {
                        let took = self.clock.monotonic().saturating_sub(started);
                        return Ok(Proof::Denied(format!(
                            "{how}, {} ms after the write",
                            took.as_millis()
                        )));
                    }
                    // AWS does not know a new session everywhere yet; only a repeated refusal
                    // counts.
                    Ok(Proof::Useless(why)) if pause > PAUSE_MIN * 4 => {
                        return Ok(Proof::Useless(why));
                    }
                    Err(error) if !error.is_retryable() => return Err(error),
                    other => last = Some(other),
                }
                tokio::time::sleep(pause).await;
                if pause == PAUSE_MAX {
                    repair().await?;
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        };
        let outcome = tokio::time::timeout(within, attempts).await;
        match (outcome, last) {
            (Ok(outcome), _) => outcome,
            (Err(_elapsed), Some(last)) => last,
            (Err(elapsed), None) => Err(failure::no_answer("the probe", &elapsed.to_string())),
        }
    }
}
