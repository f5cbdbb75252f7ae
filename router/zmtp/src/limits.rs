//! What a peer may make this side hold. Each limit is checked where a length is read, before anything is reserved.

/// Limits of one connection, in bytes where the name says nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame of a message.
    pub max_frame: usize,
    /// Most frames of a message.
    pub max_parts: usize,
    /// Largest message, all its frames together.
    pub max_message: usize,
    /// Largest first message: until it is read, nobody knows who the peer is.
    pub max_first_message: usize,
    /// Largest command after READY.
    pub max_command: usize,
    /// All that may come between the greeting and the end of READY, frame headers included.
    pub max_before_ready: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame: 16 * 1024 * 1024,
            max_parts: 8,
            max_message: 32 * 1024 * 1024,
            max_first_message: 4 * 1024,
            max_command: 512,
            max_before_ready: 512,
        }
    }
}
