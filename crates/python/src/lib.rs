//! `forebay._native`: the part of the Python package that is not Python. Channels between processes, and tables in shared memory.
//!
//! ```text
//! Channel   connect(path) | from_stdin() | from_fd(fd)    send(json, blobs, fds)   receive() -> Frame | None
//! Frame     header (JSON text), blobs, inputs(segments) -> Inputs, table(blob, segments) -> Table
//! Inputs    table(message, columns, views) -> Table       Table: the Arrow PyCapsule interface, zero-copy
//! Output    write(anything with the Arrow PyCapsule interface) -> Written: message, descriptor, counts
//! Door      a zygote's line to its supervisor: hear(), say(text), serve() -> text in each child; start_arena(limit)
//! Stream    an Arrow C stream at an address, for libraries older than that interface
//! ```
//!
//! Needs no Python package; built once for all Pythons from 3.9 (stable ABI). Errors of ours are `Error(code, message, causes,
//! hint, fault)`, lost connections are `ConnectionError`s.
//!
//! `unsafe` is allowed in this crate: Arrow's C interfaces and raw file descriptors are all there is to talk to Python libraries.

#![allow(unsafe_code)]

mod arrow_c;
mod channel;
mod error;
mod output;
mod table;
mod zygote;

use pyo3::prelude::*;

/// Kills this process when the thread that started it ends. First thing a function process does.
#[pyfunction]
fn die_with_parent() -> PyResult<()> {
    forebay_shm::die_with_parent().map_err(error::raise_shm)
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("Error", module.py().get_type::<error::Error>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(die_with_parent, module)?)?;
    module.add_function(wrap_pyfunction!(zygote::start_arena, module)?)?;
    module.add_function(wrap_pyfunction!(zygote::set_name, module)?)?;
    module.add_class::<zygote::Door>()?;
    module.add_class::<channel::Channel>()?;
    module.add_class::<channel::Frame>()?;
    module.add_class::<table::Inputs>()?;
    module.add_class::<table::Table>()?;
    module.add_class::<table::Stream>()?;
    module.add_class::<output::Output>()?;
    module.add_class::<output::Written>()
}
