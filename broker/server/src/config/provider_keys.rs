//! The keys of `[[provider]]`, by kind: what may be written, and what the reference says about it.
//!
//! The providers' own packages read and check the values; a test compares these tables with the types they read into.

/// A kind of provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(crate) enum Kind {
    Vault,
    Aws,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Vault, Self::Aws];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Vault => "vault",
            Self::Aws => "aws",
        }
    }

    pub(crate) const fn keys(self) -> &'static [ProviderKey] {
        match self {
            Self::Vault => super::vault_keys::PROVIDER,
            Self::Aws => super::aws_keys::PROVIDER,
        }
    }
}

/// One key of a provider's tables.
#[derive(Debug)]
pub(crate) struct ProviderKey {
    pub(crate) name: &'static str,
    pub(crate) doc: &'static str,
    pub(crate) presence: Presence,
    pub(crate) shape: Shape,
}

/// Whether a key must be there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    /// With what stands for it when it is not.
    Default(&'static str),
}

/// What is written behind a key.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A plain value: what it is, in words.
    Plain(&'static str),
    /// A path, relative to the configuration file.
    Path,
    /// A table with keys of its own.
    Table(&'static [ProviderKey]),
    /// A list of tables `[[provider.<key>]]`.
    Tables(&'static [ProviderKey]),
    /// A table with names of the writer's choice, each with a table of these keys.
    Named(&'static [ProviderKey]),
}

/// A key that must be there.
pub(crate) const fn required(name: &'static str, shape: Shape, doc: &'static str) -> ProviderKey {
    ProviderKey {
        name,
        doc,
        presence: Presence::Required,
        shape,
    }
}

/// A key that may be left out.
pub(crate) const fn optional(
    name: &'static str,
    shape: Shape,
    default: &'static str,
    doc: &'static str,
) -> ProviderKey {
    ProviderKey {
        name,
        doc,
        presence: Presence::Default(default),
        shape,
    }
}

/// A text in quotes.
pub(crate) const TEXT: Shape = Shape::Plain("a string");
/// A lifetime in quotes.
pub(crate) const LIFETIME: Shape = Shape::Plain("a lifetime in quotes, like \"15m\"");
/// A number from 0 to 3.
pub(crate) const IMPACT: Shape = Shape::Plain("a number from 0 to 3");
/// A list of texts.
pub(crate) const TEXTS: Shape = Shape::Plain("a list of strings");
/// A switch.
pub(crate) const BOOLEAN: Shape = Shape::Plain("true or false");
/// A whole number.
pub(crate) const NUMBER: Shape = Shape::Plain("a whole number");

pub(crate) const NAME_DOC: &str =
    "The provider's name, the part before the slash in `<provider>/<role>`. Unique in the file.";
pub(crate) const ROLE_NAME_DOC: &str =
    "The role's name, the part after the slash in `<provider>/<role>`. Unique in the provider.";
pub(crate) const IMPACT_DOC: &str = "How much harm a credential can do: 0 reads, 1 writes that can be undone, 2 cannot be undone or is seen outside, \
     3 administration.";
pub(crate) const ENVIRONMENT_DOC: &str =
    "The environment it touches, such as `prod`; for policies.";
pub(crate) const DATA_CLASSES_DOC: &str =
    "The classes of data it can read, such as `customer`; for policies.";
pub(crate) const PARAMS_DOC: &str = "The parameters an agent may give, each with exactly one rule: `{ name = { pattern = \"[a-z]+\" } }`.";

/// The rule of one parameter.
pub(crate) const PARAM: &[ProviderKey] = &[
    optional(
        "pattern",
        TEXT,
        "none",
        "A regular expression that the whole value must match; compiled, it may take 5 MiB.",
    ),
    optional("one_of", TEXTS, "none", "The values that are allowed."),
    optional(
        "max",
        NUMBER,
        "none",
        "The largest allowed number; the smallest is 0.",
    ),
];
