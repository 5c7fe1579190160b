//! Finds values in a configuration by their schema.

use serde_json::Value;

use crate::schema::{Node, Others, Shape};

/// Calls `then` with the format and every text that the schema gives a format, in `value` and below
/// it. The files with secrets are found this way, without knowing a single key.
pub fn each_formatted(value: &Value, schema: &Value, then: &mut dyn FnMut(&str, &str)) {
    visit(value, Node::root(schema), then);
}

fn visit(value: &Value, node: Node<'_>, then: &mut dyn FnMut(&str, &str)) {
    let node = node.resolved();
    match (node.shape(), value) {
        (Shape::Text, Value::String(text)) => {
            if let Some(format) = node.format_name() {
                then(format, text);
            }
        }
        (Shape::List(item), Value::Array(items)) => {
            for value in items {
                visit(value, item, then);
            }
        }
        (Shape::Tagged(tagged), value) => {
            let word = value.get(tagged.tag).and_then(Value::as_str);
            if let Some(variant) = word.and_then(|word| tagged.variant(word)) {
                visit(value, variant, then);
            }
        }
        (Shape::Table, Value::Object(entries)) => {
            for (key, value) in entries {
                match (node.property(key), node.others()) {
                    (Some(property), _) => visit(value, property, then),
                    (None, Others::Each(each)) => visit(value, each, then),
                    (None, Others::Refused) => {}
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn formatted_texts_are_found_wherever_they_are() {
        let path = json!({ "type": "string", "format": "path" });
        let schema = json!({
            "type": "object",
            "properties": {
                "a": path,
                "list": { "type": "array", "items": { "type": "object", "properties": { "b": path } } },
                "tagged": { "oneOf": [
                    { "type": "object", "properties": { "is": { "const": "x" }, "c": path } },
                    { "type": "object", "properties": { "is": { "const": "y" }, "c": { "type": "string" } } },
                ] },
                "named": { "type": "object", "additionalProperties": path },
                "plain": { "type": "string" },
            },
        });
        let value = json!({
            "a": "1", "list": [{ "b": "2" }], "tagged": { "is": "x", "c": "3" }, "named": { "n": "4" }, "plain": "5",
        });
        let mut found = Vec::new();
        each_formatted(&value, &schema, &mut |format, text| {
            found.push(format!("{format} {text}"))
        });
        found.sort();
        assert_eq!(found, ["path 1", "path 2", "path 3", "path 4"]);
    }
}
