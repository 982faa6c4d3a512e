//! Reading what Python libraries export: Arrow C streams and arrays, by capsule.
//!
//! `arrow`'s own stream reader panics on misaligned buffers and drops nulls of whole rows; this one copies the former (to where
//! they are aligned) and refuses the latter.

use std::ffi::CStr;
use std::sync::Arc;

use arrow::array::{ArrayData, RecordBatchOptions, StructArray};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi_and_data_type};
use arrow::ffi_stream::FFI_ArrowArrayStream;
use arrow::record_batch::RecordBatch;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use crate::table::Stream;

/// A table being read from another library, batch by batch.
pub(crate) enum Source {
    /// From `__arrow_c_stream__`.
    Stream { stream: FFI_ArrowArrayStream, schema: SchemaRef },
    /// From `__arrow_c_array__`: one batch.
    Array { array: Option<FFI_ArrowArray>, schema: SchemaRef },
}

impl Source {
    /// Takes the table out of a Python object.
    ///
    /// Raises `TypeError` for an object that exports no Arrow data, or Arrow data that is no table.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(stream) = object.cast::<Stream>() {
            let mut stream = stream.borrow_mut();
            return Self::of_stream(std::mem::replace(&mut *stream.inner, FFI_ArrowArrayStream::empty()));
        }
        if object.hasattr("__arrow_c_stream__")? {
            let capsule = object.call_method0("__arrow_c_stream__")?;
            let pointer = capsule.cast::<PyCapsule>()?.pointer_checked(Some(c"arrow_array_stream"))?;
            // SAFETY: the capsule's name says that it holds an ArrowArrayStream; taking it marks the capsule's as released.
            return Self::of_stream(unsafe { FFI_ArrowArrayStream::from_raw(pointer.as_ptr().cast()) });
        }
        if object.hasattr("__arrow_c_array__")? {
            let pair = object.call_method0("__arrow_c_array__")?;
            let pair = pair.cast::<PyTuple>()?;
            let schema = pair.get_item(0)?.cast::<PyCapsule>()?.pointer_checked(Some(c"arrow_schema"))?;
            let array = pair.get_item(1)?.cast::<PyCapsule>()?.pointer_checked(Some(c"arrow_array"))?;
            // SAFETY: the names say what the capsules hold; taking the values marks the capsules' as released.
            let (schema, array) =
                unsafe { (FFI_ArrowSchema::from_raw(schema.as_ptr().cast()), FFI_ArrowArray::from_raw(array.as_ptr().cast())) };
            return Ok(Self::Array { array: Some(array), schema: table_schema(&schema)? });
        }
        Err(PyTypeError::new_err("the object has neither `__arrow_c_stream__` nor `__arrow_c_array__`"))
    }

    fn of_stream(mut stream: FFI_ArrowArrayStream) -> PyResult<Self> {
        let (Some(get_schema), Some(_)) = (stream.get_schema, stream.get_next) else {
            return Err(PyTypeError::new_err("the Arrow stream has been consumed already"));
        };
        let mut schema = FFI_ArrowSchema::empty();
        // SAFETY: a stream that is not released may be asked for its schema, which it writes to the empty place given.
        let code = unsafe { get_schema(&raw mut stream, &raw mut schema) };
        if code != 0 {
            return Err(PyTypeError::new_err(last_error(&mut stream, code)));
        }
        Ok(Self::Stream { schema: table_schema(&schema)?, stream })
    }

    /// The schema of every batch.
    pub(crate) fn schema(&self) -> &SchemaRef {
        match self {
            Self::Stream { schema, .. } | Self::Array { schema, .. } => schema,
        }
    }

    fn next_array(&mut self) -> Option<Result<FFI_ArrowArray, ArrowError>> {
        let stream = match self {
            Self::Array { array, .. } => return array.take().map(Ok),
            Self::Stream { stream, .. } => stream,
        };
        let get_next = stream.get_next?;
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: a stream that is not released may be asked for its next array, which it writes to the empty place given.
        let code = unsafe { get_next(&raw mut *stream, &raw mut array) };
        if code != 0 {
            return Some(Err(ArrowError::CDataInterface(last_error(stream, code))));
        }
        (!array.is_released()).then_some(Ok(array))
    }
}

impl Iterator for Source {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        let array = self.next_array()?;
        Some(array.and_then(|array| batch(array, self.schema())))
    }
}

fn batch(array: FFI_ArrowArray, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    // SAFETY: the producer promises, by the Arrow C interface, that the array is valid and of the schema it gave.
    let mut data: ArrayData = unsafe { from_ffi_and_data_type(array, DataType::Struct(schema.fields().clone())) }?;
    if data.null_count() > 0 {
        return Err(ArrowError::InvalidArgumentError("rows of a table cannot be null as a whole".into()));
    }
    data.align_buffers();
    let rows = data.len();
    let (_, columns, _) = StructArray::from(data).into_parts();
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
}

fn table_schema(schema: &FFI_ArrowSchema) -> PyResult<SchemaRef> {
    if schema.format() != "+s" {
        return Err(PyTypeError::new_err("it is one Arrow column, not a table"));
    }
    Schema::try_from(schema).map(Arc::new).map_err(|error| PyTypeError::new_err(error.to_string()))
}

fn last_error(stream: &mut FFI_ArrowArrayStream, code: i32) -> String {
    let fallback = || std::io::Error::from_raw_os_error(code).to_string();
    let Some(get_last_error) = stream.get_last_error else { return fallback() };
    // SAFETY: after a failed call the stream may be asked for its error: null, or text that lives until the next call.
    let text = unsafe {
        let text = get_last_error(&raw mut *stream);
        if text.is_null() { None } else { Some(CStr::from_ptr(text).to_string_lossy().into_owned()) }
    };
    text.filter(|text| !text.is_empty()).unwrap_or_else(fallback)
}

// SAFETY: Arrow's C interface lets a stream or array be used from any thread, one at a time.
unsafe impl Send for Source {}
