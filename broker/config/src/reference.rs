//! The page that explains every key, written from the schema that checks the file.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    schema::{Choice, Node, Others, Shape, Tagged},
    wording::{either, range},
};

/// The page as Markdown: `introduction`, and then every table and key of the schema.
pub fn markdown(schema: &Value, introduction: &str) -> String {
    let root = Node::root(schema);
    let mut page = Page(introduction.to_owned());
    page.heading("##", "Top level", "");
    for (name, node) in root.properties() {
        if !has_keys(node) {
            page.entry(name, node, &presence(root, name, node), "");
        }
    }
    for (name, node) in root.properties() {
        let about = node.doc().unwrap_or_default();
        match node.resolved().shape() {
            Shape::Table | Shape::Tagged(_) => {
                page.table("##", &format!("`[{name}]`"), about, name, node.resolved());
            }
            Shape::List(item) if has_keys(item) => page.list(name, about, item.resolved()),
            _ => {}
        }
    }
    page.0
}

/// A place in the text where the next lines go.
struct Page(String);

impl Page {
    /// A list of tables at the top level: each of its variants is a part of its own.
    fn list(&mut self, path: &str, about: &str, item: Node<'_>) {
        let Shape::Tagged(Tagged { tag, variants }) = item.shape() else {
            return self.table("##", &format!("`[[{path}]]`"), about, path, item);
        };
        self.heading("##", &format!("`[[{path}]]`"), about);
        for (word, node) in variants {
            let name = format!("`[[{path}]]` with `{tag} = \"{word}\"`");
            self.table("###", &name, node.doc().unwrap_or_default(), path, node);
        }
    }

    /// A table and then every table inside it.
    fn table(&mut self, level: &str, name: &str, about: &str, path: &str, node: Node<'_>) {
        self.heading(level, name, about);
        let below = if let Shape::Tagged(tagged) = node.shape() {
            self.tagged(&tagged)
        } else {
            let properties = node.properties();
            for (key, property) in &properties {
                self.entry(key, *property, &presence(node, key, *property), "");
            }
            properties
        };
        for (key, property) in below {
            let path = format!("{path}.{key}");
            if let Some((name, path, inner)) = with_keys(path, property.resolved()) {
                let about = property.doc().unwrap_or_default();
                self.table("####", &name, about, &path, inner);
            }
        }
    }

    /// The keys of a tagged table: the tag, and then the keys of each variant, which are returned.
    fn tagged<'s>(&mut self, Tagged { tag, variants }: &Tagged<'s>) -> Vec<(&'s str, Node<'s>)> {
        let words: Vec<&str> = variants.iter().map(|(word, _)| *word).collect();
        let choices = variants.iter().map(|(word, node)| Choice {
            word,
            doc: node.doc(),
        });
        self.line(tag, &either(&words), "*required*", "");
        self.choices(choices);
        let mut below = Vec::new();
        for (word, node) in variants {
            for (key, property) in node.properties() {
                if key != *tag {
                    let only = format!("With `{tag} = \"{word}\"`: ");
                    self.entry(key, property, &presence(*node, key, property), &only);
                    below.push((key, property));
                }
            }
        }
        below
    }

    fn heading(&mut self, level: &str, name: &str, about: &str) {
        let paragraph = match about {
            "" => String::new(),
            about => format!("\n{}\n", joined(about)),
        };
        // Writing to a String cannot fail.
        let _infallible = write!(self.0, "\n{level} {name}\n{paragraph}");
    }

    fn entry(&mut self, name: &str, node: Node<'_>, presence: &str, only: &str) {
        let doc = joined(node.doc().unwrap_or_default());
        self.line(name, &what(node), presence, &format!("{only}{doc}"));
        if let Shape::Choice(choices) = node.resolved().shape() {
            self.choices(choices.into_iter());
        }
    }

    fn line(&mut self, name: &str, what: &str, presence: &str, doc: &str) {
        let doc = match doc {
            "" => String::new(),
            doc => format!("  {doc}\n"),
        };
        let _infallible = write!(self.0, "\n- **`{name}`** — {what}; {presence}.\n{doc}");
    }

    fn choices<'s>(&mut self, choices: impl Iterator<Item = Choice<'s>>) {
        for Choice { word, doc } in choices {
            if let Some(doc) = doc {
                let _infallible = writeln!(self.0, "  - `\"{word}\"`: {}", joined(doc));
            }
        }
    }
}

/// The heading, path and node of a table or list at `path` that the reference has a heading for.
fn with_keys(path: String, node: Node<'_>) -> Option<(String, String, Node<'_>)> {
    match (node.shape(), node.others()) {
        (Shape::List(item), _) if has_keys(item) => {
            Some((format!("`[[{path}]]`"), path, item.resolved()))
        }
        (Shape::Table, Others::Each(each)) if has_keys(each) => {
            let path = format!("{path}.NAME");
            Some((format!("`[{path}]`"), path, each.resolved()))
        }
        (Shape::Table | Shape::Tagged(_), _) if has_keys(node) => {
            Some((format!("`[{path}]`"), path, node))
        }
        _ => None,
    }
}

/// Whether the reference has a heading for it.
fn has_keys(node: Node<'_>) -> bool {
    let node = node.resolved();
    match node.shape() {
        Shape::Tagged(_) => true,
        Shape::Table => match node.others() {
            Others::Each(each) => !node.properties().is_empty() || has_keys(each),
            Others::Refused => true,
        },
        Shape::List(item) => has_keys(item),
        _ => false,
    }
}

/// The type and the range, in few words.
fn what(node: Node<'_>) -> String {
    let node = node.resolved();
    let type_word = match (node.format(), node.shape()) {
        (Some(format), _) => format.short.to_owned(),
        (None, Shape::Any) => "any value".to_owned(),
        (None, Shape::Boolean) => "true or false".to_owned(),
        (None, Shape::Integer) => "whole number".to_owned(),
        (None, Shape::Number) => "number".to_owned(),
        (None, Shape::Text) => "text".to_owned(),
        (None, Shape::Choice(choices)) => {
            either(&choices.iter().map(|choice| choice.word).collect::<Vec<_>>())
        }
        (None, Shape::List(item)) if has_keys(item) => "list of tables, see below".to_owned(),
        (None, Shape::List(item)) => format!("list of {}", plural(&what(item))),
        (None, Shape::Table | Shape::Tagged(_)) if has_keys(node) => "table, see below".to_owned(),
        (None, Shape::Table | Shape::Tagged(_)) => match node.others() {
            Others::Each(each) if !matches!(each.resolved().shape(), Shape::Any) => {
                format!("table, each value a {}", what(each))
            }
            _ => "table".to_owned(),
        },
    };
    let bound = |of_numbers, of_texts| {
        let bound = node
            .keyword(of_numbers)
            .or_else(|| node.keyword(of_texts))?;
        Some(
            bound
                .as_str()
                .map_or_else(|| bound.to_string(), str::to_owned),
        )
    };
    match (
        bound("minimum", "formatMinimum"),
        bound("maximum", "formatMaximum"),
    ) {
        (None, None) => type_word,
        // Every unsigned number begins at 0.
        (Some(from), None) if from == "0" => type_word,
        (from, to) => format!("{type_word} {}", range(from, to)),
    }
}

fn plural(word: &str) -> String {
    format!("{word}s")
}

/// Whether the key must be there, or else its default.
fn presence(table: Node<'_>, name: &str, node: Node<'_>) -> String {
    if table.required().contains(&name) {
        return "*required*".to_owned();
    }
    match node.keyword("default") {
        None | Some(Value::Null) => "optional".to_owned(),
        Some(Value::Array(items)) if items.is_empty() => "optional".to_owned(),
        Some(Value::Object(entries)) if entries.is_empty() => "optional".to_owned(),
        Some(default) => format!("default `{default}`"),
    }
}

/// The lines of a comment as one.
fn joined(doc: &str) -> String {
    doc.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_kind_of_key_is_explained() {
        let schema = json!({
            "properties": {
                "name": { "type": "string", "description": "What it is called." },
                "limits": { "type": "object", "additionalProperties": false, "description": "Bounds.", "properties": {
                    "wait": { "type": "string", "format": "duration", "formatMinimum": "1s", "formatMaximum": "1h", "default": "5s" },
                } },
                "thing": { "type": "array", "items": { "oneOf": [
                    { "type": "object", "additionalProperties": false, "description": "An a.", "required": ["kind"], "properties": {
                        "kind": { "const": "a" },
                        "roles": { "type": "array", "items": { "type": "string" }, "default": [] },
                    } },
                ] } },
            },
            "required": ["name"],
        });
        let page = markdown(&schema, "# Page\n");
        for part in [
            "# Page\n\n## Top level\n\n- **`name`** — text; *required*.\n  What it is called.\n",
            "\n## `[limits]`\n\nBounds.\n\n- **`wait`** — duration from 1s to 1h; default `\"5s\"`.\n",
            "\n### `[[thing]]` with `kind = \"a\"`\n\nAn a.\n\n- **`kind`** — \"a\"; *required*.\n",
            "- **`roles`** — list of texts; optional.\n",
        ] {
            assert!(page.contains(part), "{part}\nis not in\n{page}");
        }
    }
}
