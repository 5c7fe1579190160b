//! The known word that a person most likely meant.

use strsim::osa_distance;

/// A word with more edits than this, or than a third of it, was meant to be another word.
const EDITS_MAX: usize = 3;

/// The candidate with the fewest edits from `word`, if it is near enough to be worth proposing.
/// Among equals the first one wins.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = normal(word);
    let length = word.chars().count();
    candidates
        .into_iter()
        // The difference in length alone takes as many edits; a key of a megabyte would take
        // minutes.
        .filter(|candidate| length.abs_diff(candidate.chars().count()) <= EDITS_MAX)
        .map(|candidate| (osa_distance(&word, &normal(candidate)), candidate))
        .filter(|(edits, candidate)| {
            let longer = length.max(candidate.len());
            *edits <= EDITS_MAX && *edits * 3 <= longer
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// `-` for `_` and capitals are habits from other programs, not different words.
fn normal(word: &str) -> String {
    word.replace('-', "_").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_word_is_proposed() {
        let keys = ["address", "token_file", "name", "kind"];
        for (word, expected) in [
            ("adress", Some("address")),
            ("Address", Some("address")),
            ("token-file", Some("token_file")),
            ("tokenfile", Some("token_file")),
            ("nmae", Some("name")),
            ("king", Some("kind")),
            ("url", None),
            ("x", None),
            ("", None),
            ("a_completely_different_key", None),
        ] {
            assert_eq!(nearest(word, keys), expected, "{word}");
        }
        assert_eq!(nearest("x", []), None);
    }
}
