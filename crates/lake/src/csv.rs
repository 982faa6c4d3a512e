//! CSV files: comma, a header line, `"` quotes, UTF-8.
//!
//! Types are inferred from *all* rows, so a later row cannot contradict them: bool (`true`/`false`), int64, float64,
//! date (`2013-01-31`), timestamp (`2013-01-31 05:00`, seconds and up to six more digits optional), timestamp with
//! zone (the same with `Z` or `+01:00`), else string. Numbers with leading zeros (`00501`) and whole numbers beyond
//! int64 stay strings, so that nothing is lost.
//!
//! An empty field is null. `NA` is null in columns of any type but string: a column of numbers and `NA` is a column
//! of numbers, a column of words and `NA` keeps the word.

use std::borrow::Cow;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::Arc;

use arrow::array::{Array as _, ArrayRef, AsArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::{Format, Reader};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema, TimeUnit};

use crate::cast::{NotKept, cast_exactly};
use crate::error::Result;
use crate::found::SourceFile;
use crate::source::{open, unreadable};

/// Rows looked at together while inferring.
const INFER_ROWS: usize = 16 * 1024;

/// What the values of a column look like so far, from narrow to wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Nothing,
    Bool,
    Int,
    Float,
    Date,
    Timestamp,
    Instant,
    Text,
}

impl Look {
    fn of(value: &str) -> Self {
        match value {
            "" | "NA" => return Self::Nothing,
            "NaN" | "nan" | "inf" | "-inf" => return Self::Float,
            _ => {}
        }
        if value.eq_ignore_ascii_case("true") || value.eq_ignore_ascii_case("false") {
            return Self::Bool;
        }
        let first = value.as_bytes()[0];
        if !first.is_ascii_digit() && !matches!(first, b'-' | b'+' | b'.') {
            return Self::Text;
        }
        Self::of_number(value).or_else(|| Self::of_time(value)).unwrap_or(Self::Text)
    }

    fn of_number(value: &str) -> Option<Self> {
        let digits = value.trim_start_matches(['-', '+']);
        if !digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'-' | b'+')) {
            return None;
        }
        let zeros = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        if zeros || value.starts_with('+') {
            return None;
        }
        if digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return value.parse::<i64>().ok().map(|_| Self::Int);
        }
        value.parse::<f64>().ok().filter(|number| number.is_finite()).map(|_| Self::Float)
    }

    fn of_time(value: &str) -> Option<Self> {
        let date = value.get(..10)?;
        chrono::NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
        let Some(rest) = value.get(10..).filter(|rest| !rest.is_empty()) else { return Some(Self::Date) };
        let time = rest.strip_prefix([' ', 'T'])?;
        let end = time.find(['Z', 'z', '+', '-', ' ']).unwrap_or(time.len());
        let (time, zone) = time.split_at(end);
        let fraction = time.split_once('.').map_or(0, |(_, fraction)| fraction.len());
        let parsed = ["%H:%M:%S%.f", "%H:%M"].iter().any(|format| chrono::NaiveTime::parse_from_str(time, format).is_ok());
        if !parsed || fraction > 6 {
            return None;
        }
        match zone.trim() {
            "" => Some(Self::Timestamp),
            "Z" | "z" => Some(Self::Instant),
            zone => zone
                .strip_prefix(['+', '-'])
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b':'))
                .map(|_| Self::Instant),
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::Nothing, look) | (look, Self::Nothing) => look,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (Self::Date, Self::Timestamp) | (Self::Timestamp, Self::Date) => Self::Timestamp,
            _ => Self::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Nothing | Self::Text => DataType::Utf8,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
            Self::Instant => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        }
    }
}

/// The type one text looks like.
pub(crate) fn look_type(text: &str) -> DataType {
    match Look::of(text) {
        Look::Nothing if text.is_empty() => DataType::Null,
        look => look.data_type(),
    }
}

/// The schema of a file, from all its rows.
pub(crate) fn infer(file: &SourceFile) -> Result<ArrowSchema> {
    let reader = text_columns(file, INFER_ROWS)?;
    let schema = reader.schema();
    let mut looks = vec![Look::Nothing; schema.fields().len()];
    for batch in reader {
        let batch: RecordBatch = batch.map_err(unreadable(&file.path))?;
        for (look, column) in looks.iter_mut().zip(batch.columns()) {
            if *look != Look::Text {
                let values = column.as_string::<i32>().iter().flatten();
                *look = values.fold(*look, |look, value| if look == Look::Text { look } else { look.and(Look::of(value)) });
            }
        }
    }
    let fields: Vec<Field> =
        schema.fields().iter().zip(looks).map(|(field, look)| Field::new(field.name(), look.data_type(), true)).collect();
    Ok(ArrowSchema::new(fields))
}

/// Reads a file with every column as text; null where the field is empty.
pub(crate) fn text_columns(file: &SourceFile, batch_rows: usize) -> Result<Reader<Box<dyn Read + Send>>> {
    let path = file.path.as_str();
    let mut start = BufReader::new(open(file)?);
    // A failure of the store would become a text below.
    start.fill_buf().map_err(unreadable(path))?;
    let (header, _) = Format::default().with_header(true).infer_schema(start, Some(0)).map_err(unreadable(path))?;
    if header.fields().is_empty() {
        return Err(unreadable(path)("it has no header line"));
    }
    let fields: Vec<Field> = header
        .fields()
        .iter()
        .map(|field| Field::new(field.name().trim_start_matches('\u{feff}'), DataType::Utf8, true))
        .collect();
    ReaderBuilder::new(Arc::new(ArrowSchema::new(fields)))
        .with_header(true)
        .with_batch_size(batch_rows)
        .build(open(file)?)
        .map_err(unreadable(path))
}

/// Parses a text column into `kind`.
pub(crate) fn parse(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, NotKept> {
    let text = column.as_string::<i32>();
    let words = matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let null = |value: &&str| value.is_empty() || (!words && *value == "NA");
    let values: StringArray = text.iter().map(|value| value.filter(|value| !null(value))).collect();
    if kind.is_nested() {
        return Err(NotKept { row: None, why: format!("a CSV field cannot hold {kind}") });
    }
    let values: ArrayRef = match kind {
        DataType::Timestamp(..) => Arc::new(values.iter().map(|value| value.map(with_seconds)).collect::<StringArray>()),
        _ => Arc::new(values),
    };
    if let DataType::Boolean = kind {
        // Arrow takes `1`, `y` and `on` for true as well; these are not what was inferred.
        let strange = |value: &str| !value.eq_ignore_ascii_case("true") && !value.eq_ignore_ascii_case("false");
        if let Some(row) = values.as_string::<i32>().iter().position(|value| value.is_some_and(strange)) {
            let value = text.value(row);
            return Err(NotKept { row: Some(row), why: format!("the value `{value}` does not fit into Boolean") });
        }
    }
    cast_exactly(&values, kind)
}

/// `2013-01-31 05:00` as `2013-01-31 05:00:00`: Arrow wants seconds, people do not.
fn with_seconds(value: &str) -> Cow<'_, str> {
    let bytes = value.as_bytes();
    let lacks = value.is_ascii() && bytes.len() >= 16 && bytes[13] == b':' && bytes.get(16) != Some(&b':');
    if lacks { format!("{}:00{}", &value[..16], &value[16..]).into() } else { value.into() }
}

/// Parses texts of a `strptime` format into dates or timestamps; without a zone in the format they are UTC.
pub(crate) fn parse_time(column: &ArrayRef, kind: &DataType, format: &str) -> Result<ArrayRef, NotKept> {
    let texts = column.as_string::<i32>();
    let mut micros = Vec::with_capacity(texts.len());
    for (row, text) in texts.iter().enumerate() {
        let text = text.map(str::trim).filter(|text| !text.is_empty() && *text != "NA");
        let wrong = || NotKept {
            row: Some(row),
            why: format!("the value `{}` is not of the format `{format}`", text.unwrap_or_default()),
        };
        micros.push(text.map(|text| time_of(text, format).ok_or_else(wrong)).transpose()?);
    }
    let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(micros));
    cast_exactly(&times, kind)
}

/// Microseconds since 1970 of a text with a zone, without one, or of a day.
fn time_of(text: &str, format: &str) -> Option<i64> {
    if let Ok(instant) = chrono::DateTime::parse_from_str(text, format) {
        return Some(instant.timestamp_micros());
    }
    if let Ok(time) = chrono::NaiveDateTime::parse_from_str(text, format) {
        return Some(time.and_utc().timestamp_micros());
    }
    let day = chrono::NaiveDate::parse_from_str(text, format).ok()?;
    Some(day.and_time(chrono::NaiveTime::MIN).and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_looks() {
        for (look, values) in [
            (Look::Nothing, &["", "NA"][..]),
            (Look::Bool, &["true", "FALSE"]),
            (Look::Int, &["0", "-5", "9223372036854775807"]),
            (Look::Float, &["0.5", "-1e9", ".5", "NaN"]),
            (Look::Date, &["2013-01-31"]),
            (Look::Timestamp, &["2013-01-31 05:00", "2013-01-31T05:00:01", "2013-01-31 05:00:00.123456"]),
            (Look::Instant, &["2013-01-31T05:00:00Z", "2013-01-31 05:00:00+01:00", "2013-01-31 05:00:00 +0100"]),
            (Look::Text, &["007", "9223372036854775808", "UA", "2013-13-01", "2013-01-31 25:00", "1-2", "-", "+5", "1.2.3", "é"]),
        ] {
            for value in values {
                assert_eq!(Look::of(value), look, "{value}");
            }
        }
        assert_eq!(Look::Int.and(Look::Nothing).and(Look::Float), Look::Float);
        assert_eq!(Look::Int.and(Look::Date), Look::Text);
    }
}
