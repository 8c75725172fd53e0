//! Names that somebody may have meant.

/// How many names are offered.
const OFFERED: usize = 3;

/// What to add to "there is no such thing": the names that are near, or how to list all.
pub(crate) fn hint(wanted: &str, names: &[String], list: &str) -> String {
    let near = near(wanted, names);
    if near.is_empty() {
        return format!("`{list}` shows what there is");
    }
    let near: Vec<String> = near.iter().map(|n| format!("`{n}`")).collect();
    format!("is {} meant? `{list}` shows what there is", near.join(" or "))
}

fn near<'n>(wanted: &str, names: &'n [String]) -> Vec<&'n str> {
    let limit = wanted.len().div_ceil(3).min(3);
    let mut near: Vec<(usize, &str)> = names
        .iter()
        .filter_map(|name| {
            let distance = distance(wanted, name);
            let inside = wanted.len() >= 3 && (name.contains(wanted) || wanted.contains(name.as_str()));
            (distance <= limit || inside).then_some((distance, name.as_str()))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

/// How many letters have to be put in, taken out or replaced. Names are ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (y, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            diagonal = above;
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_near_is_offered_nearest_first() {
        let names: Vec<String> =
            ["debian", "debian-12", "gis", "windows", "alpine"].iter().map(|n| (*n).into()).collect();
        assert_eq!(near("debain", &names), ["debian"]);
        assert_eq!(near("debian-1", &names), ["debian-12", "debian"]);
        assert_eq!(near("gsi", &names), Vec::<&str>::new());
        assert_eq!(near("zzz", &names), Vec::<&str>::new());
        assert!(hint("debain", &names, "vclctl image list").starts_with("is `debian` meant?"));
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
