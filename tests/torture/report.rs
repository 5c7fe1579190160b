//! The verdicts, as a table for people and as JSON.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::PathBuf, sync::Mutex};

use serde_json::{Value, json};
use taskpass_tests::{
    faults::{Cell, Fault, Operation, Outcome},
    workspace,
};

/// The results of all threads.
#[derive(Debug, Default)]
pub(crate) struct Report {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    cells: Vec<(Cell, Result<Outcome, String>)>,
    topics: BTreeMap<&'static str, Vec<Line>>,
}

#[derive(Debug)]
enum Line {
    Figure(String, f64, &'static str),
    Green(String),
    Red(String, Vec<String>),
    NotHere(String),
}

impl Report {
    pub(crate) fn cell(&self, cell: Cell, outcome: Result<Outcome, String>) {
        self.inner().cells.push((cell, outcome));
    }

    pub(crate) fn figure(&self, topic: &'static str, what: &str, value: f64, unit: &'static str) {
        self.add(topic, Line::Figure(what.to_owned(), value, unit));
    }

    /// Green without complaints, red with them.
    pub(crate) fn verdict(&self, topic: &'static str, what: &str, complaints: &[String]) {
        let what = what.to_owned();
        self.add(
            topic,
            match complaints {
                [] => Line::Green(what),
                complaints => Line::Red(what, complaints.to_vec()),
            },
        );
    }

    pub(crate) fn not_here(&self, topic: &'static str, why: &str) {
        self.add(topic, Line::NotHere(why.to_owned()));
    }

    /// Whether any result is red. A cell that was not played is neither red nor green.
    pub(crate) fn is_red(&self) -> bool {
        let inner = self.inner();
        let red_line = |line: &Line| matches!(line, Line::Red(..));
        inner
            .cells
            .iter()
            .any(|(_, outcome)| word(outcome) == "RED")
            || inner.topics.values().flatten().any(red_line)
    }

    pub(crate) fn markdown(&self) -> String {
        let inner = self.inner();
        let mut text = "# Taskpass torture\n".to_owned();
        if !inner.cells.is_empty() {
            text.push_str(&grid(&inner.cells));
            text.push_str(&details(&inner.cells));
        }
        for (topic, lines) in &inner.topics {
            writeln!(text, "\n## {topic}\n\n| what | |\n| --- | ---: |").expect("text");
            for line in lines {
                let (what, value) = match line {
                    Line::Figure(what, value, unit) => (what, format!("{value:.0} {unit}")),
                    Line::Green(what) => (what, "green".to_owned()),
                    Line::Red(what, why) => (what, format!("RED: {}", one_line(&why.join("; ")))),
                    Line::NotHere(why) => (why, "not on this machine".to_owned()),
                };
                writeln!(text, "| {what} | {value} |").expect("text");
            }
        }
        text
    }

    fn json(&self) -> Value {
        let inner = self.inner();
        let cells = inner.cells.iter().map(|(cell, outcome)| match outcome {
            Ok(Outcome::Ran(v)) => json!({
                "fault": cell.fault.words(), "operation": cell.operation.words(), "verdict": word(outcome),
                "meanwhile": v.meanwhile.as_ref().err(), "orphans": v.orphans, "lost": v.lost, "false_proofs": v.false_proofs,
                "secrets_shown": v.shown, "ledger": v.ledger, "wrong": v.wrong, "back": v.back.words(), "answers": v.answers, "notes": v.notes,
                "back_after_seconds": v.back_after.as_secs_f64(), "all_dead_after_seconds": v.last_live.as_secs_f64(),
                "took_seconds": v.took.as_secs_f64(),
            }),
            Ok(Outcome::NotHere(why)) | Err(why) => json!({
                "fault": cell.fault.words(), "operation": cell.operation.words(), "verdict": word(outcome), "why": why,
            }),
        });
        let topics = inner.topics.iter().map(|(topic, lines)| {
            let lines = lines.iter().map(|line| match line {
                Line::Figure(what, value, unit) => {
                    json!({ "what": what, "value": value, "unit": unit })
                }
                Line::Green(what) => json!({ "what": what, "verdict": "green" }),
                Line::Red(what, why) => json!({ "what": what, "verdict": "RED", "why": why }),
                Line::NotHere(why) => json!({ "verdict": "not on this machine", "why": why }),
            });
            ((*topic).to_owned(), Value::Array(lines.collect()))
        });
        let topics: serde_json::Map<String, Value> = topics.collect();
        json!({ "cells": cells.collect::<Vec<_>>(), "topics": topics })
    }

    /// Writes both forms to `target/torture`.
    pub(crate) fn write(&self) -> PathBuf {
        let directory = workspace().join("target/torture");
        fs::create_dir_all(&directory).expect("a directory");
        fs::write(directory.join("report.md"), self.markdown()).expect("the report can be written");
        let json = serde_json::to_string_pretty(&self.json()).expect("JSON");
        fs::write(directory.join("report.json"), json + "\n").expect("the report can be written");
        directory
    }

    fn add(&self, topic: &'static str, line: Line) {
        self.inner().topics.entry(topic).or_default().push(line);
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no poison")
    }
}

fn word(outcome: &Result<Outcome, String>) -> &'static str {
    match outcome {
        Ok(Outcome::Ran(verdict)) if verdict.is_green() => "green",
        Ok(Outcome::Ran(_)) | Err(_) => "RED",
        Ok(Outcome::NotHere(_)) => "not run",
    }
}

type Played = [(Cell, Result<Outcome, String>)];

/// Faults downwards, operations across.
fn grid(cells: &Played) -> String {
    let mut text = "\n## The matrix\n\n| fault |".to_owned();
    for operation in Operation::ALL {
        write!(text, " {} |", operation.words()).expect("text");
    }
    text.push_str("\n| --- |");
    text.push_str(&" --- |".repeat(Operation::ALL.len()));
    for fault in Fault::ALL {
        write!(text, "\n| {} |", fault.words()).expect("text");
        for operation in Operation::ALL {
            let cell = Cell { fault, operation };
            let played = cells.iter().find(|(of, _)| *of == cell);
            write!(
                text,
                " {} |",
                played.map_or("", |(_, outcome)| word(outcome))
            )
            .expect("text");
        }
    }
    text.push('\n');
    text
}

fn details(cells: &Played) -> String {
    let mut text = "\n## Each cell\n\n\
        | cell | verdict | meanwhile | answers | orphans | lost | false proofs | secrets shown | ledger | back | after | all dead after | remarks |\n\
        | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: | --- |\n"
        .to_owned();
    for cell in Cell::all() {
        let Some((_, outcome)) = cells.iter().find(|(of, _)| *of == cell) else {
            continue;
        };
        let row = match outcome {
            Ok(Outcome::Ran(v)) => format!(
                "{} | {} | {} | {} | {} | {} | {} | {} | {:.1} s | {:.1} s | {}",
                v.meanwhile_words(),
                v.answers,
                v.orphans.len(),
                v.lost.len(),
                v.false_proofs.len(),
                v.shown.len(),
                if v.ledger.is_empty() {
                    "verifies"
                } else {
                    "DOES NOT VERIFY"
                },
                v.back.words(),
                v.back_after.as_secs_f32(),
                v.last_live.as_secs_f32(),
                one_line(
                    &v.notes
                        .iter()
                        .chain(v.complaints())
                        .cloned()
                        .collect::<Vec<_>>()
                        .join("; ")
                ),
            ),
            Ok(Outcome::NotHere(why)) => format!("| | | | | | | | | | not on this machine: {why}"),
            Err(why) => format!("| | | | | | | | | | {}", one_line(why)),
        };
        writeln!(text, "| {cell} | {} | {row} |", word(outcome)).expect("text");
    }
    text
}

fn one_line(words: &str) -> String {
    words.replace(['\n', '|'], " ")
}
