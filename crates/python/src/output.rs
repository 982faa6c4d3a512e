//! A function's result on its way into shared memory.

use std::collections::{HashMap, HashSet};
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::Arc;

use forebay_sipc::Excerpt;
use forebay_sipc::call::{CopyReason, Preview};
use forebay_types::{Fault, Report};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::arrow_c::Source;
use crate::error::raise;
use crate::table::Inputs;

/// The segments this process may write.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Output {
    id: u64,
    inputs: Py<Inputs>,
}

/// What became of a table.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Written {
    blobs: Vec<Vec<u8>>,
    /// Descriptors of the new segments. They belong to whoever reads this.
    #[pyo3(get)]
    fds: Vec<RawFd>,
    /// Identities of the new segments, in the same order.
    #[pyo3(get)]
    segments: Vec<u64>,
    /// Distinct bytes by how they got into the message: `referenced reshared copied inline`.
    #[pyo3(get)]
    bytes: HashMap<&'static str, u64>,
    /// `(reason, bytes)` of what was copied.
    #[pyo3(get)]
    copies: Vec<(String, u64)>,
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
    /// The table's SIPC message, then what to keep of each segment.
    #[getter]
    fn blobs<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.blobs.iter().map(|blob| PyBytes::new(py, blob)).collect()
    }
}

#[pymethods]
impl Output {
    /// An output whose new segments have identities from `id` on; buffers that lie in `inputs` are referred to there.
    #[new]
    fn new(id: u64, inputs: Py<Inputs>) -> Self {
        Self { id, inputs }
    }

    /// Describes a table: a `Stream`, or anything with the Arrow PyCapsule interface. `preview` is `head`, `tail` or `None`.
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
        let inputs = Arc::clone(&self.inputs.get().inner);
        let written = py.detach(|| {
            let mut batches = Vec::new();
            for batch in &mut source {
                let batch = batch.map_err(|error| unreadable(&error))?;
                if let Some(excerpt) = &mut excerpt {
                    excerpt.see(&batch);
                }
                batches.push(batch);
            }
            drop(source);
            let written = forebay_shm::write(self.id, &inputs, &schema, batches).map_err(told)?;
            let preview = excerpt.map(|excerpt| excerpt.render(written.message.schema())).transpose();
            Ok((written, preview.map_err(|error| unreadable(&error))?))
        });
        let (written, preview) = written.map_err(|report: Report| raise(&report))?;
        let keep = written.segments.iter().map(|segment| segment.keep.encode());
        let bytes = written.bytes;
        Ok(Written {
            blobs: std::iter::once(written.message.encode()).chain(keep).collect(),
            segments: written.segments.iter().map(|segment| segment.id).collect(),
            bytes: HashMap::from([
                ("referenced", bytes.referenced),
                ("reshared", bytes.reshared),
                ("copied", bytes.copied),
                ("inline", bytes.inline),
            ]),
            copies: written.copies.iter().map(|copied| (word(copied.reason), copied.bytes)).collect(),
            rows: written.message.rows(),
            fds: written.segments.into_iter().map(|segment| segment.file.into_raw_fd()).collect(),
            column_names,
            preview,
        })
    }
}

/// The reason as the protocol spells it.
fn word(reason: CopyReason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        other => unreachable!("a reason is a word, not {other:?}"),
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
