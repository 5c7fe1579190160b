//! The length of files, and that no test is switched off.

use super::{files, none, read};

const LINES_MAX: usize = 600;

#[test]
fn a_file_is_a_page() {
    let mut complaints = Vec::new();
    for file in files(".", ".rs") {
        let text = read(&file);
        let lines = text.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{file} has {lines} lines; split it by topic"));
        }
        let is_test = file.contains("/tests/") || file.ends_with("/tests.rs");
        if !is_test && !text.starts_with("//!") {
            complaints.push(format!("{file} does not begin by saying what it is"));
        }
    }
    none(&complaints);
}

#[test]
fn nothing_is_switched_off_or_left_for_later() {
    // Each word is put together here, so that this file does not complain about itself.
    let words = [
        ["#[ig", "nore"],
        ["todo", "!("],
        ["unimple", "mented!("],
        ["FIX", "ME"],
        ["TO", "DO:"],
        ["XX", "X:"],
    ]
    .map(|parts| parts.concat());
    let mut complaints = Vec::new();
    for file in files(".", ".rs") {
        let text = read(&file);
        for (index, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                complaints.push(format!("{file}:{}: `{word}`", index + 1));
            }
        }
    }
    none(&complaints);
}
