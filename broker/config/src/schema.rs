//! A JSON schema, as far as a configuration file needs it.
//!
//! Schemas come from `schemars`, from [`crate::section!`], and one day from providers in processes
//! of their own; the last may be of any make. A keyword that is not read here allows everything:
//! the owner of the schema checks the values again.

use serde_json::Value;

use crate::format::{Format, format};

/// The most references that are followed from one node, so that a schema cannot lead in a circle.
const REFERENCES_MAX: usize = 16;

/// One node of a schema.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node<'s> {
    root: &'s Value,
    value: &'s Value,
}

/// The values that a node allows.
#[derive(Debug)]
pub(crate) enum Shape<'s> {
    /// Any value, or a schema that this module does not read.
    Any,
    Boolean,
    Integer,
    Number,
    Text,
    /// One of these words.
    Choice(Vec<Choice<'s>>),
    /// A list of such values.
    List(Node<'s>),
    /// A table with keys.
    Table,
    /// A table in which one key says which other keys there are.
    Tagged(Tagged<'s>),
}

/// One word of a choice.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice<'s> {
    pub(crate) word: &'s str,
    pub(crate) doc: Option<&'s str>,
}

/// The variants of a table by the word behind its key `tag`.
#[derive(Debug)]
pub(crate) struct Tagged<'s> {
    pub(crate) tag: &'s str,
    pub(crate) variants: Vec<(&'s str, Node<'s>)>,
}

/// The keys that a table may hold besides its named ones.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Others<'s> {
    Refused,
    Each(Node<'s>),
}

impl<'s> Node<'s> {
    pub(crate) const fn root(schema: &'s Value) -> Self {
        Self {
            root: schema,
            value: schema,
        }
    }

    const fn at(self, value: &'s Value) -> Self {
        Self { value, ..self }
    }

    pub(crate) fn keyword(self, name: &str) -> Option<&'s Value> {
        self.value.get(name)
    }

    fn text(self, keyword: &str) -> Option<&'s str> {
        self.keyword(keyword)?.as_str()
    }

    /// Its description, or else the description of the node that it refers to.
    pub(crate) fn doc(self) -> Option<&'s str> {
        self.text("description")
            .or_else(|| self.resolved().text("description"))
    }

    pub(crate) fn format(self) -> Option<&'static Format> {
        format(self.text("format")?)
    }

    pub(crate) fn format_name(self) -> Option<&'s str> {
        self.text("format")
    }

    /// The node behind references, and without the `null` that stands for a key that is left out.
    pub(crate) fn resolved(self) -> Self {
        let mut node = self;
        for _ in 0..REFERENCES_MAX {
            let Some(next) = node.target() else { break };
            node = next;
        }
        node
    }

    fn target(self) -> Option<Self> {
        if let Some(path) = self
            .text("$ref")
            .and_then(|reference| reference.strip_prefix('#'))
        {
            return self.root.pointer(path).map(|value| self.at(value));
        }
        let keywords = ["anyOf", "oneOf", "allOf"];
        let alternatives = keywords
            .iter()
            .find_map(|keyword| self.keyword(keyword))?
            .as_array()?;
        let is_optional = alternatives.iter().any(is_null) || self.keyword("allOf").is_some();
        let mut real = alternatives
            .iter()
            .filter(|alternative| !is_null(alternative));
        match (real.next(), real.next()) {
            (Some(only), None) if is_optional => Some(self.at(only)),
            _ => None,
        }
    }

    /// The values that the node allows. INVARIANT: called on a resolved node.
    pub(crate) fn shape(self) -> Shape<'s> {
        if let Some(alternatives) = self.alternatives() {
            return alternatives;
        }
        if let Some(words) = self.words() {
            return Shape::Choice(words);
        }
        match self.types().as_slice() {
            ["boolean"] => Shape::Boolean,
            ["integer"] => Shape::Integer,
            ["number"] => Shape::Number,
            ["string"] => Shape::Text,
            ["array"] => self
                .keyword("items")
                .map_or(Shape::Any, |items| Shape::List(self.at(items))),
            ["object"] => Shape::Table,
            _ => Shape::Any,
        }
    }

    /// The types that are named, without `null`.
    fn types(self) -> Vec<&'s str> {
        let named = match self.keyword("type") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        named.into_iter().filter(|name| *name != "null").collect()
    }

    /// The words of a node that is a `const` or an `enum` of texts.
    fn words(self) -> Option<Vec<Choice<'s>>> {
        let doc = self.text("description");
        if let Some(word) = self.text("const") {
            return Some(vec![Choice { word, doc }]);
        }
        let words = self
            .keyword("enum")?
            .as_array()?
            .iter()
            .filter(|word| !word.is_null());
        words
            .map(|word| {
                Some(Choice {
                    word: word.as_str()?,
                    doc: None,
                })
            })
            .collect()
    }

    /// The meaning of a `oneOf` or `anyOf` in one of the two forms that this module reads.
    fn alternatives(self) -> Option<Shape<'s>> {
        let alternatives = self
            .keyword("oneOf")
            .or_else(|| self.keyword("anyOf"))?
            .as_array()?;
        let nodes: Vec<Self> = alternatives
            .iter()
            .filter(|alternative| !is_null(alternative))
            .map(|alternative| self.at(alternative).resolved())
            .collect();
        let words: Option<Vec<_>> = nodes.iter().map(|node| node.words()).collect();
        if let Some(words) = words {
            return Some(Shape::Choice(words.into_iter().flatten().collect()));
        }
        let tagged = nodes
            .first()?
            .properties()
            .into_iter()
            .find_map(|(tag, _)| {
                let variants: Option<Vec<_>> = nodes
                    .iter()
                    .map(|node| Some((node.constant(tag)?, *node)))
                    .collect();
                Some(Tagged {
                    tag,
                    variants: variants?,
                })
            });
        Some(tagged.map_or(Shape::Any, Shape::Tagged))
    }

    /// The only word that the key may hold.
    fn constant(self, key: &str) -> Option<&'s str> {
        match self.property(key)?.resolved().shape() {
            Shape::Choice(words) => match words.as_slice() {
                [only] => Some(only.word),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn property(self, key: &str) -> Option<Self> {
        self.keyword("properties")?
            .get(key)
            .map(|value| self.at(value))
    }

    /// The keys of a table in the order of the schema.
    pub(crate) fn properties(self) -> Vec<(&'s str, Self)> {
        let properties = self.keyword("properties").and_then(Value::as_object);
        let entries = properties.into_iter().flatten();
        entries
            .map(|(name, value)| (name.as_str(), self.at(value)))
            .collect()
    }

    /// The keys that must be there.
    pub(crate) fn required(self) -> Vec<&'s str> {
        let names = self.keyword("required").and_then(Value::as_array);
        names
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    pub(crate) fn others(self) -> Others<'s> {
        match self.keyword("additionalProperties") {
            Some(Value::Bool(false)) => Others::Refused,
            Some(each) => Others::Each(self.at(each)),
            None => Others::Each(self.at(&Value::Bool(true))),
        }
    }
}

impl<'s> Tagged<'s> {
    pub(crate) fn words(&self) -> Vec<&'s str> {
        self.variants.iter().map(|(word, _)| *word).collect()
    }

    pub(crate) fn variant(&self, word: &str) -> Option<Node<'s>> {
        self.variants
            .iter()
            .find(|(known, _)| *known == word)
            .map(|(_, node)| *node)
    }
}

fn is_null(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn options_and_references_lead_to_the_thing_itself() {
        let schema = json!({
            "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "type": "string" }, "c": { "$ref": "#/$defs/c" } },
            "properties": {
                "reference": { "$ref": "#/$defs/a", "description": "d" },
                "option": { "anyOf": [{ "$ref": "#/$defs/a" }, { "type": "null" }] },
                "nullable": { "type": ["string", "null"] },
            },
        });
        let root = Node::root(&schema);
        for (name, node) in root.properties() {
            assert!(matches!(node.resolved().shape(), Shape::Text), "{name}");
        }
        assert_eq!(root.property("reference").and_then(Node::doc), Some("d"));
        let circle = schema.pointer("/$defs/c").map(|c| root.at(c).resolved());
        assert!(circle.is_some_and(|node| matches!(node.shape(), Shape::Any)));
    }

    #[test]
    fn words_and_variants_are_told_apart() {
        let schema = json!({
            "words": { "oneOf": [{ "const": "a", "description": "A." }, { "enum": ["b", "c"] }] },
            "variants": { "oneOf": [
                { "type": "object", "properties": { "size": { "type": "integer" }, "by": { "const": "x" } } },
                { "type": "object", "properties": { "by": { "const": "y" } } },
            ] },
            "neither": { "oneOf": [{ "type": "string" }, { "type": "object" }] },
        });
        let root = Node::root(&schema);
        let shape = |name: &str| root.at(&schema[name]).shape();
        assert!(matches!(shape("words"), Shape::Choice(words) if words.len() == 3));
        assert!(matches!(shape("neither"), Shape::Any));
        let Shape::Tagged(tagged) = shape("variants") else {
            panic!()
        };
        assert_eq!((tagged.tag, tagged.words()), ("by", vec!["x", "y"]));
    }
}
