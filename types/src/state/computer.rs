//! A computer's states.
//!
//! ```text
//!               load                loaded              connect
//!  available ─────────► loading ─────────────► reserved ───────► in-use
//!    ▲  ▲  │ │            │  ▲                 ▲ │  │ ▲            │  │
//!    │  │  │ │ load-failed│  └──────reload─────│─┘  │ └─disconnect─┘  │
//!    │  │  │ │ or prepared│                    │    │                 │
//!    │  └──┼─┼────────────┘                    │    │                 │
//!    │     │ └──────────────assign─────────────┘    │                 │
//!    │     └─maintain─► maintenance ◄──maintain─────┴─────maintain────┤
//!    │                     │  ▲                                       │
//!    ├──────release────────┘  └────fix───── broken ◄──break (any)     │
//!    └──────────────────────────────release───────────────────────────┘
//! ```
//! An available computer holds nothing, or an image that it was prepared with and that nobody has used: it is given out
//! as it is to whoever wants that image. `release` of such a one takes the image off.
//!
//! `broken` is what vcld says of a computer, `maintenance` what a person says of it, or vcld when it needs a person.

use super::Refused;

super::words! {
    /// Where a computer is.
    State as ComputerState {
        /// It can be given out: nothing is loaded on it, or an image that nobody has used.
        Available = "available",
        /// An image is being put on it.
        Loading = "loading",
        /// It is loaded and somebody's, and nobody is on it yet.
        Reserved = "reserved",
        /// Somebody is on it.
        InUse = "in-use",
        /// It is kept out of use until a person gives it back.
        Maintenance = "maintenance",
        /// It does not do what it should.
        Broken = "broken",
    }
}
super::words! {
    /// What happens to a computer.
    Event as ComputerEvent {
        /// A load begins.
        Load = "load",
        /// The load is done and the machine is ready.
        Loaded = "loaded",
        /// The load is done, and it is nobody's yet.
        Prepared = "prepared",
        /// It holds what somebody wants and is given to them.
        Assign = "assign",
        /// The load failed and was undone.
        LoadFailed = "load-failed",
        /// A load begins on a machine that holds something already.
        Reload = "reload",
        /// Its user is there.
        Connect = "connect",
        /// Its user has gone.
        Disconnect = "disconnect",
        /// Its machine is unloaded, or it is given back from maintenance.
        Release = "release",
        /// It is taken out of use.
        Maintain = "maintain",
        /// It was found not to work.
        Break = "break",
        /// Somebody looks after it.
        Fix = "fix",
    }
}

/// What a computer becomes.
///
/// # Errors
/// [`Refused`] when the event cannot happen in this state.
pub fn next(state: State, event: Event) -> Result<State, Refused> {
    use Event as E;
    use State as S;
    Ok(match (state, event) {
        (S::Available, E::Load) => S::Loading,
        (S::Reserved | S::InUse, E::Reload) => S::Loading,
        (S::Loading, E::Loaded) => S::Reserved,
        (S::Loading, E::LoadFailed | E::Prepared) => S::Available,
        (S::Available, E::Assign) => S::Reserved,
        (S::Reserved, E::Connect) => S::InUse,
        (S::InUse, E::Disconnect) => S::Reserved,
        (S::Available | S::Reserved | S::InUse | S::Maintenance, E::Release) => S::Available,
        (S::Available | S::Loading | S::Reserved | S::InUse, E::Maintain) => S::Maintenance,
        (S::Available | S::Loading | S::Reserved | S::InUse | S::Maintenance, E::Break) => S::Broken,
        (S::Broken, E::Fix) => S::Maintenance,
        (state, event) => {
            return Err(Refused { what: "computer", state: state.as_str(), event: event.as_str() });
        }
    })
}
