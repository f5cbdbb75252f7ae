//! The front door: what goes in and what comes out.

mod answers;
mod connections;
mod errors;
mod sampling;
mod streams;
