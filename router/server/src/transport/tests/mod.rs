//! The fleet over the in-process link and over a real socket, with hand-made workers.

mod actions;
mod handshake;
mod map;
mod rig;
mod socket;
