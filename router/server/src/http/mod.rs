//! The front door: hyper's HTTP/1 behind our own accept loop, routes, parsing, answers and streams.
//!
//! In reading order:
//! - [`listener`]: accepts, caps, watches and ends connections;
//! - [`route`]: the table of routes with their policies;
//! - [`app`]: what handlers hold, and which routes there are;
//! - [`body`], [`json`], [`fields`], [`readers`]: from bytes to checked values;
//! - [`chat`], [`completions`], [`generate`]: from values to requests, and to an answer;
//! - [`sse`], [`chunk`], [`answer`]: how answers are written;
//! - [`models`], [`health`]: what is there and how it is;
//! - [`error`], [`code`]: the one map from errors to what clients see.

mod activity;
pub mod answer;
pub mod app;
mod bad_head;
pub mod body;
pub mod chat;
pub mod chunk;
pub mod code;
mod collect;
pub mod completions;
pub mod error;
pub mod fields;
mod format;
pub mod generate;
pub mod health;
pub mod json;
pub mod listener;
pub mod logprobs;
pub mod models;
pub mod readers;
mod requests;
pub mod route;
mod socket;
pub mod sse;
pub mod wishes;

pub use app::{App, Render, api_routes, ops_routes};
pub use listener::{Phase, run};
