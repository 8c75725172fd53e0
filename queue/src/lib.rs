//! Jobs, reservations, computers, images, events and journals in SQL
