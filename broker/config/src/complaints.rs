//! Gathers the mistakes in one file, each complaint with its line and column.

use std::fmt;

use taskpass_core::is_hidden;

/// The most complaints that are gathered. After the first two hundred a person mends some and
/// checks again.
const PROBLEMS_MAX: usize = 200;
/// The most characters of one complaint, since it may repeat a value of any length.
const MESSAGE_CHARS_MAX: usize = 400;

/// One complaint about the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named on the command line.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The mistake and its remedy, on one line.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
        } = self;
        write!(f, "{file}:{line}:{column}: {message}")
    }
}

/// The complaints about one file so far.
#[derive(Debug)]
pub struct Complaints<'t> {
    file: &'t str,
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    found: Vec<(usize, String)>,
}

impl<'t> Complaints<'t> {
    /// No complaints yet about `text`, which `file` holds.
    pub fn new(file: &'t str, text: &'t str) -> Self {
        Self {
            file,
            text,
            lines: line_starts(text),
            found: Vec::new(),
        }
    }

    /// Notes a mistake at an offset, on one line.
    pub fn add(&mut self, offset: usize, message: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let message: String = message.into();
        let mut shown: String = message
            .chars()
            .take(MESSAGE_CHARS_MAX)
            .map(|c| if is_hidden(c) { '?' } else { c })
            .collect();
        if message.chars().nth(MESSAGE_CHARS_MAX).is_some() {
            shown.push('…');
        }
        self.found.push((offset, shown));
    }

    /// How many there are; a part of the file is right if its check does not change this.
    pub const fn count(&self) -> usize {
        self.found.len()
    }

    /// Whether nothing more is noted.
    pub const fn is_full(&self) -> bool {
        self.found.len() >= PROBLEMS_MAX
    }

    /// Whether there is a complaint about this offset. A wrong value gets one complaint only, since
    /// later checks also see a value that an earlier check refused.
    pub fn has(&self, offset: usize) -> bool {
        self.found.iter().any(|(at, _)| *at == offset)
    }

    /// Line and column of an offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or_default().char_indices();
        let column = rest.take_while(|(at, _)| start + at < offset).count();
        (line, column.saturating_add(1))
    }

    /// Every complaint in the order of the file.
    pub fn into_problems(mut self) -> Vec<Problem> {
        self.found.sort();
        self.found.dedup();
        let place = |(offset, message): &(usize, String)| {
            let (line, column) = self.position(*offset);
            Problem {
                file: self.file.to_owned(),
                line,
                column,
                message: message.clone(),
            }
        };
        self.found.iter().map(place).collect()
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after_newlines).collect()
}
