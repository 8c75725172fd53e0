//! The rules that every history has to keep, whatever the job.

use super::points::{Passed, Point};
use crate::Record;
use std::collections::{BTreeMap, BTreeSet};

/// What is against the rules in a job's journal at its end.
pub(crate) fn journal(records: &[Record], reruns: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut order: Vec<&str> = Vec::new();
    let (mut failed, mut done, mut undone) = (BTreeSet::new(), BTreeSet::new(), Vec::<&str>::new());
    let (mut unwinding, mut finished) = (None::<usize>, 0);
    for (i, record) in records.iter().enumerate() {
        let word = record.word();
        let mut say = |what: String| wrong.push(format!("journal, record {}: {what}", i + 1));
        if finished > 0 && !matches!(record, Record::Finished { .. }) {
            say(format!("`{word}` after the end"));
        }
        if (i == 0) != matches!(record, Record::Begun { .. }) && !matches!(record, Record::Finished { .. }) {
            say(format!("`{word}` where it does not belong"));
        }
        if let (Some(key), false) = (record.key(), matches!(record, Record::Started { .. }))
            && !order.contains(&key)
        {
            say(format!("`{word}` of `{key}`, which was not started"));
        }
        match record {
            Record::Started { key, .. } => {
                if order.contains(&key.as_str()) {
                    say(format!("`{key}` started twice"));
                }
                order.push(key);
            }
            Record::Done { key, .. } => {
                if !done.insert(key.as_str()) && !reruns {
                    say(format!("`{key}` done twice"));
                }
            }
            Record::Failed { key, .. } => {
                if !failed.insert(key.as_str()) {
                    say(format!("`{key}` failed twice"));
                }
            }
            Record::Unwinding { .. } => {
                if unwinding.replace(i).is_some() {
                    say("the job is given up twice".into());
                }
            }
            Record::Undone { key } => {
                if undone.contains(&key.as_str()) {
                    say(format!("`{key}` undone twice"));
                }
                if unwinding.is_none() && !failed.contains(key.as_str()) {
                    say(format!("`{key}` undone, though it did not fail and the job was not given up"));
                }
                // Backwards: nothing that began later is still there.
                let later = order.iter().skip_while(|k| *k != key).skip(1);
                if unwinding.is_some()
                    && let Some(later) = later.into_iter().find(|k| !undone.contains(k))
                {
                    say(format!("`{key}` undone before `{later}`, which began later"));
                }
                undone.push(key);
            }
            Record::Finished { error } => {
                finished += 1;
                if error.is_some() && records.len() > 1 && unwinding.is_none() {
                    say("taken back, and that was not decided".into());
                }
                if error.is_none() && unwinding.is_some() {
                    say("done, though it was given up".into());
                }
            }
            Record::Begun { .. } | Record::Process { .. } | Record::Stuck { .. } => {}
        }
        let key = record.key().unwrap_or_default();
        let runs = matches!(record, Record::Started { .. } | Record::Done { .. } | Record::Process { .. });
        if runs && unwinding.is_some() {
            say(format!("`{key}` goes on, though the job was given up"));
        } else if runs && failed.contains(key) {
            say(format!("`{key}` goes on, though it failed"));
        }
    }
    if finished != 1 {
        wrong.push(format!("journal: the job ended {finished} times"));
    }
    for key in order {
        if (failed.contains(key) || unwinding.is_some()) && !undone.contains(&key) {
            wrong.push(format!("journal: `{key}` was never undone"));
        }
    }
    wrong
}

/// What is against the rules in the order of effects and records.
pub(crate) fn trace(trace: &[Passed], reruns: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut started = BTreeSet::new();
    let (mut done, mut may_undo) = (BTreeSet::new(), BTreeSet::new());
    let mut given_up = false;
    // Who changed each computer last, and under which token each life ran.
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    let mut tokens: BTreeMap<usize, i64> = BTreeMap::new();
    let mut undoing_then: BTreeSet<(usize, &str)> = BTreeSet::new();
    for passed in trace {
        let Passed { life, nth, point, step, token, undoing, thawed } = passed;
        let mut say = |what: String| wrong.push(format!("life {}, point {nth}: {what}", life + 1));
        // Steps of a job inside a step are that step's.
        let step = step.as_deref().map(|s| s.split(crate::doing::INSIDE).next().unwrap_or(s));
        match point {
            Point::AfterAppend { record: "started", key } => {
                started.insert(key.as_str());
            }
            Point::AfterAppend { record: "done", key } => {
                done.insert(key.as_str());
            }
            Point::AfterAppend { record: "failed", key } => {
                may_undo.insert(key.as_str());
            }
            Point::AfterAppend { record: "unwinding", .. } => given_up = true,
            Point::BeforeEffect { on, what } => {
                let Some(step) = step else {
                    say(format!("`{what}` of {on} outside of any step"));
                    continue;
                };
                if !started.contains(step) {
                    say(format!("`{what}` of {on} in `{step}`, which is not in the journal"));
                }
                if !undoing && !thawed && done.contains(step) && !reruns {
                    say(format!("`{what}` of {on} in `{step}`, which was done"));
                }
                if *undoing && !given_up && !may_undo.contains(step) {
                    say(format!("`{what}` of {on} undoes `{step}`, and the journal does not know why"));
                }
                if *undoing && *thawed && !undoing_then.contains(&(*life, step)) {
                    say(format!("`{step}` is undone by a process that has lost its lease"));
                }
                if *undoing && !thawed {
                    undoing_then.insert((*life, step));
                }
            }
            Point::AfterEffect { on, what } => {
                let before = last.entry(on).or_insert(*life);
                if before > &mut { *life } {
                    say(format!("`{what}` of {on} after life {} worked on it", *before + 1));
                }
                *before = (*before).max(*life);
            }
            Point::AfterAppend { .. } | Point::BeforeAppend { .. } => {}
        }
        if *token != 0 && tokens.insert(*life, *token).is_none() {
            let earlier = tokens.range(..*life).next_back();
            if let Some((other, had)) = earlier.filter(|(_, had)| *had >= token) {
                say(format!("token {token} is not higher than {had} of life {}", other + 1));
            }
        }
    }
    wrong
}
