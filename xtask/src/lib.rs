//! Developer commands
