//! The wire from outside: golden vectors that both languages read, and properties of the decoder.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod fixtures;
mod golden;
mod properties;
mod refusals;
