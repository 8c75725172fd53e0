//! A reservation's states.
//!
//! ```text
//!                                       ┌─────────────reload──┬──────reload──────┐
//!                                       ▼                     │                  │
//!  scheduled ──due──► queued ──start──► loading ──loaded──► ready ──connect──► in-use
//!      │                │  ▲              │ │                │ ▲                 │ │
//!      │                │  └───requeue────┘ │                │ └───disconnect────┘ │
//!      └──────end───────┴─────────end───────┴──────end───────┴────────end──────────┘
//!                                           ▼
//!                                        ending ──ended──► ended
//! ```
//! The reason it ended (deleted, time, no connection, load failed …) is stored beside the state.

use super::Refused;

super::words! {
    /// Where a reservation is.
    State as ReservationState {
        /// It begins later.
        Scheduled = "scheduled",
        /// It waits for a computer.
        Queued = "queued",
        /// Its computer is being loaded.
        Loading = "loading",
        /// It can be used.
        Ready = "ready",
        /// It is used.
        InUse = "in-use",
        /// Its computer is being taken back.
        Ending = "ending",
        /// It is over.
        Ended = "ended",
    }
}
super::words! {
    /// What happens to a reservation.
    Event as ReservationEvent {
        /// Its time has come.
        Due = "due",
        /// A computer was found and its load begins.
        Start = "start",
        /// The load failed and another computer is looked for.
        Requeue = "requeue",
        /// The load is done.
        Loaded = "loaded",
        /// Its user is there.
        Connect = "connect",
        /// Its user has gone.
        Disconnect = "disconnect",
        /// Its user wants the computer as it was at the beginning: it is loaded anew.
        Reload = "reload",
        /// It is given back, or its time is over, or it cannot be had.
        End = "end",
        /// Its computer is taken back.
        Ended = "ended",
    }
}

/// What a reservation becomes.
///
/// # Errors
/// [`Refused`] when the event cannot happen in this state.
pub fn next(state: State, event: Event) -> Result<State, Refused> {
    use Event as E;
    use State as S;
    Ok(match (state, event) {
        (S::Scheduled, E::Due) => S::Queued,
        (S::Queued, E::Start) => S::Loading,
        (S::Loading, E::Requeue) => S::Queued,
        (S::Loading, E::Loaded) => S::Ready,
        (S::Ready, E::Connect) => S::InUse,
        (S::InUse, E::Disconnect) => S::Ready,
        (S::Ready | S::InUse, E::Reload) => S::Loading,
        (S::Scheduled | S::Queued | S::Loading | S::Ready | S::InUse, E::End) => S::Ending,
        (S::Ending, E::Ended) => S::Ended,
        (state, event) => {
            return Err(Refused { what: "reservation", state: state.as_str(), event: event.as_str() });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// What it becomes, or with what text it is refused: all of them.
    #[test]
    fn every_cell() {
        let mut table = String::new();
        for state in State::ALL {
            for event in Event::ALL {
                let cell = match next(*state, *event) {
                    Ok(to) => format!("→ {to}"),
                    Err(refused) => refused.to_string(),
                };
                let _ = writeln!(table, "{state:10} {event:11} {cell}");
            }
        }
        insta::assert_snapshot!(table);
    }
}
