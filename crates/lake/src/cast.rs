//! Values from one type to another without changing them.
//!
//! Arrow's own casts round, truncate and wrap silently between some types (nanoseconds to microseconds, float64 to
//! float32). Here a cast either keeps every value or fails and says which one it could not keep.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float16Array, Float32Array, Float64Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// A value that a cast cannot keep.
#[derive(Debug)]
pub(crate) struct NotKept {
    /// Row in the array, if it is known.
    pub row: Option<usize>,
    /// What is wrong, as the rest of a sentence: "the value 1.5 does not fit into Int64".
    pub why: String,
}

/// Casts `array` to `kind`, keeping every value.
pub(crate) fn cast_exactly(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, NotKept> {
    if array.data_type() == kind {
        return Ok(Arc::clone(array));
    }
    if array.null_count() == array.len() && matches!(array.data_type(), DataType::Null) {
        return Ok(new_null_array(kind, array.len()));
    }
    let result = strict(array, kind).map_err(|error| find_first(array, kind, &error))?;
    if may_lose(array.data_type(), kind) {
        check_kept(array, &result)?;
    }
    Ok(result)
}

fn strict(array: &dyn Array, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    cast_with_options(array, kind, &CastOptions { safe: false, ..CastOptions::default() })
}

/// Whether Arrow's strict cast may change a value without failing.
fn may_lose(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    match (from, to) {
        (T::Dictionary(_, from), to) => may_lose(from, to),
        (T::RunEndEncoded(_, from), to) => may_lose(from.data_type(), to),
        (T::Timestamp(from, _), T::Timestamp(to, _)) | (T::Time32(from) | T::Time64(from), T::Time32(to) | T::Time64(to)) => {
            finer(*from, *to)
        }
        (T::Timestamp(..), T::Date32 | T::Date64) | (T::Date64, T::Date32) => true,
        (from, T::Float16) => !matches!(from, T::Int8 | T::UInt8),
        (from, T::Float32) => !matches!(from, T::Float16 | T::Int8 | T::UInt8 | T::Int16 | T::UInt16),
        (from, T::Float64) => matches!(from, T::Int64 | T::UInt64) || from.is_decimal(),
        (from, to) if from.is_floating() => to.is_integer() || to.is_decimal(),
        (from, to) if from.is_decimal() => to.is_numeric() && !(to.is_decimal() && scale(to) >= scale(from)),
        _ => false,
    }
}

fn scale(kind: &DataType) -> i8 {
    match kind {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => *scale,
        _ => 0,
    }
}

fn finer(from: TimeUnit, to: TimeUnit) -> bool {
    let rank = |unit| match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    };
    rank(from) > rank(to)
}

/// Compares `array` with `result` cast back.
fn check_kept(array: &ArrayRef, result: &ArrayRef) -> Result<(), NotKept> {
    let decoded = match array.data_type() {
        DataType::Dictionary(_, value) => strict(array, value),
        DataType::RunEndEncoded(_, value) => strict(array, value.data_type()),
        _ => Ok(Arc::clone(array)),
    };
    let fail = |error: ArrowError| NotKept { row: None, why: error.to_string() };
    let decoded = decoded.map_err(fail)?;
    // Leniently: what does not even turn back becomes null, and so differs.
    let back = cast_with_options(result, decoded.data_type(), &CastOptions { safe: true, ..CastOptions::default() });
    let back = back.map_err(fail)?;
    let same = arrow::compute::kernels::cmp::not_distinct(&back, &decoded).map_err(fail)?;
    match first_false(&same, &decoded) {
        None => Ok(()),
        Some(row) => Err(does_not_fit(&decoded, row, result.data_type())),
    }
}

/// The first row that is false, leaving out NaN, whose payload may change.
fn first_false(same: &BooleanArray, values: &ArrayRef) -> Option<usize> {
    if same.true_count() == same.len() {
        return None;
    }
    (0..same.len()).find(|&row| !same.value(row) && !is_nan(values, row))
}

fn is_nan(values: &ArrayRef, row: usize) -> bool {
    let any = values.as_any();
    if let Some(values) = any.downcast_ref::<Float64Array>() {
        values.is_valid(row) && values.value(row).is_nan()
    } else if let Some(values) = any.downcast_ref::<Float32Array>() {
        values.is_valid(row) && values.value(row).is_nan()
    } else if let Some(values) = any.downcast_ref::<Float16Array>() {
        values.is_valid(row) && values.value(row).is_nan()
    } else {
        false
    }
}

/// Looks for the row that made a strict cast fail.
fn find_first(array: &ArrayRef, kind: &DataType, error: &ArrowError) -> NotKept {
    let Ok(lenient) = cast_with_options(array, kind, &CastOptions { safe: true, ..CastOptions::default() }) else {
        return NotKept { row: None, why: format!("{} does not turn into {kind}: {error}", array.data_type()) };
    };
    match (0..array.len()).find(|&row| array.is_valid(row) && lenient.is_null(row)) {
        Some(row) => does_not_fit(array, row, kind),
        None => NotKept { row: None, why: error.to_string() },
    }
}

fn does_not_fit(array: &ArrayRef, row: usize, kind: &DataType) -> NotKept {
    NotKept { row: Some(row), why: format!("the value `{}` does not fit into {kind}", show(array, row)) }
}

/// A value as text, for messages.
pub(crate) fn show(array: &dyn Array, row: usize) -> String {
    ArrayFormatter::try_new(array, &FormatOptions::default())
        .map_or_else(|_| "?".to_owned(), |formatter| formatter.value(row).to_string())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, TimestampNanosecondArray};

    use super::*;

    fn fails(array: ArrayRef, kind: &DataType) -> String {
        cast_exactly(&array, kind).unwrap_err().why
    }

    #[test]
    fn values_are_kept_or_named() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        let exact: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![Some(1_000), None, Some(-2_000)]));
        assert_eq!(cast_exactly(&exact, &micros).unwrap().len(), 3);
        let inexact: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1_000, 1_001]));
        assert_eq!(cast_exactly(&inexact, &micros).unwrap_err().row, Some(1));
        assert!(fails(inexact, &micros).contains("1970-01-01T00:00:00.000001001"));
        assert!(fails(Arc::new(Float64Array::from(vec![0.5, 0.1])), &DataType::Float32).contains("0.1"));
        assert!(fails(Arc::new(Int64Array::from(vec![5, 300])), &DataType::Int8).contains("300"));
        let nan: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, 1.5]));
        assert_eq!(cast_exactly(&nan, &DataType::Float32).unwrap().len(), 2);
        assert!(fails(Arc::new(Float64Array::from(vec![1.5])), &DataType::Int64).contains("1.5"));
        assert!(fails(Arc::new(Int64Array::from(vec![i64::MAX])), &DataType::Float64).contains("9223372036854775807"));
    }
}
