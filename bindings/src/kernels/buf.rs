//! `Workspace` and `Buf`: activations, and views of them for numpy and torch.

use std::sync::Arc;

use numpy::ndarray::ArrayView2;
use numpy::{PyArray2, PyReadonlyArray2};
use pyo3::prelude::*;

use super::arena::{Arena, Chunk, Reading, Refused, Writing};
use super::{KernelError, Refusal, dlpack, lent, row_major};

/// Memory for the activations of a step.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct Workspace {
    arena: Arc<Arena>,
}

impl Workspace {
    /// A buffer whose content is still to be written.
    pub(crate) fn buf(&self, rows: usize, columns: usize) -> Result<Buf, Refusal> {
        let floats = rows
            .checked_mul(columns)
            .ok_or_else(|| Refusal(format!("[{rows}, {columns}] is no shape")))?;
        Ok(Buf {
            chunk: Arc::new(self.chunk(floats)?),
            rows,
            columns,
        })
    }

    /// Room for the length of a call.
    pub(crate) fn chunk(&self, floats: usize) -> Result<Chunk, Refusal> {
        Chunk::cut(&self.arena, floats).map_err(|refused| refusal("the workspace", refused))
    }
}

#[pymethods]
impl Workspace {
    #[new]
    fn new(py: Python<'_>, floats: usize) -> PyResult<Self> {
        let arena = py.detach(|| Arena::new(floats));
        let arena = arena.ok_or_else(|| {
            KernelError::new_err(format!("no memory for a workspace of {floats} floats"))
        })?;
        Ok(Self {
            arena: Arc::new(arena),
        })
    }

    /// Its size in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.arena.floats() * size_of::<f32>()
    }

    /// Floats in buffers now.
    #[getter]
    fn used(&self) -> usize {
        self.arena.used_and_peak().0
    }

    /// The most floats that were ever in buffers at once.
    #[getter]
    fn peak(&self) -> usize {
        self.arena.used_and_peak().1
    }

    /// A copy of a float32 array `[N, M]`.
    #[pyo3(name = "from_numpy")]
    fn copy(&self, array: PyReadonlyArray2<'_, f32>) -> PyResult<Buf> {
        let [rows, columns] = row_major(&array, "array")?;
        let from = lent(array.as_slice(), "array")?;
        let buf = self.buf(rows, columns)?;
        buf.write("buffer")?.floats().copy_from_slice(from);
        Ok(buf)
    }
}

/// Activations: float32 `[rows, columns]`, row-major, in a workspace.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct Buf {
    chunk: Arc<Chunk>,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
}

impl Buf {
    /// The first `rows` rows, in the same memory.
    pub(crate) fn head(&self, rows: usize) -> Self {
        Self {
            chunk: Arc::clone(&self.chunk),
            rows: rows.min(self.rows),
            columns: self.columns,
        }
    }

    fn len(&self) -> usize {
        self.rows * self.columns
    }

    pub(crate) fn read(&self, what: &str) -> Result<Rows<'_>, Refusal> {
        let reading = self
            .chunk
            .read()
            .map_err(|refused| refusal(what, refused))?;
        Ok(Rows(reading, self.len()))
    }

    pub(crate) fn write(&self, what: &str) -> Result<RowsMut<'_>, Refusal> {
        let writing = self
            .chunk
            .write()
            .map_err(|refused| refusal(what, refused))?;
        Ok(RowsMut(writing, self.len()))
    }

    fn view(&self) -> Result<View, Refusal> {
        View::new(&self.chunk).map_err(|refused| refusal("the buffer", refused))
    }
}

/// The elements of a buffer, to read.
pub(crate) struct Rows<'a>(Reading<'a>, usize);

impl Rows<'_> {
    pub(crate) fn floats(&self) -> &[f32] {
        self.0.floats().get(..self.1).unwrap_or_default()
    }
}

/// The elements of a buffer, to write.
pub(crate) struct RowsMut<'a>(Writing<'a>, usize);

impl RowsMut<'_> {
    pub(crate) fn floats(&mut self) -> &mut [f32] {
        self.0.floats().get_mut(..self.1).unwrap_or_default()
    }
}

#[pymethods]
impl Buf {
    /// `(rows, columns)`.
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
    }

    /// Always `float32`.
    #[classattr]
    fn dtype() -> &'static str {
        "float32"
    }

    /// An array over the same memory. While it lives, no operation writes to the buffer.
    pub(crate) fn numpy<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let pointer = self.chunk.pointer();
        let container = Bound::new(py, self.view()?)?.into_any();
        // SAFETY: the chunk has so many elements, and lives as long as the container, which is the array's base.
        Ok(unsafe {
            let array = ArrayView2::from_shape_ptr([self.rows, self.columns], pointer.cast_const());
            PyArray2::borrow_from_array(&array, container)
        })
    }

    /// The buffer for `torch.from_dlpack`: the same memory, on the CPU. While it is in use, no operation writes to it.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__(
        &self,
        py: Python<'_>,
        stream: Option<Bound<'_, PyAny>>,
        max_version: Option<Bound<'_, PyAny>>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Py<PyAny>> {
        // Which versions the consumer knows does not matter: the first one is given, which all know.
        let (_, _) = (stream, max_version);
        if copy == Some(true) || dl_device.is_some_and(|device| device != dlpack::CPU) {
            return Err(KernelError::new_err(
                "a buffer is shared as it is, on the CPU: no copy and no other device",
            ));
        }
        dlpack::capsule(
            py,
            self.chunk.pointer(),
            [self.rows, self.columns],
            self.view()?,
        )
    }

    #[staticmethod]
    fn __dlpack_device__() -> (i32, i32) {
        dlpack::CPU
    }

    fn __repr__(&self) -> String {
        format!("Buf(float32, [{}, {}])", self.rows, self.columns)
    }
}

/// A reader outside of this module: the chunk stays, and is not written to, until it is dropped.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct View {
    chunk: Arc<Chunk>,
}

impl View {
    fn new(chunk: &Arc<Chunk>) -> Result<Self, Refused> {
        chunk.hold()?;
        Ok(Self {
            chunk: Arc::clone(chunk),
        })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.chunk.release();
    }
}

pub(crate) fn refusal(what: &str, refused: Refused) -> Refusal {
    Refusal(match refused {
        Refused::Busy => format!(
            "{what} is in use: it was given twice, another call has it, or an array or tensor over it is alive"
        ),
        Refused::Exhausted { floats, free } => {
            format!("{what} has no room for {floats} floats; {free} are free, not all in one piece")
        }
    })
}
