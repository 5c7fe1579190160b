//! The names that exist, and the nearest of them to a name that does not.

use std::collections::BTreeSet;

use cedar_policy::EntityUid;
use taskpass_core::{AgentName, ProviderName, RoleName};

use crate::view::Kind;

/// The names that exist, for references in policies to be compared with. `None` where they are not
/// known.
#[derive(Debug, Clone, Default)]
pub struct KnownNames {
    /// Configured providers.
    pub providers: Option<BTreeSet<ProviderName>>,
    /// Configured roles.
    pub roles: Option<BTreeSet<RoleName>>,
    /// Classes of registered agents.
    pub classes: Option<BTreeSet<AgentName>>,
}

/// The known names of one kind.
pub(super) struct Catalogue {
    kind: Kind,
    names: BTreeSet<String>,
    absent: &'static str,
}

impl Catalogue {
    /// The kinds of which the names are known.
    pub(super) fn all(known: &KnownNames) -> Vec<Self> {
        [
            Self::of(Kind::Role, known.roles.as_ref(), "configured"),
            Self::of(Kind::Provider, known.providers.as_ref(), "configured"),
            Self::of(
                Kind::AgentClass,
                known.classes.as_ref(),
                "the class of any agent",
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn of<T: ToString>(
        kind: Kind,
        names: Option<&BTreeSet<T>>,
        absent: &'static str,
    ) -> Option<Self> {
        let names = names?.iter().map(ToString::to_string).collect();
        Some(Self {
            kind,
            names,
            absent,
        })
    }

    /// Message and hint when `uid` is of this kind but not known.
    pub(super) fn miss(&self, uid: &EntityUid) -> Option<(String, Option<String>)> {
        let id = uid.id().unescaped();
        if uid.type_name().to_string() != self.kind.as_str() || self.names.contains(id) {
            return None;
        }
        let nearest = nearest(&self.names, id);
        Some((format!("`{uid}` is not {}", self.absent), nearest))
    }
}

/// A hint at the name most like `wanted`, if one is similar enough.
pub(super) fn nearest<'a>(
    names: impl IntoIterator<Item = &'a String>,
    wanted: &str,
) -> Option<String> {
    let unqualified = format!("::{wanted}");
    names
        .into_iter()
        .map(|name| match name.ends_with(&unqualified) {
            true => (0, name),
            false => (distance(name, wanted), name),
        })
        .min()
        .filter(|(distance, _)| *distance <= wanted.chars().count().div_ceil(3))
        .map(|(_, name)| format!("did you mean `{name}`?"))
}

/// Levenshtein distance in characters.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        let mut next = Vec::with_capacity(row.len());
        next.push(left);
        for (above, y) in row.iter().skip(1).zip(b.chars()) {
            left = (diagonal + usize::from(x != y))
                .min(left + 1)
                .min(above + 1);
            diagonal = *above;
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
