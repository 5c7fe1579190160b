//! The known word that a person most likely meant.

/// A word with more edits than this, or than a third of it, was meant to be another word.
const EDITS_MAX: usize = 3;

/// The candidate with the fewest edits from `word`, if it is near enough to be worth proposing. Among equals the first
/// one wins.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word: Vec<char> = normal(word);
    candidates
        .into_iter()
        // So many edits are needed for the difference in length alone; a key of a megabyte would take minutes.
        .filter(|candidate| word.len().abs_diff(candidate.chars().count()) <= EDITS_MAX)
        .map(|candidate| (edits(&word, &normal(candidate)), candidate))
        .filter(|(edits, candidate)| {
            let longer = word.len().max(candidate.len());
            *edits <= EDITS_MAX && *edits * 3 <= longer
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

/// `-` for `_` and capitals are habits from other programs, not different words.
fn normal(word: &str) -> Vec<char> {
    word.chars()
        .map(|c| {
            if c == '-' {
                '_'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}

/// The number of insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edits(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (i, &ca) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        let mut last_b = None;
        for (j, &cb) in b.iter().enumerate() {
            // INVARIANT: `row` and `before` have `b.len() + 1` places, `next` has `j + 1`.
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&row, j) + usize::from(ca != cb))
                .min(at(&row, j + 1) + 1)
                .min(at(&next, j) + 1);
            if last_a == Some(cb) && last_b == Some(ca) && j > 0 {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
            last_b = Some(cb);
        }
        before = std::mem::replace(&mut row, next);
        last_a = Some(ca);
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_table() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("address", "address", 0),
            ("adress", "address", 1),
            ("addresss", "address", 1),
            ("adderss", "address", 1),
            ("eddress", "address", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(edits(&normal(a), &normal(b)), expected, "{a} {b}");
        }
    }

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
