//! How a call is cut into units of work.

use std::ops::Range;

/// Rows of a panel, at most: their activations stay in the second-level cache while the weights go by.
const PANEL_ROWS: usize = 96;
/// Aim for the length of a unit: long against a claim, short against a thread that loses its core in the middle of one.
const UNIT_NANOS: u64 = 40_000;
/// Work below this is not worth waking anybody for.
const ALONE_NANOS: u64 = 20_000;
/// Units for each thread, at least, where there are blocks enough: so that the last one to finish is not waited for long.
const UNITS_PER_THREAD: usize = 3;

/// Panels of rows times groups of blocks. A group is what must be summed together: one block, or a gate and its up block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    rows: usize,
    num_panels: usize,
    num_groups: usize,
    groups_per_unit: usize,
}

impl Plan {
    /// `group_steps` are the steps of all blocks of a group.
    pub(crate) fn new(rows: usize, num_groups: usize, group_steps: usize, threads: usize) -> Self {
        let num_panels = rows.div_ceil(PANEL_ROWS);
        let nanos = block_nanos(rows.div_ceil(num_panels.max(1)), group_steps);
        let total = nanos.saturating_mul(wide(num_groups * num_panels));
        let groups_per_unit = if threads == 1 || total < ALONE_NANOS {
            num_groups
        } else {
            let aim = usize::try_from(UNIT_NANOS / nanos.max(1)).unwrap_or(1);
            aim.min(num_groups * num_panels / (threads * UNITS_PER_THREAD))
        };
        Self {
            rows,
            num_panels,
            num_groups,
            groups_per_unit: groups_per_unit.clamp(1, num_groups),
        }
    }

    fn units_per_panel(&self) -> usize {
        self.num_groups.div_ceil(self.groups_per_unit)
    }

    pub(crate) fn num_units(&self) -> usize {
        self.units_per_panel() * self.num_panels
    }

    /// Rows and groups of one unit.
    pub(crate) fn unit(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let panel = unit / self.units_per_panel();
        let group = unit % self.units_per_panel() * self.groups_per_unit;
        (
            part(0..self.rows, panel, self.num_panels),
            group..self.num_groups.min(group + self.groups_per_unit),
        )
    }
}

impl Plan {
    /// The first group of the unit that the thread of `unit` will probably claim next: threads claim in turn.
    pub(crate) fn next_of_thread(&self, unit: usize, threads: usize) -> Option<usize> {
        let next = unit + threads;
        (next < self.num_units()).then(|| self.unit(next).1.start)
    }
}

/// Cuts rows into the fewest parts of at most `most`, as equal as can be: 13 rows are 7 and 6, not 12 and 1.
pub(crate) fn even_parts(rows: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let parts = rows.len().div_ceil(most);
    (0..parts).map(move |index| part(rows.clone(), index, parts))
}

/// Part `index` of `parts`; the longer ones come first.
fn part(range: Range<usize>, index: usize, parts: usize) -> Range<usize> {
    let edge = |index: usize| range.start + (range.len() * index).div_ceil(parts);
    edge(index)..edge(index + 1)
}

/// Nanoseconds for one block and so many rows: reading it at 12 GB/s or computing at 64 GFLOP/s.
pub(crate) fn block_nanos(rows: usize, steps: usize) -> u64 {
    wide(steps).saturating_mul(wide(rows).max(10))
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_each_row_and_group_once() {
        for (rows, groups, steps, threads) in [
            (1, 1, 1, 1),
            (1, 48, 576, 2),
            (97, 18, 1536, 3),
            (300, 2, 7, 8),
            (16, 1_536, 8, 2),
        ] {
            let plan = Plan::new(rows, groups, steps, threads);
            let mut seen = vec![0; rows * groups];
            for unit in 0..plan.num_units() {
                let (panel, groups_of_unit) = plan.unit(unit);
                assert!(panel.len() <= PANEL_ROWS);
                for row in panel {
                    for group in groups_of_unit.clone() {
                        seen[row * groups + group] += 1;
                    }
                }
            }
            assert_eq!(seen, vec![1; seen.len()], "{plan:?}");
            let units = plan.num_units();
            let next = |unit| plan.next_of_thread(unit, threads);
            assert_eq!(units.checked_sub(threads).and_then(next), None);
            assert!((0..units).filter_map(next).all(|group| group < groups));
        }
    }

    #[test]
    fn rows_are_cut_evenly() {
        let parts = |rows| even_parts(rows, 12).collect::<Vec<_>>();
        assert_eq!(parts(0..13), [0..7, 7..13]);
        assert_eq!(parts(5..29), [5..17, 17..29]);
        assert_eq!(parts(0..25), [0..9, 9..17, 17..25]);
        assert_eq!(parts(3..3), []);
    }

    #[test]
    fn wide_weights_are_shared_and_small_ones_are_not() {
        assert_eq!(Plan::new(1, 2, 64, 2).num_units(), 1);
        assert!(Plan::new(1, 48, 576, 2).num_units() >= 6);
        assert!(Plan::new(192, 2, 64, 2).num_units() >= 2);
        assert_eq!(Plan::new(1, 48, 576, 1).num_units(), 1);
    }
}
