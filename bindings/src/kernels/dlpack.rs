//! `DLPack`, version 0: a buffer as `torch.from_dlpack` takes it (<https://dmlc.github.io/dlpack/latest/c_api.html>).

#![allow(unsafe_code, reason = "the protocol is a C structure with a callback")]

use std::ffi::{CStr, c_void};
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::buf::View;

/// Type and number of the only device.
pub(crate) const CPU: (i32, i32) = (1, 0);

const NAME: &CStr = c"dltensor";
const FLOAT: u8 = 2;

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    code: u8,
    bits: u8,
    lanes: u16,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DlManagedTensor {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DlManagedTensor)>,
}

/// What the structure points to; freed with it.
struct Shared {
    managed: DlManagedTensor,
    shape: [i64; 2],
    strides: [i64; 2],
    _view: View,
}

/// A capsule over float32 `[rows, columns]` at `data`, which `view` keeps.
pub(crate) fn capsule(
    py: Python<'_>,
    data: *mut f32,
    shape: [usize; 2],
    view: View,
) -> PyResult<Py<PyAny>> {
    let [rows, columns] = shape.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
    let shared = Box::into_raw(Box::new(Shared {
        managed: DlManagedTensor {
            tensor: DlTensor {
                data: data.cast(),
                device: [CPU.0, CPU.1],
                ndim: 2,
                code: FLOAT,
                bits: 32,
                lanes: 1,
                shape: ptr::null_mut(),
                strides: ptr::null_mut(),
                byte_offset: 0,
            },
            context: ptr::null_mut(),
            deleter: Some(free),
        },
        shape: [rows, columns],
        strides: [columns, 1],
        _view: view,
    }));
    // SAFETY: the box is this function's until the capsule has it; its fields stay where they are.
    let capsule = unsafe {
        (*shared).managed.context = shared.cast();
        (*shared).managed.tensor.shape = (&raw mut (*shared).shape).cast();
        (*shared).managed.tensor.strides = (&raw mut (*shared).strides).cast();
        let managed = &raw mut (*shared).managed;
        ffi::PyCapsule_New(managed.cast(), NAME.as_ptr(), Some(drop_capsule))
    };
    // SAFETY: a new reference, or null with an exception set.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, capsule) };
    if made.is_err() {
        // SAFETY: no capsule has taken it.
        drop(unsafe { Box::from_raw(shared) });
    }
    made.map(Bound::unbind)
}

/// The consumer's end of it.
///
/// # Safety
/// `managed` is from `capsule`, and is not used afterwards.
unsafe extern "C" fn free(managed: *mut DlManagedTensor) {
    // SAFETY: the context is the box that holds the structure.
    drop(unsafe { Box::from_raw((*managed).context.cast::<Shared>()) });
}

/// Frees what no consumer took: one that did has renamed the capsule.
///
/// # Safety
/// Python calls it, with a capsule of `capsule`.
unsafe extern "C" fn drop_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: it is a capsule; under its first name it still owns the structure.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            let managed = ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr());
            free(managed.cast());
        }
    }
}
