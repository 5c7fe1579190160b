//! A table of the configuration, declared once by the part of the program it is for.

use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};

use crate::Setting;

/// A table of the configuration in which every key has a default. [`section!`](crate::section!)
/// makes one.
pub trait Section: Sized + Default {
    /// The name between the brackets.
    const TABLE: &'static str;

    /// The table as a JSON schema.
    fn schema() -> Value;

    /// Reads the keys that are there; the default stands in for a key that is left out or wrong.
    /// Calls `complain` with the key and the mistake if a value fits the schema and is still wrong.
    fn read(table: Option<&Value>, complain: &mut dyn FnMut(&'static str, String)) -> Self;

    /// Every key with its value, as it is written in the file.
    fn values(&self) -> Vec<(&'static str, Value)>;
}

/// The schema of one key: the values of its type, within `range`, with text and default.
pub fn describe<T: Setting>(doc: &[&str], default: &T, range: Option<&RangeInclusive<T>>) -> Value {
    let mut schema = T::schema();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), Value::from(prose(doc)));
        schema.insert("default".to_owned(), default.write());
        if let Some(range) = range {
            bound(schema, ["minimum", "formatMinimum"], range.start().write());
            bound(schema, ["maximum", "formatMaximum"], range.end().write());
        }
    }
    schema
}

/// JSON schemas have one keyword for the bounds of numbers and another one for the length of texts.
fn bound(schema: &mut Map<String, Value>, [of_numbers, of_texts]: [&str; 2], bound: Value) {
    let keyword = if bound.is_number() {
        of_numbers
    } else {
        of_texts
    };
    schema.insert(keyword.to_owned(), bound);
}

/// The value of `key` in `table`, or `default`.
pub fn read_key<T: Setting>(
    table: Option<&Value>,
    key: &'static str,
    default: T,
    complain: &mut dyn FnMut(&'static str, String),
) -> T {
    let Some(value) = table.and_then(|table| table.get(key)) else {
        return default;
    };
    T::read(value).unwrap_or_else(|message| {
        complain(key, message);
        default
    })
}

/// The schema of a table with these keys.
#[doc(hidden)]
pub fn table<const N: usize>(doc: &[&str], keys: [(&str, Value); N]) -> Value {
    let keys: Map<String, Value> = keys
        .into_iter()
        .map(|(name, schema)| (name.to_owned(), schema))
        .collect();
    json!({
        "type": "object",
        "description": prose(doc),
        "additionalProperties": false,
        "properties": keys,
    })
}

/// The lines of a comment as one.
fn prose(doc: &[&str]) -> String {
    let lines: Vec<&str> = doc.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// Declares a section: the struct, its defaults, its schema and its reader.
///
/// ```
/// use std::time::Duration;
/// use taskpass_config::Section as _;
///
/// taskpass_config::section! {
///     /// What it is about.
///     #[derive(Copy, Eq)]
///     pub struct Limits in "limits" {
///         /// What the key does.
///         connections: usize = 4096, 1..=100_000;
///         /// Another one.
///         timeout: Duration = Duration::from_secs(5);
///     }
/// }
///
/// let file = serde_json::json!({ "connections": 7 });
/// let limits = Limits::read(Some(&file), &mut |key, wrong| panic!("`{key}` {wrong}"));
/// assert_eq!(limits, Limits { connections: 7, ..Limits::default() });
/// assert_eq!(limits.values()[0], ("connections", 7.into()));
/// assert_eq!(Limits::schema()["properties"]["timeout"]["default"], "5s");
/// ```
#[macro_export]
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:ident),*)])?
        pub struct $name:ident in $table:literal {
            $(
                $(#[doc = $key_doc:literal])*
                $key:ident : $type:ty = $default:expr $(, $range:expr)? ;
            )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq $($(, $derive)*)?)]
        pub struct $name {
            $(
                $(#[doc = $key_doc])*
                pub $key: $type,
            )*
        }

        impl $crate::Section for $name {
            const TABLE: &'static str = $table;

            fn schema() -> $crate::serde_json::Value {
                $crate::section::table(
                    &[$($doc),*],
                    [$((stringify!($key), $crate::describe::<$type>(
                        &[$($key_doc),*],
                        &$default,
                        $crate::section!(@range $($range)?).as_ref(),
                    ))),*],
                )
            }

            fn read(
                table: Option<&$crate::serde_json::Value>,
                complain: &mut dyn FnMut(&'static str, String),
            ) -> Self {
                Self {
                    $($key: $crate::read_key(table, stringify!($key), $default, complain),)*
                }
            }

            fn values(&self) -> Vec<(&'static str, $crate::serde_json::Value)> {
                vec![$((stringify!($key), $crate::Setting::write(&self.$key))),*]
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    };
    (@range) => { None };
    (@range $range:expr) => { Some($range) };
}
