//! Tests of the server over real sockets: the driver's end of the handle is played by the test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy does not see the helpers of tests as tests"
)]

mod http;
mod support;
mod text;
