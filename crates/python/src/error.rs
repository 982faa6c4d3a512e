//! Our errors as Python exceptions.

use forebay_types::{Coded, Fault, Report};
use pyo3::create_exception;
use pyo3::exceptions::{PyConnectionError, PyException};
use pyo3::prelude::*;

create_exception!(forebay._native, Error, PyException, "An error with a code. `args` is `(code, message, causes, hint, fault)`.");

/// The exception for a report.
pub(crate) fn raise(report: &Report) -> PyErr {
    let fault = match report.fault {
        Fault::Request => "request",
        Fault::Usage => "usage",
        Fault::Platform => "platform",
    };
    Error::new_err((report.code.0.clone(), report.message.clone(), report.causes.clone(), report.hint.clone(), fault))
}

/// The exception for an error of shared memory or channels; a peer that is gone is a `ConnectionError`.
pub(crate) fn raise_shm(error: forebay_shm::Error) -> PyErr {
    match error {
        forebay_shm::Error::Closed => PyConnectionError::new_err(error.to_string()),
        other => raise(&other.report()),
    }
}

/// The exception for an error of a table or message.
pub(crate) fn raise_sipc(error: forebay_sipc::Error) -> PyErr {
    raise(&error.report())
}
