//! What is kept as it should be while the daemon runs: each looks at things as they are, decides in a pure function,
//! and asks for jobs. None tries again by itself: the next look does.

pub(crate) mod replicas;
