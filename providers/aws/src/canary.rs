//! The proof of a revocation: a canary.
//!
//! The agent's secret is not kept, so its session cannot be tried. A canary can: a new session of the same role with
//! the same tags, whose secret never leaves this process. It tries one harmless action that the role allows; a
//! control session with other tags tries the same. Canary refused and control allowed proves that the deny list is
//! in force for these tags, where the probe ran; either alone proves nothing.
//!
//! What it does not prove: IAM spreads a policy to every service and region on its own time, and the probe sees one.

use std::{fmt, sync::Arc, time::Duration};

use taskpass_core::{Clock, Timestamp};
use taskpass_provider::ProviderError;

use crate::{
    config::ProbeConfig,
    deny_list::{CREDENTIAL_TAG, TASK_TAG},
    failure,
    role::Role,
    session_policy::single_action,
    sts::{Session, SessionRequest, Sts},
    transport::{Call, Endpoint, Transport, form},
};

/// STS's minimum. The canary's own session policy ends it earlier.
const CANARY_DURATION_SECONDS: i32 = 900;
/// The canary's own end.
const CANARY_LIFE: Duration = Duration::from_secs(300);
/// The tag value of sessions that stand for no task.
const NOBODY: &str = "probe";
/// The first pause between two tries; it doubles up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The tags whose denial is to be proved.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tags<'a> {
    /// A task's id.
    pub(crate) task: Option<&'a str>,
    /// A credential's id.
    pub(crate) credential: Option<&'a str>,
}

/// What a session may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Allowed,
    Denied,
    /// Neither, such as a session that is not known everywhere yet.
    Unclear(String),
}

/// What the canary and its control say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proof {
    /// Denied to the tags, allowed to others.
    Denied(String),
    /// Allowed to the tags.
    Allowed(String),
    /// The probe cannot tell yet.
    Unclear(String),
    /// The probe cannot tell, as the role refuses it to everybody.
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
    /// Mints a canary and its control. Both have the same end, or the canary could be refused for being over while its
    /// control is not.
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

    /// When a session made now ends.
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
            (TASK_TAG, tags.task.unwrap_or(NOBODY)),
            (CREDENTIAL_TAG, tags.credential.unwrap_or(NOBODY)),
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

    /// Tries the probe's action with a session.
    pub(crate) async fn attempt(
        &self,
        probe: &ProbeConfig,
        session: &Session,
    ) -> Result<Verdict, ProviderError> {
        let action = format!("the probe {probe}");
        let now = self.clock.now();
        let answer = match probe {
            ProbeConfig::DescribeRegions {} => {
                let body = form(&[
                    ("Action", "DescribeRegions"),
                    ("Version", "2016-11-15"),
                    ("DryRun", "true"),
                ]);
                let call = Call {
                    method: "POST",
                    path: "/",
                    body: &body,
                };
                self.transport
                    .send(&self.ec2, &session.credentials, now, &call, &action)
                    .await?
            }
            ProbeConfig::ListBucket { bucket } => {
                let path = format!("/{bucket}?list-type=2&max-keys=0");
                let call = Call {
                    method: "GET",
                    path: &path,
                    body: "",
                };
                self.transport
                    .send(&self.s3, &session.credentials, now, &call, &action)
                    .await?
            }
        };
        let code = answer.code().into_owned();
        Ok(match (answer.status, code.as_str()) {
            (200, _) | (412, "DryRunOperation") => Verdict::Allowed,
            // Only a refusal by policy: an unknown key or a bad signature says nothing about the deny list.
            (403, "UnauthorizedOperation" | "AccessDenied") => Verdict::Denied,
            (status, code) => Verdict::Unclear(format!("{action} answered {status} {code}")),
        })
    }

    /// Compares until the canary is denied. `repair` runs when it is still allowed after a while, as someone else may
    /// have overwritten the deny list. `Ok` holds the proof, or why there can be none.
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
                    // Seen more than once, so not just a session that is too new to be known.
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
            (Err(elapsed), None) => Err(failure::unanswered("the probe", &elapsed.to_string())),
        }
    }
}
