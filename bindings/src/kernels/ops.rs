//! The operations of a model's layers, from buffer to buffer.

use numpy::{IntoPyArray, PyArray2, PyArrayMethods, PyReadonlyArray1, PyReadonlyArray2};
use pyo3::prelude::*;
use slackwater_kernels as kernels;

use super::batch::BatchView;
use super::buf::{Buf, Workspace};
use super::site::{Site, act_of, attend_micros, held};
use super::weights::{AttnSpec, GateUp, KvCache, PackedLinear, Vector};
use super::{DETACH_MICROS, KernelError, Pool, check_shape, chosen, guarded, lent, row_major};

/// Elements of a norm that take as long as giving up the interpreter is worth.
const DETACH_ELEMENTS: usize = 64 * 1024;

/// Rows of a packed `[V, H]` weight: `ids` is int32 `[N]`; gives `[N, H]`.
#[pyfunction]
pub(crate) fn embed(
    py: Python<'_>,
    ids: PyReadonlyArray1<'_, i32>,
    table: &PackedLinear,
    workspace: &Workspace,
) -> PyResult<Buf> {
    let ids = copied(&ids, "ids")?;
    let out = workspace.buf(ids.len(), table.inner.depth())?;
    let mut to = out.write("out")?;
    guarded(py, false, || {
        kernels::embed(&ids, &table.inner, to.floats())
    })?;
    drop(to);
    Ok(out)
}

/// `x += delta` in place, then its RMS norm times `weight`: `[N, H]` to `[N, H]`.
#[pyfunction]
pub(crate) fn add_norm(
    py: Python<'_>,
    x: &Buf,
    delta: Option<&Buf>,
    weight: &Vector,
    eps: f32,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let site = Site::new(workspace, pool);
    let long = x.rows * x.columns > DETACH_ELEMENTS;
    guarded(py, long, || site.add_norm(x, delta, &weight.inner, eps))
}

/// `x W^T + b`: `[N, in]` to `[N, out]`.
#[pyfunction]
pub(crate) fn linear(
    py: Python<'_>,
    x: &Buf,
    weight: &PackedLinear,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let site = Site::new(workspace, pool);
    let long = weight.inner.estimated_micros(x.rows) > DETACH_MICROS;
    guarded(py, long, || site.linear(x, &weight.inner))
}

/// `act(x gate^T) * (x up^T)`: `[N, H]` to `[N, I]`.
#[pyfunction]
pub(crate) fn gate_up_act(
    py: Python<'_>,
    x: &Buf,
    weight: &GateUp,
    act: &str,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let (site, act) = (Site::new(workspace, pool), act_of(act)?);
    let long = weight.inner.estimated_micros(x.rows) > DETACH_MICROS;
    guarded(py, long, || site.gate_up_act(x, &weight.inner, act))
}

/// The head on some rows of `x`: `rows` is int32 `[R]`; gives a float32 array `[R, V]` over memory of `workspace`.
#[pyfunction]
pub(crate) fn logits<'py>(
    py: Python<'py>,
    x: &Buf,
    head: &PackedLinear,
    rows: PyReadonlyArray1<'_, i32>,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Bound<'py, PyArray2<f32>>> {
    let packed = &head.inner;
    check_shape("x", [x.rows, x.columns], [x.rows, packed.depth()])?;
    let rows = copied(&rows, "rows")?;
    let out = workspace.buf(rows.len(), packed.columns())?;
    let scratch = workspace.chunk(packed.scratch_len(rows.len()))?;
    let from = x.read("x")?;
    let (mut to, mut words) = (out.write("out")?, held(&scratch)?);
    let (long, chosen) = (
        packed.estimated_micros(rows.len()) > DETACH_MICROS,
        chosen(),
    );
    guarded(py, long, || {
        kernels::logits(
            from.floats(),
            &rows,
            packed,
            to.floats(),
            words.words(),
            chosen,
            &pool.inner,
        )
    })?;
    drop(to);
    out.numpy(py)
}

/// Norm and rotation of queries and keys, the write of keys and values, and causal attention over the pages.
#[pyfunction]
#[pyo3(signature = (qkv, kv, layer, spec, batch, qk_norm, workspace, pool))]
#[allow(clippy::too_many_arguments, reason = "an operation of the model")]
pub(crate) fn attend(
    py: Python<'_>,
    qkv: &Buf,
    kv: &KvCache,
    layer: usize,
    spec: &AttnSpec,
    batch: &BatchView,
    qk_norm: Option<(PyRef<'_, Vector>, PyRef<'_, Vector>, f32)>,
    workspace: &Workspace,
    pool: &Pool,
) -> PyResult<Buf> {
    let site = Site::new(workspace, pool);
    let norm = qk_norm.as_ref().map(|(q, k, eps)| kernels::QkNorm {
        q: &q.inner,
        k: &k.inner,
        eps: *eps,
    });
    let long = attend_micros(spec, batch) > DETACH_MICROS;
    guarded(py, long, || site.attend(qkv, kv, layer, spec, batch, norm))
}

/// Floats that `attend` needs beside its buffers, for so many tokens of contexts up to so many.
#[pyfunction]
pub(crate) fn attend_scratch(
    spec: &AttnSpec,
    max_tokens: usize,
    max_context: usize,
    threads: usize,
) -> usize {
    kernels::attend_scratch_len(&spec.inner, max_tokens, max_context, threads)
}

/// Rows `first..` leave: `x` and `delta` without them, and a copy of their `x + delta`, `[N - first, H]`.
#[pyfunction]
pub(crate) fn park<'py>(
    py: Python<'py>,
    x: &Buf,
    delta: Option<&Buf>,
    first: usize,
) -> PyResult<(Buf, Option<Buf>, Bound<'py, PyArray2<f32>>)> {
    if first > x.rows {
        return Err(KernelError::new_err(format!(
            "row {first} of {} rows",
            x.rows
        )));
    }
    if let Some(delta) = delta {
        check_shape("delta", [delta.rows, delta.columns], [x.rows, x.columns])?;
    }
    let from = first * x.columns;
    let mut rows = x
        .read("x")?
        .floats()
        .get(from..)
        .unwrap_or_default()
        .to_vec();
    if let Some(delta) = delta {
        let delta = delta.read("delta")?;
        let added = delta.floats().iter().skip(from);
        rows.iter_mut()
            .zip(added)
            .for_each(|(row, delta)| *row += delta);
    }
    let rows = rows.into_pyarray(py).reshape([x.rows - first, x.columns])?;
    Ok((x.head(first), delta.map(|delta| delta.head(first)), rows))
}

/// Parked rows behind those of `x`, which may be none; their delta is -0.0, which changes no bit of theirs.
#[pyfunction]
pub(crate) fn join(
    x: Option<&Buf>,
    delta: Option<&Buf>,
    rows: PyReadonlyArray2<'_, f32>,
    workspace: &Workspace,
) -> PyResult<(Buf, Option<Buf>)> {
    let [more, columns] = row_major(&rows, "rows")?;
    let rows = lent(rows.as_slice(), "rows")?;
    let Some(x) = x else {
        let out = workspace.buf(more, columns)?;
        out.write("out")?.floats().copy_from_slice(rows);
        return Ok((out, None));
    };
    check_shape("rows", [more, columns], [more, x.columns])?;
    if let Some(delta) = delta {
        check_shape("delta", [delta.rows, delta.columns], [x.rows, x.columns])?;
    }
    let out = workspace.buf(x.rows + more, columns)?;
    both(x, &out, |tail| tail.copy_from_slice(rows))?;
    let delta = delta.map(|delta| {
        let out = workspace.buf(x.rows + more, columns)?;
        both(delta, &out, |tail| tail.fill(-0.0))?;
        Ok::<_, PyErr>(out)
    });
    Ok((out, delta.transpose()?))
}

/// Copies `first` to the beginning of `out`, and lets `fill` write the rest.
fn both(first: &Buf, out: &Buf, fill: impl FnOnce(&mut [f32])) -> PyResult<()> {
    let from = first.read("x")?;
    let mut to = out.write("out")?;
    let (head, tail) = to.floats().split_at_mut(from.floats().len());
    head.copy_from_slice(from.floats());
    fill(tail);
    Ok(())
}

/// Indices of our own: numpy lets other threads write to an array that a call has borrowed, after its door was passed.
fn copied(ids: &PyReadonlyArray1<'_, i32>, what: &str) -> PyResult<Vec<i32>> {
    Ok(lent(ids.as_slice(), what)?.to_vec())
}
