//! The codec against hand-made and arbitrary bytes, and the endpoint over real sockets.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod caps;
mod endpoint;
mod handshake;
mod peer;
mod properties;
