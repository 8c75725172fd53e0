//! The image library: staging, digests, publishing
