//! Tokens: who may join. A launch token belongs to one child process, the join token to whoever can read its file.
//!
//! All tokens are derived from one secret that was drawn at the start, so that making one cannot fail.

use std::collections::BTreeMap;
use std::fmt;
use std::hint::black_box;

use sha2::{Digest, Sha256};
use slackwater_core::{Epoch, WorkerId};
use thiserror::Error;

/// 128 bits that nobody can guess; 32 lower-case hex digits as text.
#[derive(Clone, Copy)]
pub struct Token(u128);

impl Token {
    fn parse(text: &str) -> Option<Self> {
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (text.len() == 32 && is_hex)
            .then(|| u128::from_str_radix(text, 16).ok())
            .flatten()
            .map(Self)
    }

    /// Equality in a time that does not depend on where the two differ.
    fn is(self, other: Self) -> bool {
        black_box(self.0 ^ other.0) == 0
    }

    /// As it travels. A secret: for the pipe and the file only.
    pub fn reveal(self) -> String {
        format!("{:032x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Whose token it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// An own child.
    Own(WorkerId),
    /// Somebody who can read the token's file.
    Joined,
}

/// Why a token does not admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is none, or its child has exited.
    #[error(
        "the token is not known; a worker that joins reads worker.token beside the socket again"
    )]
    Unknown,
    /// It has a live link already.
    #[error("the token of worker {worker} has a live link already")]
    InUse {
        /// Whose it is.
        worker: WorkerId,
    },
}

#[derive(Debug)]
struct Launch {
    token: Token,
    live: Option<Epoch>,
}

/// All tokens that are good now.
pub struct TokenBook {
    secret: [u8; 32],
    drawn: u64,
    join: Token,
    launches: BTreeMap<WorkerId, Launch>,
}

impl TokenBook {
    /// A book whose tokens follow from this secret.
    pub fn new(secret: [u8; 32]) -> Self {
        Self {
            secret,
            drawn: 0,
            join: derive(&secret, 0),
            launches: BTreeMap::new(),
        }
    }

    /// The token that admits any number of links.
    pub const fn join_token(&self) -> Token {
        self.join
    }

    /// A fresh token for a child that is about to start; the one before it is void.
    pub fn launch(&mut self, worker: WorkerId) -> Token {
        self.drawn += 1;
        let token = derive(&self.secret, self.drawn);
        self.launches.insert(worker, Launch { token, live: None });
        token
    }

    /// The child has exited: its token admits nobody any more.
    pub fn exited(&mut self, worker: WorkerId) {
        self.launches.remove(&worker);
    }

    /// Whose token this is, if it admits a link now. All tokens are compared, in constant time each.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn check(&self, text: &str) -> Result<Holder, TokenError> {
        let given = Token::parse(text).ok_or(TokenError::Unknown)?;
        let mut holder = given.is(self.join).then_some(Holder::Joined);
        for (worker, launch) in &self.launches {
            if given.is(launch.token) {
                holder = Some(Holder::Own(*worker));
            }
        }
        match holder {
            Some(Holder::Own(worker)) if self.is_live(worker) => Err(TokenError::InUse { worker }),
            Some(holder) => Ok(holder),
            None => Err(TokenError::Unknown),
        }
    }

    /// An own child's link begins; until [`TokenBook::left`] its token admits no other.
    pub fn enter(&mut self, worker: WorkerId, epoch: Epoch) {
        if let Some(launch) = self.launches.get_mut(&worker) {
            launch.live = Some(epoch);
        }
    }

    /// An own child's link ended. That of an earlier child of the same name changes nothing.
    pub fn left(&mut self, worker: WorkerId, epoch: Epoch) {
        if let Some(launch) = self.launches.get_mut(&worker)
            && launch.live == Some(epoch)
        {
            launch.live = None;
        }
    }

    fn is_live(&self, worker: WorkerId) -> bool {
        self.launches
            .get(&worker)
            .is_some_and(|launch| launch.live.is_some())
    }
}

fn derive(secret: &[u8; 32], number: u64) -> Token {
    let digest = Sha256::new()
        .chain_update(secret)
        .chain_update(number.to_le_bytes())
        .finalize();
    Token(
        digest
            .iter()
            .take(16)
            .fold(0, |token, byte| token << 8 | u128::from(*byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: WorkerId = WorkerId(3);

    fn book() -> TokenBook {
        TokenBook::new([7; 32])
    }

    #[test]
    fn a_launch_token_admits_one_live_link_at_a_time() {
        let mut book = book();
        let token = book.launch(OWN).reveal();
        assert_eq!(book.check(&token), Ok(Holder::Own(OWN)));
        book.enter(OWN, Epoch(1));
        assert_eq!(book.check(&token), Err(TokenError::InUse { worker: OWN }));
        book.left(OWN, Epoch(1));
        assert_eq!(book.check(&token), Ok(Holder::Own(OWN)));
    }

    #[test]
    fn a_launch_token_ends_with_its_child() {
        let mut book = book();
        let first = book.launch(OWN).reveal();
        book.enter(OWN, Epoch(1));
        book.exited(OWN);
        assert_eq!(book.check(&first), Err(TokenError::Unknown));
        let second = book.launch(OWN).reveal();
        assert_ne!(first, second);
        assert_eq!(book.check(&first), Err(TokenError::Unknown));
        book.enter(OWN, Epoch(2));
        book.left(OWN, Epoch(1)); // The first child's link is noticed late.
        assert_eq!(book.check(&second), Err(TokenError::InUse { worker: OWN }));
    }

    #[test]
    fn the_join_token_admits_any_number_of_links() {
        let book = book();
        let token = book.join_token().reveal();
        assert_eq!(book.check(&token), Ok(Holder::Joined));
        assert_eq!(book.check(&token), Ok(Holder::Joined));
    }

    #[test]
    fn what_is_no_token_is_unknown() {
        let mut book = book();
        let token = book.launch(OWN).reveal();
        assert_eq!(token.len(), 32);
        let wrong = format!(
            "{}{}",
            &token[..31],
            if token.ends_with('0') { '1' } else { '0' }
        );
        for text in [
            wrong.as_str(),
            "",
            &token[..31],
            &format!("+{}", &token[1..]),
            &token.repeat(2),
            "\u{1f30a}",
        ] {
            assert_eq!(book.check(text), Err(TokenError::Unknown), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        assert_eq!(format!("{:?}", book().join_token()), "Token(..)");
    }
}
