//! The extension `slackwater._native`: what Python calls of the Rust side, and nothing else.
//!
//! - [`kernels`]: the CPU kernels, on buffers of their own
//! - [`sampling`]: the sampler, on numpy arrays
//! - [`text`]: the router's detokeniser and stop strings
//! - `main`: the program `slackwater`
//!
//! It checks types and shapes, decides who holds the interpreter meanwhile, and turns errors into exceptions. No
//! configuration comes through here.

use std::ffi::OsString;

use pyo3::prelude::*;

mod kernels;
mod sampling;
mod text;

/// The module's init. Submodules go into `sys.modules` too, or `import slackwater._native.kernels` would find no file.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(main, module)?)?;
    add_submodule(module, "kernels", kernels::fill)?;
    add_submodule(module, "sampling", sampling::fill)?;
    add_submodule(module, "text", text::fill)?;
    module.add("__all__", ["kernels", "main", "sampling", "text"])
}

/// Runs the program `slackwater` with these arguments, the first of which is its name; gives its exit status.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<OsString>) -> i32 {
    py.detach(|| slackwater_server::run(args))
}

fn add_submodule(
    parent: &Bound<'_, PyModule>,
    name: &str,
    fill: fn(&Bound<'_, PyModule>) -> PyResult<()>,
) -> PyResult<()> {
    let py = parent.py();
    let full_name = format!("slackwater._native.{name}");
    let module = PyModule::new(py, &full_name)?;
    fill(&module)?;
    parent.add(name, &module)?;
    py.import("sys")?
        .getattr("modules")?
        .set_item(full_name, module)
}
