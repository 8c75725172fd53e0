//! Reservations.

use super::{Client, QUICK, SLOW};
use crate::error::Result;
use vcl_types::ReservationId;
use vcl_types::api::Submitted;
use vcl_types::lending::{
    AccessChange, Connect, Connection, Extend, Grabbed, Reboot, Release, ReservationRequest, ReservationView,
};

impl Client {
    /// Reserves a computer.
    pub async fn reserve(&self, request: &ReservationRequest) -> Result<Grabbed> {
        let made = ("it", "reserved", "vclctl reservation list");
        self.post_once((&["reservations"], &[], SLOW), request, made).await
    }
    /// Reservations, the newest first.
    pub async fn reservations(
        &self,
        owner: Option<&str>,
        all: bool,
        limit: u32,
    ) -> Result<Vec<ReservationView>> {
        let mut query = vec![("all", all.to_string()), ("limit", limit.to_string())];
        query.extend(owner.map(|owner| ("owner", owner.to_owned())));
        self.get(&["reservations"], &query, QUICK).await
    }
    /// One reservation.
    pub async fn reservation(&self, id: ReservationId) -> Result<ReservationView> {
        self.get(&["reservations", &id.to_string()], &[], QUICK).await
    }
    /// Gives it another end.
    pub async fn extend(&self, id: ReservationId, wish: &Extend) -> Result<ReservationView> {
        self.post(&["reservations", &id.to_string(), "extend"], &[], wish).await
    }
    /// Gives its computer back.
    pub async fn release(&self, id: ReservationId, wish: &Release) -> Result<ReservationView> {
        self.post(&["reservations", &id.to_string(), "release"], &[], wish).await
    }
    /// Says that one comes, and learns how.
    pub async fn connect(&self, id: ReservationId, wish: &Connect) -> Result<Connection> {
        self.post(&["reservations", &id.to_string(), "connect"], &[], wish).await
    }
    /// Loads its computer anew.
    pub async fn reload(&self, id: ReservationId) -> Result<Submitted> {
        self.post(&["reservations", &id.to_string(), "reload"], &[], &()).await
    }
    /// Captures what is on its computer.
    pub async fn checkpoint(&self, id: ReservationId) -> Result<Submitted> {
        self.post(&["reservations", &id.to_string(), "checkpoint"], &[], &()).await
    }
    /// Changes who is let in.
    pub async fn change_access(&self, id: ReservationId, change: &AccessChange) -> Result<ReservationView> {
        self.post(&["reservations", &id.to_string(), "access"], &[], change).await
    }
    /// Starts its computer anew.
    pub async fn reboot(&self, id: ReservationId, hard: bool) -> Result<ReservationView> {
        self.post(&["reservations", &id.to_string(), "reboot"], &[], &Reboot { hard }).await
    }
}
