//! What befalls a job, as it can be printed and played again.

use std::fmt;
use std::str::FromStr;

/// What happens at a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// The process dies as by `kill -9`.
    Kill,
    /// The effect fails, before it did anything or after it did all; a journal write is out of reach.
    Fail,
    /// As [`Fail`](Self::Fail), for a reason that passes.
    Blip,
    /// Somebody calls the job off; later lives know it too.
    Cancel,
    /// Somebody calls the job off, and the wish dies with the process.
    CancelUnwritten,
    /// The daemon is told to stop at once.
    Stop,
    /// The daemon is told to begin nothing new.
    Drain,
    /// The process freezes until its lease is over and another has claimed the job; when it thaws it is told so.
    Lose,
    /// As [`Lose`](Self::Lose), but it goes on before it notices.
    Freeze,
    /// The frozen process goes on now, beside this one.
    Thaw,
}
const WORDS: [(Act, &str); 10] = [
    (Act::Kill, "kill"),
    (Act::Fail, "fail"),
    (Act::Blip, "blip"),
    (Act::Cancel, "cancel"),
    (Act::CancelUnwritten, "cancel-unwritten"),
    (Act::Stop, "stop"),
    (Act::Drain, "drain"),
    (Act::Lose, "lose"),
    (Act::Freeze, "freeze"),
    (Act::Thaw, "thaw"),
];

/// What happens in each life of the process, at which of its points: `cancel@7 kill@12 | kill@3`. When the lives that
/// are told of are over, undisturbed ones follow until the job has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History(pub Vec<Vec<(usize, Act)>>);

impl History {
    /// One life, in which this happens.
    #[must_use]
    pub fn of(acts: &[(usize, Act)]) -> Self {
        Self(vec![acts.to_vec()])
    }
    /// And a life after it.
    #[must_use]
    pub fn then(mut self, acts: &[(usize, Act)]) -> Self {
        self.0.push(acts.to_vec());
        self
    }
    /// Whether this happens at that point of that life.
    pub(crate) fn strikes(&self, life: usize, point: usize, act: Act) -> bool {
        self.0.get(life).is_some_and(|acts| acts.contains(&(point, act)))
    }
    pub(crate) fn has(&self, wanted: &[Act]) -> bool {
        self.0.iter().flatten().any(|(_, act)| wanted.contains(act))
    }
}
impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |act: &Act| WORDS.iter().find(|(a, _)| a == act).map_or("?", |(_, word)| word);
        let life = |life: &Vec<(usize, Act)>| {
            life.iter().map(|(at, act)| format!("{}@{at}", word(act))).collect::<Vec<_>>().join(" ")
        };
        f.pad(&self.0.iter().map(life).collect::<Vec<_>>().join(" | "))
    }
}
impl FromStr for History {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let act = |text: &str| {
            let (word, at) = text.split_once('@').ok_or_else(|| format!("`{text}` is not like `kill@3`"))?;
            let (act, _) = WORDS
                .iter()
                .find(|(_, w)| *w == word)
                .ok_or_else(|| format!("nothing is called `{word}`"))?;
            Ok((at.parse().map_err(|e| format!("the point of `{text}`: {e}"))?, *act))
        };
        let life = |text: &str| text.split_whitespace().map(act).collect();
        Ok(Self(text.split('|').map(life).collect::<Result<_, String>>()?))
    }
}

/// How many histories of each kind are tried where there are too many to try all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// At most so many of each kind that has two points or more.
    pub each: usize,
    /// At most so many of each kind that has one point, and four times as many where that one kills.
    pub one: usize,
    /// Which ones are drawn.
    pub seed: u64,
}
impl Budget {
    /// All of them.
    pub const FULL: Self = Self { each: usize::MAX, one: usize::MAX, seed: 0 };

    /// Draws from what could be tried.
    pub(crate) fn draw<T>(self, all: Vec<T>) -> Vec<T> {
        self.draw_most(all, self.each)
    }
    /// Draws from the points of a kind with one.
    pub(crate) fn draw_points(self, all: &[usize], act: Act) -> Vec<usize> {
        let most = if act == Act::Kill { self.one.saturating_mul(4) } else { self.one };
        let mut drawn = self.draw_most(all.to_vec(), most);
        drawn.sort_unstable();
        drawn
    }
    fn draw_most<T>(self, mut all: Vec<T>, most: usize) -> Vec<T> {
        if all.len() > most {
            let mut state = self.seed;
            for i in 0..most {
                let rest = all.len() - i;
                let j = i + usize::try_from(next(&mut state) % (rest as u64)).unwrap_or(0);
                all.swap(i, j);
            }
            all.truncate(most);
        }
        all
    }
}
impl Default for Budget {
    fn default() -> Self {
        Self { each: 2000, one: usize::MAX, seed: 1 }
    }
}

/// SplitMix64: a small generator, so that a seed means the same histories everywhere.
pub(crate) fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
