//! The Provisioning trait and its backends
