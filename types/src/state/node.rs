//! A node's states.
//!
//! ```text
//!  join ─► alive ──leaves──► left
//!            └───given up──► dead      either joins again: alive, its next life
//! ```

super::words! {
    /// Whether a life of a node goes on.
    State as NodeState {
        /// It renews its lease.
        Alive = "alive",
        /// It has stopped in order.
        Left = "left",
        /// It has not renewed its lease and was given up.
        Dead = "dead",
    }
}
