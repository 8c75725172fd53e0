//! Benches: what vcld costs against the same work done by hand.

pub mod api;
pub mod capture;
pub mod class;
pub mod configure;
pub mod load;
pub mod page;
pub mod pickup;
pub mod queue;
pub mod transfer;

use serde::Serialize;

/// One line of a bench's output.
#[derive(Debug, Serialize)]
pub struct Line {
    /// The bench.
    pub bench: &'static str,
    /// The case.
    pub case: &'static str,
    /// The unit of `ours` and `peer`.
    pub unit: &'static str,
    /// The median of ours.
    pub ours: f64,
    /// The median of the peer's, where there is one.
    pub peer: Option<f64>,
    /// Who the peer is.
    pub peer_name: Option<&'static str>,
    /// Ours ÷ peer.
    pub ratio: Option<f64>,
    /// How many runs of each.
    pub n: usize,
}

impl Line {
    /// Prints it.
    pub fn print(&self) {
        println!("{}", serde_json::to_string(self).unwrap_or_default());
    }
    /// A line of ours alone.
    #[must_use]
    pub fn alone(bench: &'static str, case: &'static str, unit: &'static str, ours: f64, n: usize) -> Self {
        Self { bench, case, unit, ours, peer: None, peer_name: None, ratio: None, n }
    }
    /// A line of two that alternated.
    #[must_use]
    pub fn pair(
        bench: &'static str,
        case: &'static str,
        peer_name: &'static str,
        ours: &mut [f64],
        peer: &mut [f64],
    ) -> Self {
        let (n, ours, peer) = (ours.len(), quantile(ours, 0.5), quantile(peer, 0.5));
        Self {
            bench,
            case,
            unit: "s",
            ours,
            peer: Some(peer),
            peer_name: Some(peer_name),
            ratio: Some(ours / peer),
            n,
        }
    }
}

/// The quantile `q` of the samples, which are sorted; 0.5 is the median.
#[must_use]
pub fn quantile(samples: &mut [f64], q: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let last = samples.len().saturating_sub(1);
    if samples.len().is_multiple_of(2) && (q - 0.5).abs() < f64::EPSILON && !samples.is_empty() {
        return f64::midpoint(samples[last / 2], samples[last / 2 + 1]);
    }
    samples.get(((last as f64) * q).ceil() as usize).copied().unwrap_or(f64::NAN)
}
