//! Paths with `${param}`. A value from an agent can only become one segment, or a part of one.

use taskpass_core::{InvalidValue, ParamName, Scope, excerpt};

/// A path as written in the configuration, split into segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathTemplate {
    segments: Vec<Vec<Part>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Param(ParamName),
}

impl PathTemplate {
    pub(crate) fn parse(path: &str) -> Result<Self, InvalidValue> {
        let bad = |why: &str| {
            InvalidValue::new(format!(
                "`path = \"{}\"` {why}; write it as below /v1/, like `database/creds/ci`",
                excerpt(path)
            ))
        };
        let mut segments = Vec::new();
        for segment in path.split('/') {
            if matches!(segment, "" | "." | "..") {
                return Err(bad("has an empty, `.` or `..` segment"));
            }
            segments.push(parse_segment(segment)?);
        }
        let text_only = |parts: &[Part]| parts.iter().all(|part| matches!(part, Part::Text(_)));
        match segments
            .first()
            .map(|parts| (parts.as_slice(), text_only(parts)))
        {
            // The mount decides which engine answers. An agent must not choose it.
            Some((_, false)) => Err(bad("begins with a parameter")),
            Some(([Part::Text(mount)], true)) if matches!(mount.as_str(), "sys" | "v1") => {
                Err(bad("is not a path of a secrets engine"))
            }
            _ => Ok(Self { segments }),
        }
    }

    /// The parameters that must be given.
    pub(crate) fn params(&self) -> Vec<ParamName> {
        let mut names: Vec<ParamName> = Vec::new();
        for part in self.segments.iter().flatten() {
            if let Part::Param(name) = part
                && !names.contains(name)
            {
                names.push(name.clone());
            }
        }
        names
    }

    /// The path with the scope's values. The URL builder percent-encodes each segment later.
    pub(crate) fn render(&self, scope: &Scope) -> Result<String, InvalidValue> {
        let segments: Result<Vec<String>, _> = self
            .segments
            .iter()
            .map(|parts| render_segment(parts, scope))
            .collect();
        Ok(segments?.join("/"))
    }

    /// The segments before the first parameter.
    pub(crate) fn fixed_beginning(&self) -> String {
        let fixed = |parts: &Vec<Part>| match parts.as_slice() {
            [Part::Text(text)] => Some(text.clone()),
            _ => None,
        };
        let segments: Vec<String> = self.segments.iter().map_while(fixed).collect();
        segments.join("/")
    }

    /// Whether one of the segments is just `name`.
    pub(crate) fn has_segment(&self, name: &str) -> bool {
        self.segments
            .iter()
            .any(|parts| matches!(parts.as_slice(), [Part::Text(text)] if text == name))
    }
}

fn parse_segment(segment: &str) -> Result<Vec<Part>, InvalidValue> {
    let mut parts = Vec::new();
    let mut rest = segment;
    while let Some((text, after)) = rest.split_once("${") {
        let (name, tail) = after.split_once('}').ok_or_else(|| {
            InvalidValue::new(format!("`{}` has a `${{` without `}}`", excerpt(segment)))
        })?;
        if !text.is_empty() {
            parts.push(Part::Text(plain(text)?));
        }
        parts.push(Part::Param(name.parse()?));
        rest = tail;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(plain(rest)?));
    }
    Ok(parts)
}

fn plain(text: &str) -> Result<String, InvalidValue> {
    let allowed = |b: u8| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'_' | b'.' | b'~' | b'@' | b':' | b'+' | b'=' | b','
            )
    };
    if text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new(format!(
            "`{}` in a path may have letters, digits and -_.~@:+=, only",
            excerpt(text)
        )))
    }
}

fn render_segment(parts: &[Part], scope: &Scope) -> Result<String, InvalidValue> {
    let mut segment = String::new();
    for part in parts {
        match part {
            Part::Text(text) => segment.push_str(text),
            Part::Param(name) => {
                let value = scope.value(name.as_str()).ok_or_else(|| {
                    InvalidValue::new(format!("the scope lacks the parameter `{name}`"))
                })?;
                // Engines decode the path again and would see a slash in an encoded one.
                let hostile = value.is_empty()
                    || value
                        .chars()
                        .any(|c| matches!(c, '/' | '\\' | '?' | '#' | '%') || c.is_control());
                if hostile {
                    return Err(InvalidValue::new(format!(
                        "the value of `{name}` is empty or has one of / \\ ? # %, and would change the path"
                    )));
                }
                segment.push_str(value);
            }
        }
    }
    if matches!(segment.as_str(), "." | "..") {
        return Err(InvalidValue::new(
            "a scope value would climb out of the path",
        ));
    }
    Ok(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(pairs: &[(&str, &str)]) -> Scope {
        Scope::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn values_stay_in_their_segment() {
        let path = PathTemplate::parse("database/creds/${team}-${tier}").unwrap();
        assert_eq!(path.params().len(), 2);
        let rendered = path
            .render(&scope(&[("team", "a b"), ("tier", "ro")]))
            .unwrap();
        assert_eq!(rendered, "database/creds/a b-ro");
        for bad in ["", "a/b", "..\\x", "a?b", "a#b", "%2e%2e", "x%2fy"] {
            assert!(
                path.render(&scope(&[("team", bad), ("tier", "ro")]))
                    .is_err(),
                "{bad}"
            );
        }
        let alone = PathTemplate::parse("kv/data/${app}").unwrap();
        for bad in ["..", "."] {
            assert!(alone.render(&scope(&[("app", bad)])).is_err(), "{bad}");
        }
        assert!(alone.render(&scope(&[])).is_err(), "missing");
        // Two parameters with a dot each make `..`.
        let dots = PathTemplate::parse("kv/${a}${b}").unwrap();
        assert!(dots.render(&scope(&[("a", "."), ("b", ".")])).is_err());
    }

    #[test]
    fn templates_that_cannot_be_are_refused() {
        for bad in [
            "",
            "/a",
            "a//b",
            "a/../b",
            "${mount}/creds",
            "a/${x",
            "a/${1}",
            "sys/seal",
            "a/b c",
            "a/*",
        ] {
            assert!(PathTemplate::parse(bad).is_err(), "{bad}");
        }
    }
}
