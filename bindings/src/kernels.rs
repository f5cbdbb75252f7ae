//! `slackwater._native.kernels`: the CPU kernels, on buffers that this side owns.
//!
//! - `arena`: memory for activations, and who reads or writes which part of it
//! - `buf`: `Workspace` and `Buf`; `dlpack`: how torch sees one
//! - `weights`: what is made at load time; `batch`: the arrays of a step
//! - `site`: the operations of a layer, without the interpreter; `ops`: their doors, and all other operations
//! - `layer`: the operations of a layer in one call; `rows`: the one that picks rows
//!
//! An operation looks at shapes, indices and borrows before it begins: a buffer that it writes is given once and is nobody
//! else's. Arrays that come in are C-contiguous. Calls that take longer than giving up the interpreter costs run without it.

#![allow(
    clippy::needless_pass_by_value,
    reason = "pyo3 hands arguments over by value"
)]

#[allow(
    unsafe_code,
    reason = "chunks of one allocation; their borrows are counted"
)]
mod arena;
mod batch;
#[allow(
    unsafe_code,
    reason = "an array over memory that its base object keeps"
)]
mod buf;
mod dlpack;
mod layer;
mod ops;
mod rows;
mod site;
mod weights;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use numpy::{AsSliceError, PyArray2, PyUntypedArrayMethods};
use pyo3::create_exception;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::marker::Ungil;
use pyo3::prelude::*;
use slackwater_kernels::{self as kernels, Kernels};

create_exception!(
    slackwater._native.kernels,
    KernelError,
    PyValueError,
    "A call that a kernel refuses: a wrong shape, an index that points nowhere, a buffer in use, a missing instruction set. Nothing has been written."
);
create_exception!(
    slackwater._native.kernels,
    KernelPanic,
    PyRuntimeError,
    "A bug in a kernel. What it was writing is undefined."
);

/// Why a call is refused. Python gets it as a `KernelError`.
#[derive(Debug)]
pub(crate) struct Refusal(String);

impl From<kernels::KernelError> for Refusal {
    fn from(error: kernels::KernelError) -> Self {
        Self(error.to_string())
    }
}

impl From<Refusal> for PyErr {
    fn from(refusal: Refusal) -> Self {
        KernelError::new_err(refusal.0)
    }
}

/// Estimated work from which a call gives up the interpreter, in microseconds.
const DETACH_MICROS: u64 = 50;

/// See `busy_nanos`.
static BUSY_NANOS: AtomicU64 = AtomicU64::new(0);

/// The kernels of this process; none until somebody asks.
static CHOSEN: Mutex<Option<Kernels>> = Mutex::new(None);

/// Fills the module.
pub(crate) fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("REVISION", kernels::REVISION)?;
    module.add("BLOCK_SIZE", kernels::BLOCK_SIZE)?;
    module.add("KernelError", py.get_type::<KernelError>())?;
    module.add("KernelPanic", py.get_type::<KernelPanic>())?;
    add_classes(module)?;
    module.add_function(wrap_pyfunction!(busy_nanos, module)?)?;
    module.add_function(wrap_pyfunction!(available_isas, module)?)?;
    module.add_function(wrap_pyfunction!(available_threads, module)?)?;
    module.add_function(wrap_pyfunction!(bf16_fault, module)?)?;
    module.add_function(wrap_pyfunction!(isa, module)?)?;
    module.add_function(wrap_pyfunction!(set_isa, module)?)?;
    module.add_function(wrap_pyfunction!(layer::attention, module)?)?;
    module.add_function(wrap_pyfunction!(layer::feed_forward, module)?)?;
    module.add_function(wrap_pyfunction!(layer::layer, module)?)?;
    module.add_function(wrap_pyfunction!(ops::add_norm, module)?)?;
    module.add_function(wrap_pyfunction!(ops::attend, module)?)?;
    module.add_function(wrap_pyfunction!(ops::attend_scratch, module)?)?;
    module.add_function(wrap_pyfunction!(ops::embed, module)?)?;
    module.add_function(wrap_pyfunction!(ops::gate_up_act, module)?)?;
    module.add_function(wrap_pyfunction!(ops::join, module)?)?;
    module.add_function(wrap_pyfunction!(ops::linear, module)?)?;
    module.add_function(wrap_pyfunction!(ops::logits, module)?)?;
    module.add_function(wrap_pyfunction!(ops::park, module)?)?;
    module.add_function(wrap_pyfunction!(rows::take_rows, module)?)?;
    let names = module.dict().keys();
    let public = names
        .iter()
        .filter(|name| !name.to_string().starts_with('_'));
    let public: Vec<_> = public.collect();
    module.add("__all__", public)
}

fn add_classes(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<batch::BatchView>()?;
    module.add_class::<buf::Buf>()?;
    module.add_class::<buf::Workspace>()?;
    module.add_class::<layer::Layer>()?;
    module.add_class::<weights::AttnSpec>()?;
    module.add_class::<weights::GateUp>()?;
    module.add_class::<weights::KvCache>()?;
    module.add_class::<weights::PackedLinear>()?;
    module.add_class::<weights::RopeTable>()?;
    module.add_class::<weights::Vector>()?;
    module.add_class::<Pool>()?;
    module.add_class::<ReadProbe>()?;
    module.add_class::<Step>()
}

/// Threads that share the work of a call; the caller is one of them.
#[pyclass(frozen, module = "slackwater._native.kernels")]
pub(crate) struct Pool {
    pub(crate) inner: kernels::Pool,
}

#[pymethods]
impl Pool {
    #[new]
    fn new(py: Python<'_>, threads: usize) -> PyResult<Self> {
        let inner = guarded(py, false, || kernels::Pool::new(threads))?;
        Ok(Self { inner })
    }

    /// Threads, the caller included.
    #[getter]
    fn threads(&self) -> usize {
        self.inner.threads()
    }

    /// A context in which several calls follow each other closely.
    fn step(slf: Py<Self>) -> Step {
        Step {
            pool: slf,
            guard: Mutex::new(None),
        }
    }
}

/// See `Pool.step`.
#[pyclass(frozen, module = "slackwater._native.kernels")]
struct Step {
    pool: Py<Pool>,
    guard: Mutex<Option<kernels::StepGuard>>,
}

#[pymethods]
impl Step {
    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        let guard = slf.pool.get().inner.step();
        *slf.guard.lock().unwrap_or_else(PoisonError::into_inner) = Some(guard);
        slf
    }

    fn __exit__(
        &self,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        *self.guard.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A buffer whose reading is the bound that figures are compared with.
#[pyclass(frozen, module = "slackwater._native.kernels")]
struct ReadProbe {
    inner: kernels::ReadProbe,
}

#[pymethods]
impl ReadProbe {
    #[new]
    fn new(py: Python<'_>, nbytes: usize) -> PyResult<Self> {
        let inner = guarded(py, true, || kernels::ReadProbe::new(nbytes))?;
        Ok(Self { inner })
    }

    /// Memory that it holds, in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.bytes()
    }

    /// Reads all of it once.
    fn read(&self, py: Python<'_>, pool: &Pool) -> PyResult<()> {
        guarded(py, true, || {
            self.inner.read(&pool.inner);
            Ok::<_, Refusal>(())
        })
    }
}

/// Time that calls have spent in kernels since the process began, in nanoseconds.
#[pyfunction]
fn busy_nanos() -> u64 {
    BUSY_NANOS.load(Ordering::Relaxed)
}

/// Name of the instruction set in use.
#[pyfunction]
fn isa() -> &'static str {
    chosen().isa().name()
}

/// Chooses the instruction set of this process by name; `auto` is the best that the machine has.
#[pyfunction]
fn set_isa(name: &str) -> PyResult<()> {
    let kernels = if name == "auto" {
        Kernels::best()
    } else {
        name.parse().and_then(Kernels::for_isa).map_err(refused)?
    };
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = Some(kernels);
    Ok(())
}

/// Names of the instruction sets that this machine has, the slowest first.
#[pyfunction]
fn available_isas() -> Vec<&'static str> {
    let available = kernels::Isa::ALL.into_iter();
    available
        .filter(|isa| isa.is_available())
        .map(kernels::Isa::name)
        .collect()
}

/// What is wrong with this machine's bf16 dot product, if it has one that breaks the row rule: it is not used then.
#[pyfunction]
fn bf16_fault() -> Option<String> {
    Kernels::bf16_fault().map(|fault| fault.to_string())
}

/// Cores that this process may use, by affinity and by quota; at least 1.
#[pyfunction]
fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn chosen() -> Kernels {
    *CHOSEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get_or_insert_with(Kernels::best)
}

/// Runs a kernel, without the interpreter if it is long, and turns what goes wrong into an exception.
pub(crate) fn guarded<T: Ungil + Send, E: Into<Refusal> + Ungil + Send>(
    py: Python<'_>,
    long: bool,
    call: impl FnOnce() -> Result<T, E> + Ungil + Send,
) -> PyResult<T> {
    // What a panicking call was writing belongs to the caller, who is told.
    let caught = || {
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(call));
        let spent = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        BUSY_NANOS.fetch_add(spent, Ordering::Relaxed);
        result
    };
    let result = if long { py.detach(caught) } else { caught() };
    match result {
        Ok(result) => result.map_err(refused),
        Err(payload) => Err(KernelPanic::new_err(panic_text(payload.as_ref()))),
    }
}

fn refused(error: impl Into<Refusal>) -> PyErr {
    error.into().into()
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").to_owned()
}

/// The shape of an array in row-major order. A slice alone does not tell: numpy's crate lends column-major arrays too.
pub(crate) fn row_major(array: &Bound<'_, PyArray2<f32>>, what: &str) -> PyResult<[usize; 2]> {
    match array.shape() {
        [first, second] if array.is_c_contiguous() => Ok([*first, *second]),
        _ => Err(not_contiguous(what)),
    }
}

pub(crate) fn lent<T>(slice: Result<T, AsSliceError>, what: &str) -> PyResult<T> {
    slice.map_err(|_| not_contiguous(what))
}

fn not_contiguous(what: &str) -> PyErr {
    KernelError::new_err(format!("{what} is not C-contiguous and aligned"))
}

fn check_shape(what: &str, actual: [usize; 2], expected: [usize; 2]) -> Result<(), Refusal> {
    if actual == expected {
        Ok(())
    } else {
        Err(Refusal(format!(
            "{what} has shape {actual:?}, expected {expected:?}"
        )))
    }
}
