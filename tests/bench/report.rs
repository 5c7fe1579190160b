//! The figures of a run, each with its peer and its budget: the schema of `report.json`. A change
//! to it raises [`SCHEMA`].

mod compare;
mod markdown;

use std::{fs, path::PathBuf};

use serde::{Deserialize, Serialize};
use taskpass_tests::workspace;

pub(crate) use compare::compare;

use crate::machine::{Machine, Run};

/// The version of the schema.
const SCHEMA: u32 = 1;

/// All figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    schema: u32,
    pub(crate) machine: Machine,
    pub(crate) run: Run,
    pub(crate) figures: Vec<Figure>,
}

/// One measured value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// Together with `area` and the peer's name, this identifies the figure in other reports.
    pub(crate) name: String,
    pub(crate) area: String,
    pub(crate) unit: String,
    pub(crate) better: Better,
    /// Over the rounds. Absent when it could not be measured; `note` then says why.
    pub(crate) measured: Option<Spread>,
    pub(crate) peer: Option<Peer>,
    pub(crate) budget: Option<Budget>,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) note: Option<String>,
}

/// The comparison of a figure: another program, the bare limit, or the broker itself with less
/// work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    pub(crate) measured: Spread,
    /// The figure divided by the peer's, round by round.
    pub(crate) ratio: Spread,
}

/// The median of the rounds, the lowest and the highest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Whether lower or higher values are better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// The budget of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Budget {
    pub(crate) of: Of,
    pub(crate) limit: Limit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Of {
    /// The figure itself.
    Figure,
    /// The figure divided by its peer's.
    Ratio,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Limit {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Pass,
    Short,
    /// The budget exists, and there is nothing to measure yet.
    Open,
}

/// One value for each round. The rounds of a figure and its peer alternate.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rounds(Vec<f64>);

impl Rounds {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn spread(&self) -> Spread {
        let mut sorted = self.0.clone();
        assert!(!sorted.is_empty(), "nothing was measured");
        sorted.sort_unstable_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Spread {
            median,
            low: sorted[0],
            high: sorted[sorted.len() - 1],
        }
    }

    /// Combines round by round. A peer that was measured only once is combined with each round.
    fn with(&self, other: &Self, what: impl Fn(f64, f64) -> f64) -> Self {
        let last = other.0.len() - 1;
        let pairs = self.0.iter().enumerate();
        Self(pairs.map(|(i, a)| what(*a, other.0[i.min(last)])).collect())
    }

    pub(crate) fn times(&self, factor: f64) -> Self {
        self.0.iter().map(|value| value * factor).collect()
    }

    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.with(other, |a, b| a - b)
    }
}

impl From<f64> for Rounds {
    fn from(value: f64) -> Self {
        Self(vec![value])
    }
}

impl FromIterator<f64> for Rounds {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

impl Figure {
    fn new(area: &str, name: String, unit: &str, better: Better, rounds: &Rounds) -> Self {
        Self {
            area: area.to_owned(),
            name,
            unit: unit.to_owned(),
            better,
            measured: Some(rounds.spread()),
            peer: None,
            budget: None,
            verdict: None,
            note: None,
        }
    }

    /// A figure of which less is better: times, memory.
    pub(crate) fn low(area: &str, name: impl Into<String>, unit: &str, rounds: &Rounds) -> Self {
        Self::new(area, name.into(), unit, Better::Lower, rounds)
    }

    /// A figure of which more is better: rates.
    pub(crate) fn high(area: &str, name: impl Into<String>, unit: &str, rounds: &Rounds) -> Self {
        Self::new(area, name.into(), unit, Better::Higher, rounds)
    }

    /// A budget for which there is nothing to measure.
    pub(crate) fn open(area: &str, name: &str, unit: &str, limit: Limit, why: &str) -> Self {
        let better = match limit {
            Limit::AtLeast(_) => Better::Higher,
            Limit::AtMost(_) => Better::Lower,
        };
        Self {
            measured: None,
            budget: Some(Budget {
                of: Of::Figure,
                limit,
            }),
            verdict: Some(Verdict::Open),
            note: Some(why.to_owned()),
            ..Self::new(area, name.to_owned(), unit, better, &Rounds::from(0.0))
        }
    }

    /// Compares the figure with `peer`. `ours` holds the rounds of this figure.
    pub(crate) fn beside(mut self, name: &str, ours: &Rounds, peer: &Rounds) -> Self {
        self.peer = Some(Peer {
            name: name.to_owned(),
            measured: peer.spread(),
            ratio: ours.with(peer, |a, b| a / b).spread(),
        });
        self
    }

    /// Sets a budget for the figure.
    pub(crate) fn budget(self, limit: Limit) -> Self {
        self.held_to(Of::Figure, limit)
    }

    /// Sets a budget for the ratio to its peer.
    pub(crate) fn budget_of_ratio(self, limit: Limit) -> Self {
        self.held_to(Of::Ratio, limit)
    }

    fn held_to(mut self, of: Of, limit: Limit) -> Self {
        let value = match of {
            Of::Figure => self.measured,
            Of::Ratio => self.peer.as_ref().map(|peer| peer.ratio),
        };
        let value = value.expect("a budget is for something measured").median;
        let within = match limit {
            Limit::AtLeast(least) => value >= least,
            Limit::AtMost(most) => value <= most,
        };
        self.budget = Some(Budget { of, limit });
        self.verdict = Some(if within {
            Verdict::Pass
        } else {
            Verdict::Short
        });
        self
    }

    pub(crate) fn ratio(&self) -> Option<Spread> {
        self.peer.as_ref().map(|peer| peer.ratio)
    }
}

impl Report {
    pub(crate) fn new(machine: Machine, run: Run) -> Self {
        Self {
            schema: SCHEMA,
            machine,
            run,
            figures: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, figure: Figure) {
        eprintln!("{}", markdown::line(&figure));
        self.figures.push(figure);
    }

    /// Reads a report as [`Report::write`] wrote it.
    pub(crate) fn read(path: &std::path::Path) -> Result<Self, String> {
        let text = fs::read_to_string(path)
            .map_err(|e| format!("`{}` cannot be read: {e}", path.display()))?;
        let report: Self = serde_json::from_str(&text)
            .map_err(|e| format!("`{}` is not a report: {e}", path.display()))?;
        if report.schema != SCHEMA {
            return Err(format!(
                "`{}` has schema {}, not {SCHEMA}: measure again",
                path.display(),
                report.schema
            ));
        }
        Ok(report)
    }

    /// The directory of the last run's report.
    pub(crate) fn directory() -> PathBuf {
        workspace().join("target/bench")
    }

    /// Writes `report.json`, and `report.md` made from it.
    pub(crate) fn write(&self) {
        let directory = Self::directory();
        fs::create_dir_all(&directory).expect("a directory");
        let json = serde_json::to_string_pretty(self).expect("JSON");
        fs::write(directory.join("report.json"), json + "\n").expect("the report can be written");
        fs::write(directory.join("report.md"), self.markdown()).expect("the report can be written");
    }
}
