//! Schemas and values in the words of a message.

use toml::de::DeValue;

use crate::schema::{Node, Shape};

/// `from 1 to 5`
pub(crate) fn range(from: Option<String>, to: Option<String>) -> String {
    match (from, to) {
        (Some(from), Some(to)) => format!("from {from} to {to}"),
        (Some(from), None) => format!("at least {from}"),
        (None, Some(to)) => format!("at most {to}"),
        (None, None) => "a smaller number".to_owned(),
    }
}

/// The values that a node allows, in words.
pub(crate) fn expects(node: Node<'_>) -> String {
    let node = node.resolved();
    if let Some(format) = node.format() {
        return format.expects.to_owned();
    }
    match node.shape() {
        Shape::Any => "a value".to_owned(),
        Shape::Boolean => "true or false".to_owned(),
        Shape::Integer => "a whole number".to_owned(),
        Shape::Number => "a number".to_owned(),
        Shape::Text => "a string".to_owned(),
        Shape::Choice(choices) => {
            either(&choices.iter().map(|choice| choice.word).collect::<Vec<_>>())
        }
        Shape::List(item) => list_of(item),
        Shape::Table | Shape::Tagged(_) => "a table".to_owned(),
    }
}

pub(crate) fn list_of(item: Node<'_>) -> String {
    match item.resolved().shape() {
        Shape::Table | Shape::Tagged(_) => "a list of tables".to_owned(),
        Shape::Text | Shape::Choice(_) => "a list of strings".to_owned(),
        Shape::Integer | Shape::Number => "a list of numbers".to_owned(),
        _ => "a list".to_owned(),
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

/// `"a", "b" or "c"`
pub(crate) fn either(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// The type of a value in TOML's words.
pub(crate) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
