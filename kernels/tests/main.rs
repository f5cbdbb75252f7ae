//! The kernels from outside: against float64, against each other, and against themselves in another company of rows.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a failure here is a failed test"
)]

mod attention;
mod kv;
mod linear;
mod linear_doors;
mod linear_fused;
mod norm;
mod rope;
mod sample;
