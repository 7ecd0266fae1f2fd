//! The nearest right name to a mistyped one.

/// So many characters of each are compared.
const COMPARED: usize = 64;

/// The option most like `word`, when one is near enough to be what was meant.
pub fn nearest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (word.chars().count() / 3).max(1) + 1;
    let word = word.to_lowercase();
    let compared = |text: &str| text.chars().take(COMPARED).count();
    options
        .into_iter()
        .filter_map(|option| {
            let (other, most) = (option.to_lowercase(), limit.min(option.chars().count().checked_sub(1)?));
            // A difference in length alone may be too much.
            let near = compared(&word).abs_diff(compared(&other)) <= most;
            near.then(|| (distance(&word, &other), option)).filter(|(distance, _)| *distance <= most)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, option)| option)
}

/// `; did you mean 'x'?`, or what there is to choose from.
pub fn suggestion<'a>(word: &str, options: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, options.clone()) {
        Some(option) => format!("; did you mean '{option}'?"),
        None => {
            let all: Vec<&str> = options.into_iter().take(12).collect();
            if all.is_empty() { String::new() } else { format!("; there is: {}", all.join(", ")) }
        }
    }
}

/// Optimal string alignment: insertions, deletions, replacements and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(COMPARED).collect();
    let b: Vec<char> = b.chars().take(COMPARED).collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut row = before.clone();
    for i in 1..=a.len() {
        row[0] = i;
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        std::mem::swap(&mut before, &mut last);
        std::mem::swap(&mut last, &mut row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let options = ["event_type", "event_time", "entity", "roles"];
        assert_eq!(nearest("event_tpye", options), Some("event_type"));
        assert_eq!(nearest("rolse", options), Some("roles"));
        assert_eq!(nearest("warehouse", options), None);
    }
}
