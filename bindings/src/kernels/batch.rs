//! `BatchView`: the arrays of one step's batch, copied and looked at once, for the attention of every layer.

use numpy::{PyReadonlyArray1, PyReadonlyArray2, PyUntypedArrayMethods};
use pyo3::prelude::*;
use slackwater_kernels::{self as kernels, BLOCK_SIZE};

use super::weights::KvCache;
use super::{KernelError, lent};

/// Which tokens a step computes, and where their keys and values lie.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct BatchView {
    positions: Vec<i32>,
    slot_mapping: Vec<i64>,
    seq_starts: Vec<i32>,
    seq_lens: Vec<i32>,
    block_tables: Vec<i32>,
    table_width: usize,
    num_blocks: usize,
    /// Sum over the tokens of the keys that each may see.
    pub(crate) keys: u64,
    /// The longest context.
    pub(crate) context: usize,
}

impl BatchView {
    pub(crate) fn view(&self) -> kernels::BatchView<'_> {
        kernels::BatchView {
            positions: &self.positions,
            slot_mapping: &self.slot_mapping,
            seq_starts: &self.seq_starts,
            seq_lens: &self.seq_lens,
            block_tables: &self.block_tables,
            table_width: self.table_width,
        }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.positions.len()
    }

    fn check(&self) -> Result<(), String> {
        let (tokens, seqs) = (self.positions.len(), self.seq_lens.len());
        check_length("slot_mapping", self.slot_mapping.len(), tokens)?;
        check_length("seq_starts", self.seq_starts.len(), seqs + 1)?;
        check_length(
            "block_tables",
            self.block_tables.len(),
            seqs * self.table_width,
        )?;
        let ascending = self.seq_starts.is_sorted_by(|a, b| a < b);
        let ends = (
            self.seq_starts.first(),
            self.seq_starts.last().map(|end| index(*end)),
        );
        if !ascending || ends != (Some(&0), Some(Some(tokens))) {
            return Err(format!("seq_starts must ascend from 0 to {tokens}"));
        }
        let slots = i64::try_from(self.num_blocks.saturating_mul(BLOCK_SIZE)).unwrap_or(i64::MAX);
        if let Some(slot) = self
            .slot_mapping
            .iter()
            .find(|slot| !(-1..slots).contains(slot))
        {
            return Err(format!("slot {slot} of a cache of {slots} slots"));
        }
        let block = |id: &&i32| index(**id).is_none_or(|id| id >= self.num_blocks);
        if let Some(id) = self.block_tables.iter().find(block) {
            return Err(format!(
                "block {id} of a cache of {} blocks",
                self.num_blocks
            ));
        }
        self.check_sequences()
    }

    /// Each sequence's context fits its table, and its tokens lie within the context.
    fn check_sequences(&self) -> Result<(), String> {
        let room = self.table_width.saturating_mul(BLOCK_SIZE);
        let bounds = self.seq_starts.iter().zip(self.seq_starts.iter().skip(1));
        for (seq, ((start, stop), length)) in bounds.zip(&self.seq_lens).enumerate() {
            if index(*length).is_none_or(|length| length > room) {
                return Err(format!(
                    "sequence {seq} has {length} tokens and a table for {room}"
                ));
            }
            let tokens = index(*start)
                .zip(index(*stop))
                .map(|(start, stop)| start..stop);
            let positions = tokens
                .and_then(|tokens| self.positions.get(tokens))
                .unwrap_or_default();
            if let Some(position) = positions
                .iter()
                .find(|position| !(0..*length).contains(*position))
            {
                return Err(format!(
                    "position {position} in sequence {seq} of {length} tokens"
                ));
            }
        }
        Ok(())
    }
}

#[pymethods]
impl BatchView {
    /// Tokens of the longest context.
    #[getter]
    fn max_context(&self) -> usize {
        self.context
    }

    #[new]
    fn new(
        kv: &KvCache,
        positions: PyReadonlyArray1<'_, i32>,
        slot_mapping: PyReadonlyArray1<'_, i64>,
        seq_starts: PyReadonlyArray1<'_, i32>,
        seq_lens: PyReadonlyArray1<'_, i32>,
        block_tables: PyReadonlyArray2<'_, i32>,
    ) -> PyResult<Self> {
        let &[seqs, table_width] = block_tables.shape() else {
            return Err(KernelError::new_err("block_tables is no table"));
        };
        if !block_tables.is_c_contiguous() || seqs != seq_lens.len() {
            return Err(KernelError::new_err(format!(
                "block_tables has {seqs} rows for {} sequences, or is not C-contiguous",
                seq_lens.len()
            )));
        }
        let positions = lent(positions.as_slice(), "positions")?.to_vec();
        let batch = Self {
            keys: positions
                .iter()
                .map(|position| u64::from(position.unsigned_abs()) + 1)
                .sum(),
            context: lent(seq_lens.as_slice(), "seq_lens")?
                .iter()
                .filter_map(|length| index(*length))
                .max()
                .unwrap_or(0),
            positions,
            slot_mapping: lent(slot_mapping.as_slice(), "slot_mapping")?.to_vec(),
            seq_starts: lent(seq_starts.as_slice(), "seq_starts")?.to_vec(),
            seq_lens: lent(seq_lens.as_slice(), "seq_lens")?.to_vec(),
            block_tables: lent(block_tables.as_slice(), "block_tables")?.to_vec(),
            table_width,
            num_blocks: kv.inner.num_blocks(),
        };
        batch.check().map_err(KernelError::new_err)?;
        Ok(batch)
    }
}

fn index(value: i32) -> Option<usize> {
    usize::try_from(value).ok()
}

fn check_length(what: &str, actual: usize, expected: usize) -> Result<(), String> {
    if actual == expected {
        Ok(())
    } else {
        Err(format!("{what} has {actual} elements, expected {expected}"))
    }
}
