//! What is made at load time: packed weights, vectors, rotary tables and the paged cache.

use std::sync::{Arc, PoisonError, RwLock};

use numpy::{PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use slackwater_kernels as kernels;
use slackwater_kernels::kv::MAX_HEAD_DIM;

use super::{KernelError, check_shape, guarded, lent, refused, row_major};

/// More heads than any model has.
const MAX_HEADS: usize = 1 << 16;

/// The weights of a linear layer, packed for the kernels.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct PackedLinear {
    pub(crate) inner: kernels::Linear,
}

#[pymethods]
impl PackedLinear {
    #[new]
    #[pyo3(signature = (weight, bias=None, dtype="float32"))]
    fn new(
        py: Python<'_>,
        weight: PyReadonlyArray2<'_, f32>,
        bias: Option<PyReadonlyArray1<'_, f32>>,
        dtype: &str,
    ) -> PyResult<Self> {
        let dtype = dtype.parse().map_err(refused)?;
        let [columns, depth] = row_major(&weight, "weight")?;
        let weight = lent(weight.as_slice(), "weight")?;
        let bias = bias
            .as_ref()
            .map(|bias| lent(bias.as_slice(), "bias"))
            .transpose()?;
        let inner = guarded(py, true, || {
            kernels::Linear::pack(weight, columns, depth, bias, dtype)
        })?;
        Ok(Self { inner })
    }

    /// Shape of the weight, `(N, K)`.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.inner.columns(), self.inner.depth())
    }

    /// Format of the packed weight.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.inner.dtype().name()
    }

    /// Memory that it holds, in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.bytes()
    }
}

/// The two weights of a gated layer, packed for the kernels.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct GateUp {
    pub(crate) inner: kernels::GateUp,
}

#[pymethods]
impl GateUp {
    #[new]
    #[pyo3(signature = (gate, up, dtype="float32"))]
    fn new(
        py: Python<'_>,
        gate: PyReadonlyArray2<'_, f32>,
        up: PyReadonlyArray2<'_, f32>,
        dtype: &str,
    ) -> PyResult<Self> {
        let dtype = dtype.parse().map_err(refused)?;
        let [columns, depth] = row_major(&gate, "gate")?;
        check_shape("up", row_major(&up, "up")?, [columns, depth])?;
        let (gate, up) = (lent(gate.as_slice(), "gate")?, lent(up.as_slice(), "up")?);
        let inner = guarded(py, true, || {
            kernels::GateUp::pack(gate, up, columns, depth, dtype)
        })?;
        Ok(Self { inner })
    }

    /// Shape of each weight, `(I, H)`.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.inner.columns(), self.inner.depth())
    }

    /// Format of the packed weights.
    #[getter]
    fn dtype(&self) -> &'static str {
        self.inner.dtype().name()
    }

    /// Memory that it holds, in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.bytes()
    }
}

/// A float32 vector, such as a norm's weight.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct Vector {
    pub(crate) inner: Vec<f32>,
}

#[pymethods]
impl Vector {
    #[new]
    fn new(values: PyReadonlyArray1<'_, f32>) -> PyResult<Self> {
        let inner = lent(values.as_slice(), "values")?.to_vec();
        Ok(Self { inner })
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }
}

/// Cosines and sines by position.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct RopeTable {
    inv_freq: Vec<f32>,
    scale: f32,
    made: RwLock<Arc<kernels::RopeTable>>,
}

impl RopeTable {
    /// The table as it is now.
    pub(crate) fn made(&self) -> Arc<kernels::RopeTable> {
        Arc::clone(&self.made.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[pymethods]
impl RopeTable {
    #[new]
    fn new(
        py: Python<'_>,
        inv_freq: PyReadonlyArray1<'_, f32>,
        scale: f32,
        max_positions: usize,
    ) -> PyResult<Self> {
        let inv_freq = lent(inv_freq.as_slice(), "inv_freq")?.to_vec();
        let made = guarded(py, true, || {
            kernels::RopeTable::new(&inv_freq, scale, max_positions)
        })?;
        Ok(Self {
            inv_freq,
            scale,
            made: RwLock::new(Arc::new(made)),
        })
    }

    /// Makes it anew for so many positions. A call that runs goes on with the table that it began with.
    fn resize(&self, py: Python<'_>, max_positions: usize) -> PyResult<()> {
        let made = guarded(py, true, || {
            kernels::RopeTable::new(&self.inv_freq, self.scale, max_positions)
        })?;
        *self.made.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
        Ok(())
    }

    /// Memory that it holds, in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.made().bytes()
    }
}

/// Shape, scale and rotation of an attention layer.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct AttnSpec {
    pub(crate) inner: kernels::AttnSpec,
    pub(crate) rope: Option<Py<RopeTable>>,
}

#[pymethods]
impl AttnSpec {
    #[new]
    #[pyo3(signature = (num_heads, num_kv_heads, head_dim, scale, rope=None, window=None, softcap=None))]
    fn new(
        num_heads: usize,
        num_kv_heads: usize,
        head_dim: usize,
        scale: f32,
        rope: Option<Py<RopeTable>>,
        window: Option<usize>,
        softcap: Option<f32>,
    ) -> PyResult<Self> {
        if num_kv_heads == 0 || num_heads == 0 || !num_heads.is_multiple_of(num_kv_heads) {
            return Err(KernelError::new_err(format!(
                "{num_heads} heads do not divide into {num_kv_heads} groups"
            )));
        }
        check_heads(num_heads, head_dim)?;
        if let Some(softcap) = softcap.filter(|cap| !(*cap > 0.0 && cap.is_finite())) {
            return Err(KernelError::new_err(format!(
                "softcap is {softcap:?}, expected a positive number"
            )));
        }
        Ok(Self {
            inner: kernels::AttnSpec {
                num_heads,
                num_kv_heads,
                head_dim,
                scale,
                window,
                softcap,
            },
            rope,
        })
    }
}

/// Looked at here and not only at the operation's door: sizes of buffers are computed from them before.
fn check_heads(num_heads: usize, head_dim: usize) -> PyResult<()> {
    if num_heads > MAX_HEADS {
        return Err(KernelError::new_err(format!(
            "{num_heads} heads, expected 1 to {MAX_HEADS}"
        )));
    }
    if !(2..=MAX_HEAD_DIM).contains(&head_dim) || !head_dim.is_multiple_of(2) {
        return Err(KernelError::new_err(format!(
            "the head size is {head_dim}, expected an even number up to {MAX_HEAD_DIM}"
        )));
    }
    Ok(())
}

/// Keys and values of all layers, in blocks of 32 tokens.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct KvCache {
    pub(crate) inner: kernels::KvCache,
}

#[pymethods]
impl KvCache {
    #[new]
    fn new(
        py: Python<'_>,
        layers: usize,
        kv_heads: usize,
        head_dim: usize,
        num_blocks: usize,
        dtype: &str,
    ) -> PyResult<Self> {
        let dtype = dtype.parse().map_err(refused)?;
        let inner = guarded(py, true, || {
            kernels::KvCache::new(layers, kv_heads, head_dim, num_blocks, dtype)
        })?;
        Ok(Self { inner })
    }

    /// Blocks, the null block included.
    #[getter]
    fn num_blocks(&self) -> usize {
        self.inner.num_blocks()
    }

    /// Bytes of one block.
    #[getter]
    fn block_bytes(&self) -> usize {
        self.inner.block_bytes()
    }

    /// Memory that it holds, in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.bytes()
    }

    /// Name of the order of elements inside a block.
    #[getter]
    fn layout(&self) -> &'static str {
        self.inner.layout_name()
    }

    /// Copies whole blocks (from, to), one after the other, in all layers.
    fn copy_blocks(&self, py: Python<'_>, copies: Vec<(u32, u32)>) -> PyResult<()> {
        guarded(py, !copies.is_empty(), || self.inner.copy_blocks(&copies))
    }
}
