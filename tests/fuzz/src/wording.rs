//! The rule for every error text: one line that a person can read, however long and hostile the
//! input was.

use std::fmt::Display;

/// The most characters of an error about a single value.
pub(crate) const VALUE_CHARS_MAX: usize = 400;

/// Asserts that an error text is one line of at most `chars_max` characters, and returns it.
pub(crate) fn one_line(error: impl Display, chars_max: usize) -> String {
    let text = error.to_string();
    assert!(!text.is_empty(), "an error without words");
    assert!(
        !text.chars().any(|c| c.is_control() || is_line_end(c)),
        "not one line: {text:?}"
    );
    let chars = text.chars().count();
    assert!(chars <= chars_max, "{chars} characters: {text:?}");
    text
}

/// Asserts the same for the whole chain of causes, as the programs print it.
pub(crate) fn one_line_each(error: &dyn std::error::Error, chars_max: usize) {
    let mut next = Some(error);
    while let Some(error) = next {
        one_line(error, chars_max);
        next = error.source();
    }
}

/// Line and paragraph separators, at which some terminals and log viewers break lines.
const fn is_line_end(c: char) -> bool {
    matches!(c, '\u{2028}' | '\u{2029}')
}
