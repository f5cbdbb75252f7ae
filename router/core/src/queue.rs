//! Requests that wait for a worker: first come, first served in each class, and who lost his worker stands in front.

use std::collections::BTreeMap;

use crate::ids::RequestId;
use crate::request::Class;
use crate::time::Time;

/// Place in a queue. Smaller is served earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Whether it waits for its first worker; who waits again stands in front.
    fresh: bool,
    /// When the request came, not when it was queued.
    arrival: Time,
    /// Breaks ties.
    sequence: u64,
}

impl Place {
    /// For the first wait.
    pub(crate) const fn fresh(arrival: Time, sequence: u64) -> Self {
        Self {
            fresh: true,
            arrival,
            sequence,
        }
    }

    /// For every later one.
    pub(crate) const fn again(arrival: Time, sequence: u64) -> Self {
        Self {
            fresh: false,
            arrival,
            sequence,
        }
    }
}

/// One ordered queue for each class.
#[derive(Debug, Default)]
pub(crate) struct WaitingQueue {
    classes: BTreeMap<Class, BTreeMap<Place, RequestId>>,
}

impl WaitingQueue {
    /// Puts a request in its place. The bound is asked of [`Self::len`] before; who waits again is never refused.
    pub(crate) fn push(&mut self, class: Class, place: Place, request_id: RequestId) {
        self.classes
            .entry(class)
            .or_default()
            .insert(place, request_id);
    }

    /// Takes a request out.
    pub(crate) fn remove(&mut self, class: Class, place: Place) {
        if let Some(queue) = self.classes.get_mut(&class) {
            queue.remove(&place);
        }
    }

    /// The first request behind a place, or the first of all.
    pub(crate) fn after(&self, class: Class, place: Option<Place>) -> Option<(Place, RequestId)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let queue = self.classes.get(&class)?;
        let from = place.map_or(Unbounded, Excluded);
        let (place, request_id) = queue.range((from, Unbounded)).next()?;
        Some((*place, *request_id))
    }

    /// Everybody who waits, in the order of service.
    pub(crate) fn iter(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.classes
            .values()
            .flat_map(|queue| queue.values().copied())
    }

    /// Waiting requests of a class.
    pub(crate) fn len(&self, class: Class) -> usize {
        self.classes.get(&class).map_or(0, BTreeMap::len)
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.values().all(BTreeMap::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_again_stands_in_front_in_order_of_arrival() {
        let mut queue = WaitingQueue::default();
        let at = Time::from_micros;
        queue.push(Class::Standard, Place::fresh(at(5), 5), RequestId(5));
        queue.push(Class::Standard, Place::fresh(at(6), 6), RequestId(6));
        queue.push(Class::Standard, Place::again(at(9), 9), RequestId(9));
        queue.push(Class::Standard, Place::again(at(2), 2), RequestId(2));
        queue.push(Class::Interactive, Place::fresh(at(8), 8), RequestId(8));
        let order: Vec<u128> = queue.iter().map(|id| id.0).collect();
        assert_eq!(order, [8, 2, 9, 5, 6]);
        queue.remove(Class::Standard, Place::again(at(9), 9));
        let first = queue.after(Class::Standard, None);
        assert_eq!(first, Some((Place::again(at(2), 2), RequestId(2))));
        let next = queue.after(Class::Standard, first.map(|(place, _)| place));
        assert_eq!(next, Some((Place::fresh(at(5), 5), RequestId(5))));
        assert_eq!(
            (queue.len(Class::Standard), queue.len(Class::Offline)),
            (3, 0)
        );
    }
}
