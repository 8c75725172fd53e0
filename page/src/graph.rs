//! The objects of a configuration run and what they wait for, as a picture: what comes first at the left.
//!
//! An object stands one column behind the last that it waits for, and in its column near those. Objects that have to do with no
//! other are not drawn.

use crate::show::escaped;
use askama::filters::Safe;
use std::collections::HashMap;
use std::fmt::Write as _;
use vcl_types::{ObjectReport, ObjectState};

/// A box, and what is between two, in pixels.
const BOX: (usize, usize) = (196, 26);
const BETWEEN: (usize, usize) = (48, 8);
/// How much of a name a box has room for, in letters.
const LETTERS: usize = 25;
/// How many objects are drawn at most: nobody finds anything in a picture of more.
const MOST: usize = 500;

/// What is drawn of a run.
pub struct Graph {
    /// The picture, unless there is nothing to draw, or too much.
    pub picture: Option<Safe<String>>,
    /// How many objects have to do with no other.
    pub alone: usize,
    /// How many have to do with others.
    pub together: usize,
}

/// The word of the style sheet for what became of an object.
#[must_use]
pub fn class(object: &ObjectReport) -> &'static str {
    match (object.state, object.changed) {
        (ObjectState::Failed, _) => "failed",
        (ObjectState::Done, true) => "changed",
        (ObjectState::Done, false) => "same",
        (ObjectState::Defined | ObjectState::Prepared, _) => "open",
    }
}

/// Draws them. `link` leads from an object's number to where more is said of it.
#[must_use]
pub fn draw(objects: &[ObjectReport], label: &str, link: impl Fn(usize) -> String) -> Graph {
    let number: HashMap<&str, usize> =
        objects.iter().enumerate().map(|(n, object)| (object.object.as_str(), n)).collect();
    // Who waits for whom, and whether the one has defined the other.
    let mut lines: Vec<(usize, usize, bool)> = Vec::new();
    for (n, object) in objects.iter().enumerate() {
        let known = |name: &String| number.get(name.as_str()).copied().filter(|other| *other != n);
        let defines = object.defines.iter().filter_map(known).map(|other| (other, true));
        let requires = object.requires.iter().filter(|name| !object.defines.contains(name)).filter_map(known);
        lines.extend(
            defines.chain(requires.map(|other| (other, false))).map(|(other, made)| (n, other, made)),
        );
    }
    let mut drawn = vec![false; objects.len()];
    for (n, other, _) in &lines {
        drawn[*n] = true;
        drawn[*other] = true;
    }
    let together = drawn.iter().filter(|drawn| **drawn).count();
    let alone = objects.len() - together;
    if together == 0 || together > MOST {
        return Graph { picture: None, alone, together };
    }
    let columns = columns(objects.len(), &drawn, &lines);
    let mut place = vec![(0, 0); objects.len()];
    for (column, members) in columns.iter().enumerate() {
        for (row, n) in members.iter().enumerate() {
            place[*n] = (column, row);
        }
    }
    let corner =
        |(column, row): (usize, usize)| (column * (BOX.0 + BETWEEN.0) + 2, row * (BOX.1 + BETWEEN.1) + 2);
    let mut text = String::new();
    for (n, other, made) in lines {
        let ((x1, y1), (x2, y2)) = (corner(place[other]), corner(place[n]));
        let (x1, y1, y2) = (x1 + BOX.0, y1 + BOX.1 / 2, y2 + BOX.1 / 2);
        let middle = usize::midpoint(x1, x2);
        let class = if made { " class=\"made\"" } else { "" };
        let _ = write!(text, "<path{class} d=\"M{x1} {y1}C{middle} {y1} {middle} {y2} {x2} {y2}\"/>");
    }
    for n in columns.iter().flatten() {
        let ((x, y), object) = (corner(place[*n]), &objects[*n]);
        let _ = write!(
            text,
            "<a href=\"{}\"><g class=\"{}\"><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" rx=\"4\"/>\
             <text x=\"{}\" y=\"{}\">{}</text></g></a>",
            link(*n),
            class(object),
            escaped(&object.object),
            BOX.0,
            BOX.1,
            x + 8,
            y + 17,
            escaped(&ending(&object.object))
        );
    }
    let rows = columns.iter().map(Vec::len).max().unwrap_or_default();
    let width = columns.len() * (BOX.0 + BETWEEN.0) - BETWEEN.0 + 4;
    let height = rows * (BOX.1 + BETWEEN.1) - BETWEEN.1 + 4;
    let picture = format!(
        "<svg class=\"objects\" role=\"group\" aria-label=\"{}\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\">{text}</svg>",
        escaped(label)
    );
    Graph { picture: Some(Safe(picture)), alone, together }
}

/// The end of a name, which is what tells objects of one type apart.
fn ending(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    match letters.len() > LETTERS {
        true => std::iter::once('…').chain(letters[letters.len() - LETTERS + 1..].iter().copied()).collect(),
        false => name.to_owned(),
    }
}

/// What stands in each column, from above. Objects that wait for each other in a ring, which no run comes to the end of, stand in
/// a last one.
fn columns(count: usize, drawn: &[bool], lines: &[(usize, usize, bool)]) -> Vec<Vec<usize>> {
    let (mut waits, mut next) = (vec![0_usize; count], vec![Vec::new(); count]);
    for (n, other, _) in lines {
        waits[*n] += 1;
        next[*other].push(*n);
    }
    let mut columns: Vec<Vec<usize>> = Vec::new();
    let mut row = vec![0_usize; count];
    let mut placed = vec![false; count];
    let mut now: Vec<usize> = (0..count).filter(|n| drawn[*n] && waits[*n] == 0).collect();
    while !now.is_empty() {
        let above = |n: &usize| {
            let (sum, of) = lines
                .iter()
                .filter(|(one, ..)| one == n)
                .fold((0, 0), |(sum, of), (_, other, _)| (sum + row[*other], of + 1));
            // In hundredths of a row.
            (sum * 100).checked_div(of).unwrap_or(n * 100)
        };
        now.sort_by_cached_key(above);
        for (at, n) in now.iter().enumerate() {
            row[*n] = at;
            placed[*n] = true;
        }
        let mut then = Vec::new();
        for n in &now {
            for after in &next[*n] {
                waits[*after] -= 1;
                if waits[*after] == 0 {
                    then.push(*after);
                }
            }
        }
        columns.push(std::mem::replace(&mut now, then));
    }
    let rings: Vec<usize> = (0..count).filter(|n| drawn[*n] && !placed[*n]).collect();
    if !rings.is_empty() {
        columns.push(rings);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, requires: &[&str], defines: &[&str]) -> ObjectReport {
        let all = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        ObjectReport {
            object: name.into(),
            requires: all(requires),
            defines: all(defines),
            ..ObjectReport::default()
        }
    }
    fn placed(objects: &[ObjectReport]) -> Vec<Vec<usize>> {
        let number = |name: &String| objects.iter().position(|object| object.object == *name).unwrap();
        let lines: Vec<_> = objects
            .iter()
            .enumerate()
            .flat_map(|(n, object)| object.requires.iter().map(move |name| (n, number(name), false)))
            .collect();
        columns(objects.len(), &vec![true; objects.len()], &lines)
    }

    #[test]
    fn what_waits_stands_behind_all_that_it_waits_for() {
        let all = [
            object("c", &["a", "b"], &[]),
            object("a", &[], &[]),
            object("b", &["a"], &[]),
            object("d", &["a"], &[]),
        ];
        assert_eq!(placed(&all), [vec![1], vec![2, 3], vec![0]]);
    }

    #[test]
    fn a_ring_is_drawn_too() {
        let all = [object("a", &["b"], &[]), object("b", &["a"], &[]), object("c", &[], &[])];
        assert_eq!(placed(&all), [vec![2], vec![0, 1]]);
    }

    #[test]
    fn who_has_to_do_with_nobody_is_counted_and_nothing_in_a_name_is_markup() {
        let all = [
            object("__a/<b>&", &[], &["__c"]),
            object("__c", &[], &[]),
            object("__alone", &["__unknown"], &[]),
        ];
        let graph = draw(&all, "what \"waits\"", |n| format!("#o-{n}"));
        assert_eq!((graph.alone, graph.together), (1, 2));
        let text = graph.picture.unwrap().0;
        assert!(text.contains("__a/&#60;b&#62;&#38;") || text.contains("__a/&lt;b&gt;&amp;"), "{text}");
        assert!(text.contains("class=\"made\"") && !text.contains("__alone"), "{text}");
        assert!(draw(&all[2..], "", |_| String::new()).picture.is_none());
    }
}
