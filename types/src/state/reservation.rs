//! A reservation's states.
//!
//! ```text
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
        (S::Scheduled | S::Queued | S::Loading | S::Ready | S::InUse, E::End) => S::Ending,
        (S::Ending, E::Ended) => S::Ended,
        (state, event) => {
            return Err(Refused { what: "reservation", state: state.as_str(), event: event.as_str() });
        }
    })
}
