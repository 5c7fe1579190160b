//! Which parts to run, and for how long.

use std::time::Duration;

use taskpass_tests::faults::{Cell, Fault, Operation};

pub(crate) const USAGE: &str =
    "usage: taskpass-torture [--part matrix|kills|syncs|soak]... [--cells WORDS] [--at-once N] [--kills N] [--soak MINUTES]

  --part      only these parts; all of them when none is named
  --cells     only the cells with these words in their name, such as `provider down` or `x end`
  --at-once   cells that are played at the same time; 3
  --kills     how often the broker is killed under load; 1000
  --soak      how many minutes of load; 30
  -h, --help  this text

matrix  every fault at every operation, each cell on an installation of its own; a cell is FAULT × OPERATION
kills   SIGKILL at random moments under load
syncs   whether each answer has an `fdatasync`, by strace
soak    mixed load: what the broker holds must not grow with what it did

The report goes to target/torture/report.md and report.json; tests/torture/README.md says how to read it.
Ends with 0 when nothing is red, with 1 when anything is, with 2 when these arguments are wrong.";

/// A part that can be run by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Matrix,
    Kills,
    Syncs,
    Soak,
}

#[derive(Debug)]
pub(crate) struct Arguments {
    parts: Vec<Part>,
    pub(crate) cells: Vec<Cell>,
    pub(crate) at_once: usize,
    pub(crate) kills: u32,
    pub(crate) soak: Duration,
}

impl Arguments {
    pub(crate) fn parse(words: &[String]) -> Result<Self, String> {
        let mut this = Self {
            parts: Vec::new(),
            cells: Cell::all().collect(),
            at_once: 3,
            kills: 1000,
            soak: Duration::from_secs(30 * 60),
        };
        let mut words = words.iter();
        while let Some(name) = words.next() {
            let value = words.next().ok_or(format!("`{name}` wants a value"))?;
            let number = || {
                value
                    .parse::<u32>()
                    .map_err(|e| format!("`{name} {value}`: {e}"))
            };
            match name.as_str() {
                "--part" => this.parts.push(part(value)?),
                "--cells" => this.cells = cells(value)?,
                "--at-once" => this.at_once = usize::try_from(number()?.max(1)).expect("32 bits"),
                "--kills" => this.kills = number()?,
                "--soak" => this.soak = Duration::from_secs(u64::from(number()?) * 60),
                _ => return Err(format!("`{name}` is not understood")),
            }
        }
        Ok(this)
    }

    pub(crate) fn plays(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

/// The cells with these words in their name. No cell is an error: an empty table has no red line
/// and proves nothing.
fn cells(words: &str) -> Result<Vec<Cell>, String> {
    let found: Vec<Cell> = Cell::named(words).collect();
    if found.is_empty() {
        let faults = Fault::ALL.map(Fault::words).join("; ");
        let operations = Operation::ALL.map(Operation::words).join("; ");
        return Err(format!(
            "no cell has `{words}` in its name; a cell is written `FAULT × OPERATION`, or `FAULT x OPERATION`, such as \
             `provider down × issue`\n  faults: {faults}\n  operations: {operations}\n"
        ));
    }
    Ok(found)
}

fn part(word: &str) -> Result<Part, String> {
    match word {
        "matrix" => Ok(Part::Matrix),
        "kills" => Ok(Part::Kills),
        "syncs" => Ok(Part::Syncs),
        "soak" => Ok(Part::Soak),
        _ => Err(format!("there is no part `{word}`")),
    }
}
