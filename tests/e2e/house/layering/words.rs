//! The words in code, without those in prose.

use std::collections::BTreeSet;

/// Code without the text literals that have a space in them.
pub(super) fn without_prose(code: &str) -> String {
    let (mut kept, mut rest) = (String::new(), code);
    while let Some(begin) = rest.find('"') {
        let (before, literal) = rest.split_at(begin);
        kept += before;
        // `'"'` is a character.
        if before.ends_with('\'') && literal[1..].starts_with('\'') {
            rest = &literal[1..];
            continue;
        }
        let mut is_escaped = false;
        let end = literal[1..].find(|c| {
            let ends = c == '"' && !is_escaped;
            is_escaped = c == '\\' && !is_escaped;
            ends
        });
        let length = end.map_or(literal.len(), |end| end + 2);
        let text = &literal[..length];
        if !text.contains(char::is_whitespace) {
            kept += text;
        }
        rest = &literal[length..];
    }
    kept + rest
}

/// The words that names are made of, in small letters: `VaultConfig` and `vault_config` are `vault`
/// and `config`.
pub(super) fn words(code: &str) -> BTreeSet<String> {
    let mut words = BTreeSet::new();
    for name in code.split(|c: char| !c.is_ascii_alphanumeric()) {
        let mut word = String::new();
        let mut was_small = false;
        for c in name.chars() {
            if c.is_ascii_uppercase() && was_small {
                words.insert(std::mem::take(&mut word));
            }
            was_small = c.is_ascii_lowercase();
            word.push(c.to_ascii_lowercase());
        }
        words.insert(word);
    }
    words
}

#[test]
fn names_are_split_into_words_and_prose_is_left_out() {
    let words = |code: &str| {
        words(&without_prose(code))
            .into_iter()
            .collect::<Vec<_>>()
            .join(" ")
            .trim()
            .to_owned()
    };
    assert_eq!(
        words("VaultConfig::aws_keys(VAULT_TOKEN)"),
        "aws config keys token vault"
    );
    assert_eq!(
        words("if kind == \"vault\" { say(\"like \\\"vault-main\\\"\") }"),
        "if kind say vault"
    );
    assert_eq!(words("say(\"like \\\"vault\\\"\", '\"', aws)"), "aws say");
}
