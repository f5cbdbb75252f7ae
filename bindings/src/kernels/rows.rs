//! Some rows of a buffer, where the rest of a step has no use for the others.

use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use slackwater_kernels::KernelError as Refused;

use super::buf::{Buf, Workspace};
use super::{Refusal, guarded, lent, refused};

/// Elements whose copy takes as long as giving up the interpreter is worth.
const DETACH_ELEMENTS: usize = 256 * 1024;

/// Copies of some rows of `x` `[N, M]`, in the order of `rows`, int32 `[R]`: `[R, M]`.
#[pyfunction]
pub(crate) fn take_rows(
    py: Python<'_>,
    x: &Buf,
    rows: PyReadonlyArray1<'_, i32>,
    workspace: &Workspace,
) -> PyResult<Buf> {
    let rows = lent(rows.as_slice(), "rows")?;
    let starts = starts_of(rows, x.rows, x.columns).map_err(refused)?;
    let out = workspace.buf(starts.len(), x.columns)?;
    let from = x.read("x")?;
    let mut to = out.write("out")?;
    let long = starts.len() * x.columns > DETACH_ELEMENTS;
    guarded(py, long, || {
        copy_rows(from.floats(), &starts, x.columns, to.floats());
        Ok::<_, Refusal>(())
    })?;
    drop(to);
    Ok(out)
}

/// Where each row begins: indices of our own, as other threads may write to an array that a call has borrowed.
fn starts_of(rows: &[i32], count: usize, columns: usize) -> Result<Vec<usize>, Refused> {
    let start = |id: &i32| {
        let row = usize::try_from(*id).ok().filter(|row| *row < count);
        let row = row.ok_or(Refused::RowId {
            id: *id,
            rows: count,
        })?;
        Ok(row * columns)
    };
    rows.iter().map(start).collect()
}

fn copy_rows(from: &[f32], starts: &[usize], columns: usize, to: &mut [f32]) {
    for (start, row) in starts.iter().zip(to.chunks_exact_mut(columns.max(1))) {
        if let Some(values) = from.get(*start..*start + columns) {
            row.copy_from_slice(values);
        }
    }
}
