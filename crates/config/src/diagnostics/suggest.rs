//! Finds the known word that is most similar to a mistyped one, for "did you mean" hints.

/// Returns the candidate that is most similar to the unknown `word`, if any is similar enough.
pub(crate) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let word = word.to_lowercase();
    let bound = (word.chars().count() / 3).clamp(1, 4);
    candidates
        .into_iter()
        .filter_map(|candidate| {
            let distance = edits(&word, &candidate.to_lowercase());
            // A candidate is also similar if the word is a prefix of the candidate, or if the
            // candidate is a prefix of the word. The prefix must have at least 4 bytes.
            let cut = word.len() >= 4 && candidate.starts_with(&word)
                || candidate.len() >= 4 && word.starts_with(candidate);
            (distance <= bound || cut).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Returns the Damerau-Levenshtein distance between two words: the number of edits that change `a`
/// into `b`. Swapping two adjacent characters counts as one edit.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut previous_a = None;
    for (row, from) in a.chars().enumerate() {
        let mut current = Vec::with_capacity(last.len());
        current.push(row + 1);
        let mut previous_b = None;
        for (column, to) in b.iter().copied().enumerate() {
            let at =
                |line: &[usize], index: usize| line.get(index).copied().unwrap_or(usize::MAX / 2);
            let mut cost = (at(&last, column) + usize::from(from != to))
                .min(at(&last, column + 1) + 1)
                .min(at(&current, column) + 1);
            if previous_a == Some(to) && previous_b == Some(from) && column > 0 {
                cost = cost.min(at(&before, column - 1) + 1);
            }
            current.push(cost);
            previous_b = Some(to);
        }
        before = std::mem::replace(&mut last, current);
        previous_a = Some(from);
    }
    last.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_word_that_was_meant() {
        let keys = [
            "address",
            "certificate",
            "private_key",
            "client_certificate",
        ];
        assert_eq!(nearest("adress", keys), Some("address"));
        assert_eq!(nearest("addrses", keys), Some("address"));
        assert_eq!(nearest("certificat", keys), Some("certificate"));
        assert_eq!(nearest("privatekey", keys), Some("private_key"));
        assert_eq!(nearest("Certificate", keys), Some("certificate"));
        assert_eq!(nearest("cert", keys), Some("certificate"));
        assert_eq!(nearest("colour", keys), None);
    }

    #[test]
    fn counts_edits() {
        for (a, b, distance) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("abc", "abd", 1),
            ("abc", "acb", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edits(a, b), distance, "{a} {b}");
        }
    }
}
