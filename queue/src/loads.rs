//! What a load changes here, at its beginning and at its end: one transaction each, so that it waits for one fsync where
//! each change by itself would wait for its own.

use crate::{Claim, Error, Kind, Queue, Result, computers, reservations};
use vcl_types::state::{computer, reservation};
use vcl_types::{ComputerName, ImageRef, Loaded, ReservationId};

impl Queue {
    /// A load begins: the computer that the job holds is loading, and reserved for `owner`. `key` is the step's, and the
    /// same step of the same job gets the same answer when it asks again.
    ///
    /// # Errors
    /// As [`computer_event`](Self::computer_event) and [`open_reservation`](Self::open_reservation).
    pub async fn begin_load(
        &self,
        claim: &Claim,
        key: &str,
        owner: &str,
        computer: &ComputerName,
        image: &ImageRef,
    ) -> Result<ReservationId> {
        let (claim, key, owner) = (claim.clone(), key.to_owned(), owner.to_owned());
        let (computer, image) = (computer.clone(), image.clone());
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    let event = computer::Event::Load;
                    let held = computers::held(&mut *db, &claim, &key, &computer, event).await?;
                    held.happen(&mut *db, &claim, &key).await?;
                    reservations::open(db, &claim, &owner, &computer, &image).await
                })
            },
            |id| id,
        )
        .await
    }

    /// A load has ended well: the computer that the job holds has `loaded` on it, nothing is said of it any more, and its
    /// reservation is ready. `key` is the step's.
    ///
    /// # Errors
    /// As [`computer_event`](Self::computer_event) and [`reservation_event`](Self::reservation_event).
    pub async fn end_load(
        &self,
        claim: &Claim,
        key: &str,
        computer: &ComputerName,
        loaded: &Loaded,
        reservation: ReservationId,
    ) -> Result<()> {
        let (claim, key, computer) = (claim.clone(), key.to_owned(), computer.clone());
        let loaded = loaded.clone();
        self.write_beside(
            move |db| {
                Box::pin(async move {
                    let event = computer::Event::Loaded;
                    let held = computers::held(&mut *db, &claim, &key, &computer, event).await?;
                    let reserved = reservations::get(&mut *db, reservation).await?;
                    if reserved.computer.as_ref() != Some(&computer) {
                        let message = format!("reservation {reservation} is not of {computer}");
                        return Err(Error::new(Kind::Refused, message));
                    }
                    held.happen_with(&mut *db, &claim, &key, &loaded).await?;
                    reservations::happen(db, &claim, &key, &reserved, reservation::Event::Loaded).await?;
                    Ok(())
                })
            },
            |()| (),
        )
        .await
    }
}
