//! The figures, each with its budget where it has one.

use std::{fmt::Write as _, fs, path::PathBuf};

use serde_json::{Value, json};
use taskpass_tests::workspace;

use crate::load::{Sample, ms};

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Budget {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug)]
struct Figure {
    topic: &'static str,
    what: String,
    value: f64,
    unit: &'static str,
    budget: Option<Budget>,
}

impl Figure {
    fn verdict(&self) -> &'static str {
        match self.budget {
            None => "",
            Some(Budget::AtLeast(least)) if self.value >= least => "pass",
            Some(Budget::AtMost(most)) if self.value <= most => "pass",
            Some(_) => "short",
        }
    }

    fn budget(&self) -> String {
        match self.budget {
            None => String::new(),
            Some(Budget::AtLeast(least)) => format!("≥ {}", number(least)),
            Some(Budget::AtMost(most)) => format!("≤ {}", number(most)),
        }
    }
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

impl Report {
    pub(crate) const fn new() -> Self {
        Self {
            figures: Vec::new(),
        }
    }

    /// A figure without a budget.
    pub(crate) fn figure(
        &mut self,
        topic: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) {
        self.add(topic, what, value, unit, None);
    }

    /// A figure that is held against one.
    pub(crate) fn budgeted(
        &mut self,
        topic: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        budget: Budget,
    ) {
        self.add(topic, what, value, unit, Some(budget));
    }

    /// Throughput and latency of a load.
    pub(crate) fn sample(&mut self, topic: &'static str, what: &str, sample: Sample) {
        self.figure(topic, what, sample.per_second, "/s");
        self.figure(topic, format!("{what}, p50"), ms(sample.p50), "ms");
        self.figure(topic, format!("{what}, p99"), ms(sample.p99), "ms");
    }

    fn add(
        &mut self,
        topic: &'static str,
        what: impl Into<String>,
        value: f64,
        unit: &'static str,
        budget: Option<Budget>,
    ) {
        let figure = Figure {
            topic,
            what: what.into(),
            value,
            unit,
            budget,
        };
        eprintln!(
            "{topic}: {}: {} {}  {}",
            figure.what,
            number(value),
            unit,
            figure.verdict()
        );
        self.figures.push(figure);
    }

    /// A table for each topic.
    pub(crate) fn markdown(&self) -> String {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let mut text = format!(
            "# Taskpass bench\n\n{cores} cores, client and servers on the same machine, one run.\n"
        );
        let mut topic = "";
        for figure in &self.figures {
            if figure.topic != topic {
                topic = figure.topic;
                writeln!(
                    text,
                    "\n## {topic}\n\n| what | figure | budget | |\n| --- | ---: | --- | --- |"
                )
                .expect("text");
            }
            let value = format!("{} {}", number(figure.value), figure.unit);
            writeln!(
                text,
                "| {} | {value} | {} | {} |",
                figure.what,
                figure.budget(),
                figure.verdict()
            )
            .expect("text");
        }
        text
    }

    fn json(&self) -> Value {
        let figures = self.figures.iter().map(|figure| {
            let (at_least, at_most) = match figure.budget {
                Some(Budget::AtLeast(least)) => (Some(least), None),
                Some(Budget::AtMost(most)) => (None, Some(most)),
                None => (None, None),
            };
            json!({
                "topic": figure.topic, "what": figure.what, "value": figure.value, "unit": figure.unit,
                "at_least": at_least, "at_most": at_most,
                "verdict": Some(figure.verdict()).filter(|v| !v.is_empty()),
            })
        });
        json!({ "figures": figures.collect::<Vec<_>>() })
    }

    /// Writes both forms to `target/bench`.
    pub(crate) fn write(&self) -> PathBuf {
        let directory = workspace().join("target/bench");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("report.md"), self.markdown()).expect("the report can be written");
        let json = serde_json::to_string_pretty(&self.json()).expect("JSON");
        fs::write(directory.join("report.json"), json + "\n").expect("the report can be written");
        directory
    }
}

/// Three significant digits are all that a shared machine is good for.
fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}
