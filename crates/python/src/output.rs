//! A function's result on its way into shared memory.

use std::collections::{HashMap, HashSet};
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;

use forebay_sipc::call::Preview;
use forebay_sipc::{Describer, Excerpt};
use forebay_types::{Fault, Report};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrow_c::Source;
use crate::error::raise;
use crate::table::Inputs;

/// The one segment this process may write.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Output {
    id: u64,
    inputs: Py<Inputs>,
}

/// What became of a table.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Written {
    message: Vec<u8>,
    /// Descriptor of the new segment, or `None` if nothing had to be copied. It belongs to whoever reads this.
    #[pyo3(get)]
    fd: Option<RawFd>,
    /// Length of the new segment in bytes.
    #[pyo3(get)]
    length: u64,
    /// Bytes by how they got into the message: `referenced reshared copied inline`.
    #[pyo3(get)]
    bytes: HashMap<&'static str, u64>,
    /// Rows of the table.
    #[pyo3(get)]
    rows: u64,
    /// Names of its columns.
    #[pyo3(get)]
    column_names: Vec<String>,
    /// The preview, if one was asked for.
    #[pyo3(get)]
    preview: Option<String>,
}

#[pymethods]
impl Written {
    /// The table's SIPC message.
    #[getter]
    fn message<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.message)
    }
}

#[pymethods]
impl Output {
    /// An output whose new bytes go into segment `id`; buffers that lie in `inputs` are referred to there.
    #[new]
    fn new(id: u64, inputs: Py<Inputs>) -> Self {
        Self { id, inputs }
    }

    /// Writes a table: a `Stream`, or anything with the Arrow PyCapsule interface. `preview` is `head`, `tail` or `None`.
    ///
    /// Raises `TypeError` if it is no table, `Error` if it cannot be written.
    #[pyo3(signature = (table, preview=None))]
    fn write(&self, py: Python<'_>, table: &Bound<'_, PyAny>, preview: Option<&str>) -> PyResult<Written> {
        let mut excerpt = match preview {
            None => None,
            Some("head") => Some(Excerpt::new(Preview::Head)),
            Some("tail") => Some(Excerpt::new(Preview::Tail)),
            Some(other) => return Err(PyValueError::new_err(format!("there is no preview `{other}`"))),
        };
        let mut source = Source::of(table)?;
        let schema = Arc::clone(source.schema());
        let column_names: Vec<String> = schema.fields().iter().map(|field| field.name().clone()).collect();
        check_names(&column_names)?;
        let mut output = forebay_shm::Output::new(self.id, Arc::clone(&self.inputs.get().inner));
        let described = py.detach(|| {
            let mut describer = Describer::new(&schema);
            for batch in &mut source {
                let batch = batch.map_err(|error| unreadable(&error))?;
                if let Some(excerpt) = &mut excerpt {
                    excerpt.see(&batch);
                }
                describer.push(&batch, &mut output).map_err(|error| told(error.into()))?;
            }
            drop(source);
            let message = describer.finish(&output).map_err(|error| told(error.into()))?;
            let preview = excerpt.map(|excerpt| excerpt.render(message.schema())).transpose();
            Ok((message, preview.map_err(|error| unreadable(&error))?))
        });
        let (message, preview) = described.map_err(|report: Report| raise(&report))?;
        let rows = message.rows();
        let written = output.finish();
        let bytes = written.bytes;
        let (fd, length) = written.segment.map_or((None, 0), |(fd, length)| (Some(fd.into_raw_fd()), length));
        Ok(Written {
            message: message.encode(),
            fd,
            length,
            bytes: HashMap::from([
                ("referenced", bytes.referenced),
                ("reshared", bytes.reshared),
                ("copied", bytes.copied),
                ("inline", bytes.inline),
            ]),
            rows,
            column_names,
            preview,
        })
    }
}

/// A report of an error while writing. The reasons of `Place` are errors of shared memory, told as such.
fn told(error: forebay_shm::Error) -> Report {
    use forebay_types::Coded;
    if let forebay_shm::Error::Table(forebay_sipc::Error::Place { source, .. }) = &error
        && let Some(cause) = source.downcast_ref::<forebay_shm::Error>()
    {
        return cause.report();
    }
    error.report()
}

fn unreadable(error: &arrow::error::ArrowError) -> Report {
    let text = match error {
        arrow::error::ArrowError::CDataInterface(text) | arrow::error::ArrowError::InvalidArgumentError(text) => text.clone(),
        other => other.to_string(),
    };
    Report::new("RUN0113", Fault::Request, "could not read the result").with_cause(text)
}

fn check_names(names: &[String]) -> PyResult<()> {
    if names.is_empty() {
        let report = Report::new("RUN0107", Fault::Request, "the result has no columns");
        return Err(raise(&report.with_hint("return a table with at least one column")));
    }
    let mut seen = HashSet::new();
    match names.iter().find(|name| !seen.insert(name.as_str())) {
        None => Ok(()),
        Some(twice) => {
            let report = Report::new("RUN0108", Fault::Request, format!("the result has several columns named `{twice}`"));
            Err(raise(&report.with_hint("give each column a name of its own")))
        }
    }
}
