//! Places in a policy file: where a statement begins, and the line and column of an offset.
//!
//! They serve messages only. Cedar alone gives a policy its meaning; a mistake here would misplace
//! a finding, nothing more.

use std::ops::Range;

/// The byte ranges of the statements in `text`, without the comments and blanks before them. Text
/// after the last `;` is one more statement.
pub(crate) fn statements(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '/' if chars.peek().is_some_and(|(_, next)| *next == '/') => {
                while chars.next_if(|(_, c)| !matches!(c, '\n' | '\r')).is_some() {}
                continue;
            }
            '"' => {
                start.get_or_insert(at);
                while let Some((_, c)) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            ';' => found.push(start.take().unwrap_or(at)..at + 1),
            c if c.is_whitespace() => {}
            _ => {
                start.get_or_insert(at);
            }
        }
    }
    found.extend(start.map(|start| start..text.len()));
    found
}

/// Line and column of a byte offset, both from 1; the column counts characters.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.char_indices().take_while(|(at, _)| *at < offset);
    before.fold((1, 1), |(line, column), (_, c)| match c {
        '\n' => (line + 1, 1),
        _ => (line, column + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_outside_strings_and_comments() {
        let text = "// a; b\n@id(\"x;\\\"y\") permit(a);\n  /* */ forbid // \"\n(b); rest";
        let found: Vec<&str> = statements(text)
            .into_iter()
            .map(|r| text.get(r).unwrap())
            .collect();
        assert_eq!(
            found,
            [
                "@id(\"x;\\\"y\") permit(a);",
                "/* */ forbid // \"\n(b);",
                "rest"
            ]
        );
        assert!(statements("// only a comment\r\n  ").is_empty());
        assert_eq!(statements(";").len(), 1);
        assert_eq!(statements("\"open").first(), Some(&(0..5)));
    }

    #[test]
    fn positions_count_characters() {
        let text = "é\n\"ü\" x";
        assert_eq!(position(text, 0), (1, 1));
        assert_eq!(position(text, text.find('x').unwrap()), (2, 5));
        assert_eq!(position(text, 10_000), (2, 6));
    }
}
