//! The configuration reference, made from the declarations that read the file.

use std::fmt::Write as _;

use super::{
    provider_keys::{Kind, Presence, ProviderKey, Shape},
    section::Key,
    sections, top_keys,
};

const INTRODUCTION: &str = "\
# Configuration reference

<!-- Made by `taskpassd config reference`; do not edit. -->

`taskpass.toml` is TOML. Every key has a default unless it says *required*. A key that is not on this page is an
error, and `taskpassd config check --config FILE` says where it is and which key was probably meant.

Durations are text, a number and a unit: `\"500ms\"`, `\"30s\"`, `\"15m\"`, `\"24h\"`, `\"7d\"`, or a sum like `\"1h30m\"`.
Lifetimes are the same in whole seconds. Relative paths begin at the directory of the file. Secrets are never
written into it: a key names the file that a secret is in.

The file is read once, when the broker starts.
";

/// The reference as Markdown.
pub fn markdown() -> String {
    let mut out = INTRODUCTION.to_owned();
    out.push_str("\n## Top level\n");
    keys(&mut out, &top_keys());
    for (table, doc, section_keys) in sections() {
        heading(&mut out, "##", &format!("[{table}]"), &prose(doc));
        keys(&mut out, &section_keys);
    }
    let about = "One back end that mints credentials. Which keys there are depends on `kind`.";
    heading(&mut out, "##", "[[provider]]", about);
    for kind in Kind::ALL {
        let name = format!("[[provider]] of kind {}", kind.as_str());
        provider_table(&mut out, &name, "", "", kind.keys());
    }
    out
}

fn keys(out: &mut String, keys: &[Key]) {
    for key in keys {
        let mut facts = key.expects.to_owned();
        if let Some((from, to)) = &key.range {
            facts = format!("{facts}, from {from} to {to}");
        }
        let default = match &key.default {
            Some(default) => format!("default `{default}`"),
            None => "*required*".to_owned(),
        };
        entry(out, key.name, &prose(key.doc), &facts, &default);
    }
}

/// A table and then every table inside it.
fn provider_table(
    out: &mut String,
    name: &str,
    about: &str,
    path: &str,
    table: &'static [ProviderKey],
) {
    heading(out, "###", name, about);
    for key in table {
        let default = match &key.presence {
            Presence::Required => "*required*".to_owned(),
            Presence::Default(default) => format!("default {default}"),
        };
        entry(out, key.name, key.doc, key.shape.expects(), &default);
    }
    for key in table {
        let below = format!("{path}.{}", key.name);
        let (name, inner) = match key.shape {
            Shape::Table(inner) => (format!("[provider{below}]"), inner),
            Shape::Tables(inner) => (format!("[[provider{below}]]"), inner),
            Shape::Named(inner) => (format!("[provider{below}.NAME]"), inner),
            Shape::Plain(_) | Shape::Path => continue,
        };
        provider_table(out, &name, key.doc, &below, inner);
    }
}

fn heading(out: &mut String, level: &str, name: &str, about: &str) {
    let paragraph = if about.is_empty() {
        String::new()
    } else {
        format!("\n{about}\n")
    };
    // Writing to a String cannot fail.
    let _infallible = write!(out, "\n{level} `{name}`\n{paragraph}");
}

fn entry(out: &mut String, name: &str, doc: &str, facts: &str, default: &str) {
    let _infallible = write!(out, "\n- **`{name}`** — {facts}; {default}.\n  {doc}\n");
}

/// The lines of a comment as one.
fn prose(doc: &[&str]) -> String {
    doc.iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_reference_is_this_one() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/config-reference.md"
        );
        let checked_in = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            checked_in == markdown(),
            "docs/config-reference.md is stale: run `cargo run -p taskpass-broker -- config reference > docs/config-reference.md`"
        );
    }

    #[test]
    fn every_key_has_a_text_that_ends_like_a_sentence() {
        for key in sections()
            .into_iter()
            .flat_map(|(.., keys)| keys)
            .chain(top_keys())
        {
            assert!(prose(key.doc).ends_with('.'), "{}", key.name);
        }
    }
}
