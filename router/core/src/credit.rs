//! How far a stream may run ahead of its client, so that a slow reader costs a bounded number of buffered tokens.
//!
//! Positions are absolute: a grant can be said twice, and a resumed stream goes on with the same numbers.

/// One stream's positions, in output tokens since the request began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamCredit {
    /// Tokens that the client has taken.
    taken: u32,
    /// Position up to which the worker may go; never falls.
    granted: u32,
    /// How far `granted` may be ahead of `taken`.
    window: u32,
    /// No position is past this one.
    max_tokens: u32,
}

impl StreamCredit {
    /// A stream of which nothing was taken.
    pub(crate) fn new(window: u32, max_tokens: u32) -> Self {
        let window = window.max(1); // A window of nothing would never move.
        Self {
            taken: 0,
            granted: window.min(max_tokens),
            window,
            max_tokens,
        }
    }

    /// Position up to which the worker may go.
    pub(crate) const fn granted(&self) -> u32 {
        self.granted
    }

    /// The client has taken tokens; `emitted` is what it can have taken at most. Gives the new grant, if one is due.
    pub(crate) fn take(&mut self, up_to: u32, emitted: u32) -> Option<u32> {
        self.taken = self.taken.max(up_to.min(emitted));
        let ahead = self.granted.saturating_sub(self.taken);
        if self.granted == self.max_tokens || ahead > self.window / 2 {
            return None;
        }
        self.renew();
        Some(self.granted)
    }

    /// Grants all that may be granted now, for a new placement.
    pub(crate) fn renew(&mut self) {
        let up_to = self.taken.saturating_add(self.window).min(self.max_tokens);
        self.granted = self.granted.max(up_to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_granted_again_at_half() {
        let mut credit = StreamCredit::new(8, 100);
        assert_eq!(credit.granted(), 8);
        assert_eq!(credit.take(3, 8), None);
        assert_eq!(credit.take(4, 8), Some(12));
        assert_eq!(credit.take(4, 8), None);
        assert_eq!(credit.granted(), 12);
    }

    #[test]
    fn nothing_is_granted_past_the_end_or_for_tokens_that_were_not_there() {
        let mut credit = StreamCredit::new(8, 10);
        assert_eq!(credit.take(u32::MAX, 4), Some(10));
        assert_eq!(credit.take(10, 10), None);
        assert_eq!(StreamCredit::new(8, 3).granted(), 3);
        assert_eq!(StreamCredit::new(0, 3).granted(), 1);
    }

    #[test]
    fn a_new_placement_gets_what_may_be_granted_and_never_less_than_before() {
        let mut credit = StreamCredit::new(8, 100);
        assert_eq!(credit.take(3, 8), None);
        credit.renew();
        assert_eq!(credit.granted(), 11);
    }
}
