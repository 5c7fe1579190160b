//! The roots as `taskpassd root` shows them.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use taskpass_core::{AgentName, OperatorName, RootNumber, RootStage, TaskId, Timestamp};
use taskpass_engine::{Engine, Error, RetiredRoot, RootView};

/// What an order did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Done {
    /// The roots as they stand now.
    Roots(RootReport),
    /// An operator has no identity any more.
    Withdrawn {
        /// The operator.
        operator: OperatorName,
        /// How many identities counted until now.
        identities: usize,
    },
}

/// The roots of the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootReport {
    /// The active one first.
    pub roots: Vec<RootLine>,
    /// The root that was retired by this order. The certificates and join tokens that hung on it
    /// ended with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<RootLine>,
    /// The tasks that ended with it, since their agents have no certificate any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended_tasks: Vec<TaskId>,
    /// How many credentials of these tasks are being revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoking: Option<usize>,
}

/// One root, and what hangs on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootLine {
    /// Its number.
    pub root: RootNumber,
    /// How far it has come.
    pub stage: RootStage,
    /// The certificate's serial number.
    pub serial: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// Agents with a certificate under it.
    pub agents: Vec<AgentName>,
    /// Tasks with a certificate under it.
    pub tasks: Vec<TaskId>,
    /// Operators with a certificate under it.
    pub operators: Vec<OperatorLine>,
    /// Unused join tokens that carry its fingerprint.
    pub join_tokens: u32,
    /// When the last of all these ends by itself; absent when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<Timestamp>,
}

/// An operator with a certificate under a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorLine {
    /// The operator.
    pub operator: OperatorName,
    /// The end of the certificate.
    pub expires_at: Timestamp,
}

impl RootReport {
    /// The roots of a broker.
    pub(super) async fn of(engine: &Arc<Engine>) -> Result<Self, Error> {
        let views = engine.roots().await?;
        Ok(Self {
            roots: views.iter().map(RootLine::of).collect(),
            retired: None,
            ended_tasks: Vec::new(),
            revoking: None,
        })
    }

    /// The roots of a broker that has just retired one.
    pub(super) async fn after(engine: &Arc<Engine>, retired: &RetiredRoot) -> Result<Self, Error> {
        let mut line = RootLine::of(&retired.view);
        line.stage = RootStage::Retired;
        Ok(Self {
            retired: Some(line),
            ended_tasks: retired.tasks.clone(),
            revoking: Some(retired.revoking),
            ..Self::of(engine).await?
        })
    }
}

impl RootLine {
    fn of(view: &RootView) -> Self {
        let RootView { record, used } = view;
        let operators = used.operators.iter();
        Self {
            root: record.number,
            stage: record.stage,
            serial: record.serial.clone(),
            not_before: record.not_before,
            not_after: record.not_after,
            agents: used.agents.iter().cloned().collect(),
            tasks: used.tasks.iter().copied().collect(),
            operators: operators
                .map(|(operator, expires_at)| OperatorLine {
                    operator: operator.clone(),
                    expires_at: *expires_at,
                })
                .collect(),
            join_tokens: used.join_tokens,
            last_end: (!used.is_empty()).then_some(used.last_end),
        }
    }

    fn is_needed(&self) -> bool {
        self.last_end.is_some()
    }
}

impl Done {
    /// As JSON with stable names.
    pub fn to_json(&self) -> String {
        // Cannot fail: the fields are texts and numbers, which JSON can always represent.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Roots(report) => report.fmt(f),
            Self::Withdrawn {
                operator,
                identities,
            } => write!(
                f,
                "no identity of `{operator}` counts any more; {identities} did until now\n\
                 what a thief of it may have left still counts: `taskpass ledger export` shows join tokens made, and agents registered, released or given to another owner; `taskpass join-token withdraw` and `taskpass agent freeze` end them\n\
                 `taskpassd operator issue {operator}` makes another one, with the broker stopped"
            ),
        }
    }
}

/// The roots, and the next command.
impl fmt::Display for RootReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.roots {
            line.fmt(f)?;
        }
        if let Some(retired) = &self.retired {
            retired.fmt(f)?;
            writeln!(
                f,
                "  {} tasks ended, since their agents have no certificate any more; {} credentials of theirs are being revoked: `taskpass credential list --live` shows the rest",
                self.ended_tasks.len(),
                self.revoking.unwrap_or_default(),
            )?;
            for task in &self.ended_tasks {
                writeln!(f, "  task {task}")?;
            }
        }
        let stages: Vec<RootStage> = self.roots.iter().map(|line| line.stage).collect();
        let outgoing = self.roots.iter().find(|it| it.stage == RootStage::Outgoing);
        f.write_str(if stages.contains(&RootStage::Prepared) {
            "next: `taskpassd root activate`; in an hour at the earliest if nothing presses, so that most agents have fetched the new root"
        } else if outgoing.is_some_and(RootLine::is_needed) {
            "next: wait until nothing hangs on the outgoing root, then `taskpassd root retire`; operators move to the new one with any command of `taskpass`"
        } else if outgoing.is_some() {
            "next: `taskpassd root retire`"
        } else {
            "the root is in order; `taskpassd root prepare` begins its replacement"
        })
    }
}

impl fmt::Display for RootLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, stage) = (self.root, self.stage);
        let (from, until) = (self.not_before, self.not_after);
        writeln!(
            f,
            "root {number}  {stage}, valid from {from} until {until}, serial {}",
            self.serial
        )?;
        let Some(last_end) = self.last_end else {
            return writeln!(f, "  nothing hangs on it");
        };
        let (agents, tasks) = (self.agents.len(), self.tasks.len());
        let verb = match stage {
            RootStage::Retired => "ended with it",
            RootStage::Prepared | RootStage::Active | RootStage::Outgoing => "hang on it",
        };
        writeln!(
            f,
            "  certificates of {agents} agents, {tasks} tasks and {} operators, and {} join tokens {verb}; the last one's own end is {last_end}",
            self.operators.len(),
            self.join_tokens,
        )?;
        if stage < RootStage::Outgoing {
            return Ok(());
        }
        for OperatorLine {
            operator,
            expires_at,
        } in &self.operators
        {
            writeln!(f, "  operator {operator} until {expires_at}")?;
        }
        for agent in &self.agents {
            writeln!(f, "  agent {agent}")?;
        }
        Ok(())
    }
}
