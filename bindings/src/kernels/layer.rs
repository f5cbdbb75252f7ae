//! A whole layer in one call, or in two where rows are picked in its middle: the operations of `site` one after the other.
//!
//! In a step of few rows an operation is short, and what a call of its own costs the interpreter is a part of it that shows.

use pyo3::prelude::*;
use slackwater_kernels::{self as kernels, Act};

use super::batch::BatchView;
use super::buf::{Buf, Workspace};
use super::site::{Site, act_of, attend_micros};
use super::weights::{AttnSpec, GateUp, KvCache, PackedLinear, Vector};
use super::{DETACH_MICROS, Pool, Refusal, check_shape, guarded};

/// Weights of the norms of query and key heads, and their epsilon.
type QkNorm = (Py<Vector>, Py<Vector>, f32);

/// The weights of a pre-norm layer: attention, then a gated feed-forward part.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct Layer {
    spec: Py<AttnSpec>,
    input_norm: Py<Vector>,
    qkv: Py<PackedLinear>,
    qk_norm: Option<QkNorm>,
    o: Py<PackedLinear>,
    post_norm: Py<Vector>,
    gate_up: Py<GateUp>,
    down: Py<PackedLinear>,
    act: Act,
    eps: f32,
}

#[pymethods]
impl Layer {
    #[new]
    #[pyo3(signature = (spec, input_norm, qkv, qk_norm, o, post_norm, gate_up, down, act, eps))]
    #[allow(clippy::too_many_arguments, reason = "all weights of a layer")]
    fn new(
        spec: Py<AttnSpec>,
        input_norm: Py<Vector>,
        qkv: Py<PackedLinear>,
        qk_norm: Option<QkNorm>,
        o: Py<PackedLinear>,
        post_norm: Py<Vector>,
        gate_up: Py<GateUp>,
        down: Py<PackedLinear>,
        act: &str,
        eps: f32,
    ) -> PyResult<Self> {
        let layer = Self {
            spec,
            input_norm,
            qkv,
            qk_norm,
            o,
            post_norm,
            gate_up,
            down,
            act: act_of(act)?,
            eps,
        };
        layer.check()?;
        Ok(layer)
    }
}

impl Layer {
    /// What one operation gives is what the next one takes.
    fn check(&self) -> Result<(), Refusal> {
        let what = &self.spec.get().inner;
        let hidden = self.input_norm.get().inner.len();
        let heads = what.num_heads * what.head_dim;
        let width = heads + 2 * what.num_kv_heads * what.head_dim;
        let shape = |linear: &Py<PackedLinear>| {
            let linear = &linear.get().inner;
            [linear.columns(), linear.depth()]
        };
        let gate_up = &self.gate_up.get().inner;
        let inner = gate_up.columns();
        check_shape("qkv", shape(&self.qkv), [width, hidden])?;
        check_shape("o", shape(&self.o), [hidden, heads])?;
        let post_norm = self.post_norm.get().inner.len();
        check_shape("post_norm", [1, post_norm], [1, hidden])?;
        check_shape("gate_up", [inner, gate_up.depth()], [inner, hidden])?;
        check_shape("down", shape(&self.down), [hidden, inner])
    }

    fn attention_micros(&self, batch: &BatchView) -> u64 {
        let linear = self.qkv.get().inner.estimated_micros(batch.tokens());
        linear.saturating_add(attend_micros(self.spec.get(), batch))
    }

    fn feed_forward_micros(&self, rows: usize) -> u64 {
        let o = self.o.get().inner.estimated_micros(rows);
        let gate_up = self.gate_up.get().inner.estimated_micros(rows);
        let down = self.down.get().inner.estimated_micros(rows);
        o.saturating_add(gate_up).saturating_add(down)
    }

    fn attention(
        &self,
        site: &Site<'_>,
        x: &Buf,
        delta: Option<&Buf>,
        kv: &KvCache,
        index: usize,
        batch: &BatchView,
    ) -> Result<Buf, Refusal> {
        let normed = site.add_norm(x, delta, &self.input_norm.get().inner, self.eps)?;
        let qkv = site.linear(&normed, &self.qkv.get().inner)?;
        drop(normed);
        let qk_norm = self.qk_norm.as_ref().map(|(q, k, eps)| kernels::QkNorm {
            q: &q.get().inner,
            k: &k.get().inner,
            eps: *eps,
        });
        site.attend(&qkv, kv, index, self.spec.get(), batch, qk_norm)
    }

    fn feed_forward(&self, site: &Site<'_>, x: &Buf, attended: &Buf) -> Result<Buf, Refusal> {
        let delta = site.linear(attended, &self.o.get().inner)?;
        let normed = site.add_norm(x, Some(&delta), &self.post_norm.get().inner, self.eps)?;
        drop(delta);
        let gated = site.gate_up_act(&normed, &self.gate_up.get().inner, self.act)?;
        drop(normed);
        site.linear(&gated, &self.down.get().inner)
    }
}

/// The first half of a layer: `x += delta` in place, norm, queries, keys and values, attention: `[N, Hq D]`.
#[pyfunction]
#[pyo3(signature = (x, delta, layer, kv, index, batch, workspace, pool))]
#[allow(clippy::too_many_arguments, reason = "an operation of the model")]
pub(crate) fn attention(
    py: Python<'_>,
    x: &Buf,
    delta: Option<&Buf>,
    layer: &Layer,
    kv: &KvCache,
    index: usize,
    batch: &BatchView,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let site = Site::new(workspace, pool);
    let long = layer.attention_micros(batch) > DETACH_MICROS;
    guarded(py, long, || {
        layer.attention(&site, x, delta, kv, index, batch)
    })
}

/// The second half of a layer, on what the first one gave: `x += o(attended)` in place, norm, gate and up, down:
/// `[N, H]`, to be added to `x`.
#[pyfunction]
pub(crate) fn feed_forward(
    py: Python<'_>,
    x: &Buf,
    attended: &Buf,
    layer: &Layer,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let site = Site::new(workspace, pool);
    let long = layer.feed_forward_micros(x.rows) > DETACH_MICROS;
    guarded(py, long, || layer.feed_forward(&site, x, attended))
}

/// Both halves.
#[pyfunction]
#[pyo3(signature = (x, delta, layer, kv, index, batch, workspace, pool))]
#[allow(clippy::too_many_arguments, reason = "an operation of the model")]
pub(crate) fn layer(
    py: Python<'_>,
    x: &Buf,
    delta: Option<&Buf>,
    layer: &Layer,
    kv: &KvCache,
    index: usize,
    batch: &BatchView,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let site = Site::new(workspace, pool);
    let micros = layer
        .attention_micros(batch)
        .saturating_add(layer.feed_forward_micros(x.rows));
    guarded(py, micros > DETACH_MICROS, || {
        let attended = layer.attention(&site, x, delta, kv, index, batch)?;
        layer.feed_forward(&site, x, &attended)
    })
}
