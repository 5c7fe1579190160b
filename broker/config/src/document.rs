//! A TOML file: parsed once, checked against a schema, and handed on as JSON.

use serde_json::{Map, Value};
use toml::{
    Spanned,
    de::{DeFloat, DeTable, DeValue},
};

use crate::{
    Complaints,
    schema::Node,
    walk::{Table, Walker, integer},
};

/// A parsed file that still knows where everything stands.
#[derive(Debug)]
pub struct Document<'t> {
    top: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    /// Parses the text. `None` when it is not TOML: complaints about the recovered part of it would
    /// not be true.
    pub fn parse(text: &'t str, complaints: &mut Complaints<'_>) -> Option<Self> {
        let (top, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            let offset = error.span().map_or(text.len(), |span| span.start);
            complaints.add(offset, format!("this is not TOML: {}", error.message()));
        }
        errors.is_empty().then_some(Self { top })
    }

    /// The readable part of a text that need not be TOML. Complaints about the rest would not be
    /// true.
    pub fn recover(text: &'t str) -> Self {
        let (top, _errors) = DeTable::parse_recoverable(text);
        Self { top }
    }

    /// Complains about everything in the file that the schema does not allow.
    pub fn check(&self, schema: &Value, complaints: &mut Complaints<'_>) {
        let top = Table::new(String::new(), 0, self.top.get_ref());
        let node = Node::root(schema);
        Walker::new(node, complaints).table(&top, node);
    }

    /// Whether the table behind a JSON pointer is all that its schema allows.
    pub fn fits(&self, pointer: &str, schema: &Value) -> bool {
        let (Some(found), _) = self.look(pointer) else {
            return false;
        };
        let DeValue::Table(entries) = found.get_ref() else {
            return false;
        };
        let mut complaints = Complaints::new("", "");
        let node = Node::root(schema);
        let table = Table::new(String::new(), 0, entries);
        Walker::new(node, &mut complaints).table(&table, node);
        complaints.count() == 0
    }

    /// Where the value behind a JSON pointer stands.
    pub fn find(&self, pointer: &str) -> Option<usize> {
        self.look(pointer).0.map(|found| found.span().start)
    }

    /// Where the value behind a JSON pointer stands, or else the nearest table or list around it.
    pub fn place(&self, pointer: &str) -> usize {
        self.look(pointer).1
    }

    /// The value behind a JSON pointer, and the offset of the last value on the way to it.
    fn look(&self, pointer: &str) -> (Option<&Spanned<DeValue<'t>>>, usize) {
        let mut offset = 0;
        let mut value: Option<&Spanned<DeValue<'t>>> = None;
        for token in pointer.split('/').skip(1) {
            let name = token.replace("~1", "/").replace("~0", "~");
            let next = match value.map(Spanned::get_ref) {
                None => self.top.get_ref().get(name.as_str()),
                Some(DeValue::Table(entries)) => entries.get(name.as_str()),
                Some(DeValue::Array(items)) => name
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index)),
                Some(_) => None,
            };
            let Some(next) = next else {
                return (None, offset);
            };
            offset = next.span().start;
            value = Some(next);
        }
        (value, offset)
    }

    /// The whole file as JSON.
    pub fn to_json(&self) -> Value {
        table_to_json(self.top.get_ref())
    }
}

fn table_to_json(table: &DeTable<'_>) -> Value {
    let pair = |(key, value): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
        (
            AsRef::<str>::as_ref(key.get_ref()).to_owned(),
            to_json(value.get_ref()),
        )
    };
    Value::Object(table.iter().map(pair).collect::<Map<_, _>>())
}

fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Integer(number) => integer(number).map_or_else(
            || Value::from(number.as_str()),
            // JSON numbers go from the least i64 to the largest u64.
            |number| match (u64::try_from(number), i64::try_from(number)) {
                (Ok(number), _) => Value::from(number),
                (_, Ok(number)) => Value::from(number),
                _ => Value::from(number.to_string()),
            },
        ),
        DeValue::Float(number) => float(number),
        DeValue::Boolean(word) => Value::from(*word),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Array(items) => items.iter().map(|item| to_json(item.get_ref())).collect(),
        DeValue::Table(table) => table_to_json(table),
    }
}

/// Not-a-number and infinity are no numbers of JSON and become texts.
fn float(number: &DeFloat<'_>) -> Value {
    let parsed: Option<f64> = number.as_str().parse().ok();
    parsed
        .and_then(serde_json::Number::from_f64)
        .map_or_else(|| Value::from(number.as_str()), Value::Number)
}
