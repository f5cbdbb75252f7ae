//! The durations of a worker's last steps, and their 99th percentile at once: a ring for age beside a sorted list.

use std::collections::VecDeque;

/// Steps that count.
const STEPS: usize = 1_000;

/// Durations in microseconds.
#[derive(Debug, Default)]
pub(crate) struct StepTimes {
    by_age: VecDeque<u64>,
    by_size: Vec<u64>,
}

impl StepTimes {
    /// Adds a step and forgets the oldest one past the thousand.
    pub(crate) fn add(&mut self, micros: u64) {
        if self.by_age.len() == STEPS
            && let Some(oldest) = self.by_age.pop_front()
            && let Ok(index) = self.by_size.binary_search(&oldest)
        {
            self.by_size.remove(index);
        }
        self.by_age.push_back(micros);
        let index = self.by_size.partition_point(|known| *known <= micros);
        self.by_size.insert(index, micros);
    }

    /// The smallest duration that 99 % of the steps do not exceed; 0 before the first step.
    pub(crate) fn p99_micros(&self) -> u64 {
        let index = (self.by_size.len() * 99).div_ceil(100).saturating_sub(1);
        self.by_size.get(index).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(steps: &[u64]) -> u64 {
        let mut last = steps[steps.len().saturating_sub(STEPS)..].to_vec();
        last.sort_unstable();
        let count = last.len();
        last.iter()
            .enumerate()
            .find(|(index, _)| (index + 1) * 100 >= count * 99)
            .map_or(0, |(_, micros)| *micros)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn p99_equals_that_of_a_sorted_copy(steps in proptest::collection::vec(0_u64..500, 0..2_500)) {
            let mut times = StepTimes::default();
            for micros in &steps {
                times.add(*micros);
            }
            prop_assert_eq!(times.p99_micros(), naive(&steps));
            prop_assert_eq!(times.by_size.len(), steps.len().min(STEPS));
        }
    }
}
