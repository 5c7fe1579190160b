//! One table of the configuration, declared once: its keys, their types, defaults, ranges and texts become the struct,
//! the reader and the reference.

use std::ops::RangeInclusive;

use super::{
    reader::{Reader, Table},
    value::Value,
};

/// What the reference says about one key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static [&'static str],
    pub(crate) expects: &'static str,
    /// As it is written in the file; `None` for a key that must be there.
    pub(crate) default: Option<String>,
    /// From and to, as they are written in the file.
    pub(crate) range: Option<(String, String)>,
}

/// A table of the configuration in which every key has a default.
pub(crate) trait Section: Sized {
    /// The name between the brackets.
    const TABLE: &'static str;
    /// What the table is about.
    const DOC: &'static [&'static str];

    /// The keys in the order of the reference.
    fn keys() -> Vec<Key>;

    /// Reads the keys that are there. Complaints go to the reader, and the default stands in.
    fn read(reader: &mut Reader<'_>, table: Option<&Table<'_>>) -> Self;
}

/// What the reference says about a range.
pub(crate) fn shown<T: Value>(range: Option<&RangeInclusive<T>>) -> Option<(String, String)> {
    range.map(|range| (range.start().show(), range.end().show()))
}

/// Declares a section:
///
/// ```text
/// section! {
///     /// What it is about.
///     Limits = "limits" {
///         /// What the key does, with the unit.
///         connections: usize = 4096, 1..=100_000;
///     }
/// }
/// ```
macro_rules! section {
    (
        $(#[doc = $doc:literal])*
        $name:ident = $table:literal {
            $(
                $(#[doc = $key_doc:literal])*
                $key:ident : $type:ty = $default:expr $(, $range:expr)? ;
            )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $(
                $(#[doc = $key_doc])*
                pub $key: $type,
            )*
        }

        impl $crate::config::section::Section for $name {
            const TABLE: &'static str = $table;
            const DOC: &'static [&'static str] = &[$($doc),*];

            fn keys() -> Vec<$crate::config::section::Key> {
                vec![$(
                    $crate::config::section::Key {
                        name: stringify!($key),
                        doc: &[$($key_doc),*],
                        expects: <$type as $crate::config::value::Value>::EXPECTS,
                        default: Some(<$type as $crate::config::value::Value>::show(&$default)),
                        range: $crate::config::section::shown::<$type>(
                            $crate::config::section::range!($($range)?).as_ref()
                        ),
                    },
                )*]
            }

            fn read(
                reader: &mut $crate::config::reader::Reader<'_>,
                table: Option<&$crate::config::reader::Table<'_>>,
            ) -> Self {
                if let Some(table) = table {
                    reader.known_keys(table, &[$(stringify!($key)),*]);
                }
                Self {
                    $(
                        $key: table
                            .and_then(|table| reader.value::<$type>(
                                table,
                                stringify!($key),
                                $crate::config::section::range!($($range)?),
                            ))
                            .unwrap_or_else(|| $default),
                    )*
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }
    };
}

/// The range of a key, if one was given.
macro_rules! range {
    () => {
        None
    };
    ($range:expr) => {
        Some($range)
    };
}

pub(crate) use {range, section};
