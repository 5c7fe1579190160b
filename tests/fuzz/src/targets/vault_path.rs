//! Paths with parameters. The first line is the path; then lines `name=value`.

use taskpass_core::Scope;

use crate::{
    input,
    wording::{VALUE_CHARS_MAX, one_line},
};

pub(crate) fn run(data: &[u8]) {
    let Some(text) = input::text(data) else {
        return;
    };
    let (template, pairs) = text.split_once('\n').unwrap_or((text, ""));
    let pairs = pairs.split('\n').filter_map(|line| line.split_once('='));
    let Ok(scope) = Scope::from_pairs(pairs) else {
        return;
    };
    match taskpass_provider_vault::fuzz::path(template, &scope) {
        Ok(path) => stays_where_it_is(template, &path),
        Err(error) => drop(one_line(error, VALUE_CHARS_MAX)),
    }
}

/// Asserts that the path has as many segments as its template, none of them empty or `..`, and the
/// same mount.
fn stays_where_it_is(template: &str, path: &str) {
    assert_eq!(template.split('/').count(), path.split('/').count());
    assert_eq!(template.split('/').next(), path.split('/').next());
    for segment in path.split('/') {
        assert!(!["", ".", ".."].contains(&segment), "{path}");
        assert!(
            !segment.contains(|c: char| c.is_control() || "\\?#%".contains(c)),
            "{path}"
        );
    }
}
