//! The daemon that lends machines
