//! Reads tables of a TOML document and gathers every complaint with its place.

use std::{fmt, ops::Range, ops::RangeInclusive};

use taskpass_core::{breaks_line, excerpt};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    nearest::nearest,
    value::{Value, kind},
};

/// Complaints that are gathered. Who has made as many mistakes mends some and looks again.
const PROBLEMS_MAX: usize = 200;
/// Characters of one complaint; a value that is repeated in it may be of any length.
const MESSAGE_CHARS_MAX: usize = 400;
/// A table with more keys is not listed in a message.
const KEYS_LISTED_MAX: usize = 12;

/// One complaint about the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named on the command line.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what to do, on one line.
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

/// A table of the document.
#[derive(Debug)]
pub(crate) struct Table<'t> {
    /// As it is written: `[limits]`, `[[provider]]`; empty for the top level.
    pub(crate) name: String,
    /// Where it begins.
    pub(crate) offset: usize,
    pub(crate) entries: &'t DeTable<'t>,
}

impl Table<'_> {
    /// ` in [limits]`, or nothing at the top level.
    fn suffix(&self) -> String {
        match self.name.as_str() {
            "" => String::new(),
            name => format!(" in {name}"),
        }
    }
}

/// Gathers complaints about one file.
#[derive(Debug)]
pub(crate) struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
    /// Every key with the table it is in, for a key that was written into the wrong one.
    homes: Vec<(&'static str, &'static str)>,
    problems: Vec<(usize, String)>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(
        file: &'t str,
        text: &'t str,
        homes: Vec<(&'static str, &'static str)>,
    ) -> Self {
        Self {
            file,
            text,
            lines: line_starts(text),
            homes,
            problems: Vec::new(),
        }
    }

    /// Every complaint in the order of the file.
    pub(crate) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort();
        self.problems.dedup();
        let place = |(offset, message): &(usize, String)| {
            let (line, column) = self.position(*offset);
            Problem {
                file: self.file.to_owned(),
                line,
                column,
                message: message.clone(),
            }
        };
        self.problems.iter().map(place).collect()
    }

    /// Line and column of an offset, both from 1; the column counts characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= offset);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let rest = self.text.get(start..).unwrap_or_default().char_indices();
        let column = rest.take_while(|(at, _)| start + at < offset).count();
        (line, column.saturating_add(1))
    }

    /// Notes what is wrong at an offset, on one line. Beyond [`PROBLEMS_MAX`] nothing more is noted.
    pub(crate) fn complain(&mut self, offset: usize, message: impl Into<String>) {
        if self.is_full() {
            return;
        }
        let message: String = message.into();
        let mut shown: String = message
            .chars()
            .take(MESSAGE_CHARS_MAX)
            .map(|c| if breaks_line(c) { '?' } else { c })
            .collect();
        if message.chars().nth(MESSAGE_CHARS_MAX).is_some() {
            shown.push('…');
        }
        self.problems.push((offset, shown));
    }

    /// Whether nothing more is noted.
    const fn is_full(&self) -> bool {
        self.problems.len() >= PROBLEMS_MAX
    }

    pub(crate) const fn is_content(&self) -> bool {
        self.problems.is_empty()
    }

    /// Complains about every key of `table` that is not in `known`. Returns whether there was none.
    pub(crate) fn known_keys(&mut self, table: &Table<'_>, known: &[&'static str]) -> bool {
        let is_known = |name: &str| known.contains(&name);
        let mut unknown: Vec<_> = table
            .entries
            .keys()
            .filter(|key| !is_known(key.get_ref()))
            .collect();
        // As they stand in the file, since not all may be noted.
        unknown.sort_by_key(|key| key.span().start);
        for key in &unknown {
            if self.is_full() {
                break;
            }
            let name = key.get_ref().as_ref();
            let place = match table.name.as_str() {
                "" => " at the top level".to_owned(),
                _ => table.suffix(),
            };
            let advice = self.advice(name, &table.name, known);
            self.complain(
                key.span().start,
                format!("unknown key `{}`{place}; {advice}", excerpt(name)),
            );
        }
        unknown.is_empty()
    }

    fn advice(&self, name: &str, table: &str, known: &[&'static str]) -> String {
        if let Some(meant) = nearest(name, known.iter().copied()) {
            return format!("did you mean `{meant}`?");
        }
        let homes: Vec<_> = self
            .homes
            .iter()
            .filter(|(_, home)| format!("[{home}]") != table)
            .collect();
        let elsewhere = homes.iter().find(|(key, _)| *key == name).or_else(|| {
            let meant = nearest(name, homes.iter().map(|(key, _)| *key))?;
            homes.iter().find(|(key, _)| *key == meant)
        });
        match elsewhere {
            Some((key, "")) => format!("did you mean `{key}` at the top level?"),
            Some((key, home)) => format!("did you mean `{key}` in [{home}]?"),
            None if known.len() > KEYS_LISTED_MAX => {
                "`taskpassd config reference` lists the keys".to_owned()
            }
            None => format!("known keys are {}", list(known)),
        }
    }

    /// The value of `key`, checked against `range`; `None` when it is absent or was complained about.
    pub(crate) fn value<T: Value>(
        &mut self,
        table: &Table<'_>,
        key: &str,
        range: Option<RangeInclusive<T>>,
    ) -> Option<T> {
        let found = table.entries.get(key)?;
        let complaint = match (T::read(found.get_ref()), range) {
            (Ok(value), Some(range)) if !range.contains(&value) => format!(
                "is {}: it must be from {} to {}",
                value.show().replace('"', "`"),
                range.start().show(),
                range.end().show()
            ),
            (Ok(value), _) => return Some(value),
            (Err(complaint), _) => complaint,
        };
        let suffix = table.suffix();
        self.complain(found.span().start, format!("`{key}`{suffix} {complaint}"));
        None
    }

    /// The same for a key that must be there.
    pub(crate) fn required<T: Value>(&mut self, table: &Table<'_>, key: &str) -> Option<T> {
        if !table.entries.contains_key(key) {
            self.missing(table, key, T::EXPECTS);
        }
        self.value(table, key, None)
    }

    /// Complains that `key` is not in `table`.
    pub(crate) fn missing(&mut self, table: &Table<'_>, key: &str, expects: &str) {
        let suffix = table.suffix();
        self.complain(
            table.offset,
            format!("missing key `{key}`{suffix}: give {expects}"),
        );
    }

    /// The table `[key]`.
    pub(crate) fn table<'a>(&mut self, top: &Table<'a>, key: &str) -> Option<Table<'a>> {
        let found = top.entries.get(key)?;
        let Some(entries) = found.get_ref().as_table() else {
            let message = format!(
                "`{key}` is a table, not {}: write [{key}]",
                kind(found.get_ref())
            );
            self.complain(found.span().start, message);
            return None;
        };
        Some(Table {
            name: format!("[{key}]"),
            offset: found.span().start,
            entries,
        })
    }

    /// The tables `[[key]]` of `table`; `name` is how they are written.
    pub(crate) fn tables<'a>(
        &mut self,
        table: &Table<'a>,
        key: &str,
        name: &str,
    ) -> Vec<Table<'a>> {
        let Some(found) = table.entries.get(key) else {
            return Vec::new();
        };
        let Some(array) = found.get_ref().as_array() else {
            let message = match found.get_ref() {
                DeValue::Table(_) => {
                    format!("`{key}` is a list of tables: write {name}, with two brackets")
                }
                other => format!(
                    "`{key}` is a list of tables, not {}: write {name}",
                    kind(other)
                ),
            };
            self.complain(found.span().start, message);
            return Vec::new();
        };
        array
            .iter()
            .filter_map(|item| self.item(item, name))
            .collect()
    }

    fn item<'a>(&mut self, item: &'a Spanned<DeValue<'a>>, name: &str) -> Option<Table<'a>> {
        let Some(entries) = item.get_ref().as_table() else {
            let message = format!(
                "an entry of {name} is a table, not {}",
                kind(item.get_ref())
            );
            self.complain(item.span().start, message);
            return None;
        };
        Some(Table {
            name: name.to_owned(),
            offset: item.span().start,
            entries,
        })
    }
}

/// `` `a`, `b` and `c` ``
pub(crate) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        None => "none".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
    std::iter::once(0).chain(after_newlines).collect()
}

/// The path of keys to the innermost value that begins at or before `span` and ends at or after it.
pub(crate) fn path_to(entries: &DeTable<'_>, span: &Range<usize>) -> Vec<String> {
    let holds = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for (key, value) in entries.iter() {
        let inside = match value.get_ref() {
            DeValue::Table(table) => path_to(table, span),
            DeValue::Array(array) => array
                .iter()
                .filter_map(|item| item.get_ref().as_table())
                .map(|table| path_to(table, span))
                .find(|path| !path.is_empty())
                .unwrap_or_default(),
            _ => Vec::new(),
        };
        if !inside.is_empty() || holds(value.span()) {
            let head = std::iter::once(key.get_ref().to_string());
            return head.chain(inside).collect();
        }
    }
    Vec::new()
}
