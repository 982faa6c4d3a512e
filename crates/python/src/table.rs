//! Tables that came from other processes, as Python libraries take them.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::FFI_ArrowSchema;
use arrow::ffi_stream::FFI_ArrowArrayStream;
use arrow::record_batch::{RecordBatch, RecordBatchIterator, RecordBatchOptions};
use forebay_sipc::call::SegmentRef;
use forebay_sipc::{Limits, Message, converted_bytes, encode_columns};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::error::{raise_shm, raise_sipc};

/// The segments a function was handed, mapped read-only.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Inputs {
    pub(crate) inner: Arc<forebay_shm::Inputs>,
}

impl From<Arc<forebay_shm::Inputs>> for Inputs {
    fn from(inner: Arc<forebay_shm::Inputs>) -> Self {
        Self { inner }
    }
}

#[pymethods]
impl Inputs {
    /// Maps segments given as `[(id, length, descriptor), …]`. The descriptors stay the caller's and may be closed.
    #[new]
    #[pyo3(signature = (segments=Vec::new()))]
    fn new(segments: Vec<(u64, u64, RawFd)>) -> PyResult<Self> {
        if segments.iter().any(|(_, _, fd)| *fd < 0) {
            return Err(PyValueError::new_err("a file descriptor is not negative"));
        }
        // SAFETY: borrowed for the mapping only; a number that is not open makes it fail with EBADF.
        let fds: Vec<BorrowedFd<'_>> = segments.iter().map(|(_, _, fd)| unsafe { BorrowedFd::borrow_raw(*fd) }).collect();
        let refs: Vec<SegmentRef> = segments.iter().map(|&(id, length, _)| SegmentRef { id, length }).collect();
        Ok(forebay_shm::Inputs::map(&refs, &fds).map_err(raise_shm)?.into())
    }

    /// The table that `message` describes, or some of its columns. With `views`, string views stay what they are; without,
    /// they become plain strings, because few kernels of pyarrow take views (that copies them). Columns of `dictionary` become
    /// dictionaries of strings, if they are none. Raises `Error` if one of the columns is not there, or cannot be a dictionary.
    #[pyo3(signature = (message, columns=None, views=false, dictionary=Vec::new()))]
    pub(crate) fn table(
        &self,
        message: &[u8],
        columns: Option<Vec<String>>,
        views: bool,
        dictionary: Vec<String>,
    ) -> PyResult<Table> {
        let mut message = Message::decode(message, &Limits::default()).map_err(raise_sipc)?;
        if let Some(columns) = columns {
            message = message.project(&columns).map_err(raise_sipc)?;
        }
        let table = self.inner.rebuild(&message).map_err(raise_shm)?;
        let before = table.schema;
        let (schema, batches) = encode_columns(&before, table.batches, &dictionary).map_err(raise_sipc)?;
        let (schema, batches) = if views { (schema, batches) } else { plain(schema, batches)? };
        let converted_bytes = converted_bytes(&before, &batches);
        Ok(Table { schema, batches, converted_bytes })
    }
}

/// A table over shared memory. Any library with the Arrow PyCapsule interface takes it without a copy.
#[pyclass(module = "forebay._native", frozen)]
pub(crate) struct Table {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    /// Bytes of columns that were made anew, in another layout.
    #[pyo3(get)]
    converted_bytes: u64,
}

impl Table {
    fn c_stream(&self) -> FFI_ArrowArrayStream {
        let batches: Vec<Result<RecordBatch, ArrowError>> = self.batches.iter().cloned().map(Ok).collect();
        FFI_ArrowArrayStream::new(Box::new(RecordBatchIterator::new(batches, Arc::clone(&self.schema))))
    }
}

#[pymethods]
impl Table {
    /// Rows.
    #[getter]
    fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// Names of the columns.
    #[getter]
    fn column_names(&self) -> Vec<String> {
        self.schema.fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The schema as text, a column a line.
    #[getter]
    fn schema(&self) -> String {
        self.schema.fields().iter().map(|f| format!("{}: {}", f.name(), f.data_type())).collect::<Vec<_>>().join("\n")
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        let schema = FFI_ArrowSchema::try_from(self.schema.as_ref()).map_err(|error| PyValueError::new_err(error.to_string()))?;
        PyCapsule::new(py, schema, Some(CString::from(c"arrow_schema")))
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        // A producer may ignore the request; consumers check the schema they get.
        let _ = requested_schema;
        PyCapsule::new(py, self.c_stream(), Some(CString::from(c"arrow_array_stream")))
    }

    /// The table as an Arrow C stream at an address.
    fn stream(&self) -> Stream {
        Stream { inner: Box::new(self.c_stream()) }
    }

    fn __repr__(&self) -> String {
        format!("<forebay table of {} rows\n{}>", self.num_rows(), self.schema())
    }
}

/// An Arrow C stream at an address, for libraries that import and export by pointer. Empty when made by hand.
#[pyclass(module = "forebay._native", unsendable)]
pub(crate) struct Stream {
    pub(crate) inner: Box<FFI_ArrowArrayStream>,
}

#[pymethods]
impl Stream {
    #[new]
    fn new() -> Self {
        Self { inner: Box::new(FFI_ArrowArrayStream::empty()) }
    }

    /// Where the `ArrowArrayStream` lies, as long as this object lives.
    #[getter]
    fn address(&mut self) -> usize {
        &raw mut *self.inner as usize
    }
}

/// The same table without view types.
fn plain(schema: SchemaRef, batches: Vec<RecordBatch>) -> PyResult<(SchemaRef, Vec<RecordBatch>)> {
    let types: Vec<DataType> =
        (0..schema.fields().len()).map(|i| plain_column(schema.field(i).data_type(), i, &batches)).collect();
    if schema.fields().iter().zip(&types).all(|(field, data_type)| field.data_type() == data_type) {
        return Ok((schema, batches));
    }
    let fields: Vec<Field> =
        schema.fields().iter().zip(&types).map(|(f, t)| f.as_ref().clone().with_data_type(t.clone())).collect();
    let target = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    let convert = |batch: RecordBatch| {
        let columns = batch.columns().iter().zip(&types).map(|(column, t)| cast(column, t)).collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&target), columns, &options)
    };
    let batches = batches.into_iter().map(convert).collect::<Result<Vec<_>, ArrowError>>();
    Ok((Arc::clone(&target), batches.map_err(|error| raise_sipc(error.into()))?))
}

/// The type of a whole column: its strings are long ones if those of one batch do not fit 32-bit offsets.
fn plain_column(data_type: &DataType, position: usize, batches: &[RecordBatch]) -> DataType {
    let fits = |bytes: usize| i32::try_from(bytes).is_ok();
    let short = match data_type {
        DataType::Utf8View => batches.iter().all(|b| fits(lengths(b.column(position).as_string_view().views()))),
        DataType::BinaryView => batches.iter().all(|b| fits(lengths(b.column(position).as_binary_view().views()))),
        _ => true,
    };
    match data_type {
        DataType::Utf8View if !short => DataType::LargeUtf8,
        DataType::BinaryView if !short => DataType::LargeBinary,
        other => plain_type(other),
    }
}

/// Bytes of all values; the low half of a view's first word is its length.
fn lengths(views: &[u128]) -> usize {
    views.iter().map(|view| (view & u128::from(u32::MAX)) as usize).sum()
}

fn plain_type(data_type: &DataType) -> DataType {
    let field = |f: &FieldRef| Arc::new(f.as_ref().clone().with_data_type(plain_type(f.data_type())));
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(f) => DataType::List(field(f)),
        DataType::LargeList(f) => DataType::LargeList(field(f)),
        DataType::FixedSizeList(f, size) => DataType::FixedSizeList(field(f), *size),
        DataType::Map(f, sorted) => DataType::Map(field(f), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Dictionary(keys, values) => DataType::Dictionary(keys.clone(), Box::new(plain_type(values))),
        other => other.clone(),
    }
}
