//! Prints tables and sentences for people, and JSON for programs. Nothing else writes to standard
//! output.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use taskpass_core::is_hidden;

/// The reader of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Tables and sentences.
    Table,
    /// JSON with snake_case keys and RFC 3339 times in UTC.
    Json,
}

/// One JSON value and a newline.
pub(crate) fn write_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    write_bytes(&text)
}

/// Lines for people.
pub(crate) fn write_text(text: &str) -> anyhow::Result<()> {
    let mut text = text.trim_end().to_owned();
    text.push('\n');
    write_bytes(text.as_bytes())
}

/// Bytes as they are. A reader that closes its end early, as `head` does, is not an error.
pub(crate) fn write_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// One line on standard error. If even that fails, there is no place left to report it.
pub(crate) fn note(line: &str) {
    let mut out = io::stderr().lock();
    drop(writeln!(out, "{}", printable(line)));
}

/// Rows under headings, without lines around them.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return "nothing found".to_owned();
    }
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(headings.iter().map(|h| h.to_uppercase()));
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let text = table.to_string();
    text.lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// Names and values, one pair a line. Pairs with an empty value are left out.
pub(crate) fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:width$}  {}\n", printable(value)))
        .collect()
}

/// `a=1, b=2`
pub(crate) fn pairs(map: &BTreeMap<String, String>) -> String {
    let each: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v}")).collect();
    each.join(", ")
}

/// Replaces hidden characters: text from the broker must not move the cursor, change colours or
/// reverse the order in which a person reads it.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_hidden(c) && c != '\n' { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_and_harmless() {
        let rows = vec![vec!["a\u{1b}[31m".to_owned(), "b".to_owned()]];
        let text = table(&["one", "two"], rows);
        assert_eq!(text.lines().next(), Some("ONE     TWO"));
        assert!(text.contains("a?[31m") && !text.contains('\u{1b}'));
        // A purpose that reads as another one: U+202E shows what follows from right to left.
        assert_eq!(printable("drop\u{202e}daer\u{200b}"), "drop?daer?");
        assert_eq!(table(&["one"], Vec::new()), "nothing found");
    }
}
