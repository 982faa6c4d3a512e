//! Arrow batches as text: cells of a table, JSON rows.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::json::writer::{JsonArray, LineDelimited};
use arrow::json::{Writer, WriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::table::{Column, ruled};
use super::text::{cut, one_line};

/// Characters of a cell that are shown unless all are wanted.
pub const CELL_CHARACTERS_MAX: usize = 32;

/// How missing values show.
const NULL: &str = "null";

/// The rows as a table with names and types on top.
pub fn table(schema: &Schema, batches: &[RecordBatch], cell_characters_max: Option<usize>) -> Result<String, ArrowError> {
    let header: Vec<Column> = schema
        .fields()
        .iter()
        .map(|field| Column {
            name: one_line(field.name()),
            kind: kind(field.data_type()),
            is_number: field.data_type().is_numeric(),
        })
        .collect();
    let mut rows = Vec::new();
    for batch in batches {
        cells(batch, cell_characters_max, &mut rows)?;
    }
    Ok(ruled(&header, &rows))
}

/// The type's name, as short as it is clear.
#[must_use]
pub fn kind(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "String".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "Binary".to_owned(),
        DataType::Dictionary(_, values) => kind(values),
        DataType::List(item) | DataType::LargeList(item) | DataType::ListView(item) | DataType::LargeListView(item) => {
            format!("List({})", kind(item.data_type()))
        }
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|f| format!("{}: {}", one_line(f.name()), kind(f.data_type()))).collect();
            cut(&format!("Struct({})", fields.join(", ")), CELL_CHARACTERS_MAX)
        }
        other => other.to_string(),
    }
}

fn cells(batch: &RecordBatch, cell_characters_max: Option<usize>, rows: &mut Vec<Vec<String>>) -> Result<(), ArrowError> {
    let options = FormatOptions::default().with_null(NULL);
    let columns: Vec<_> =
        batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options)).collect::<Result<_, _>>()?;
    for row in 0..batch.num_rows() {
        let cell = |column: &ArrayFormatter<'_>| -> Result<String, ArrowError> {
            let text = one_line(&column.value(row).try_to_string()?);
            Ok(cell_characters_max.map_or_else(|| text.clone(), |max| cut(&text, max)))
        };
        rows.push(columns.iter().map(cell).collect::<Result<_, _>>()?);
    }
    Ok(())
}

/// Writes rows as a JSON array of objects; absent values are `null`.
pub fn json_array<W: std::io::Write>(out: W) -> Writer<W, JsonArray> {
    WriterBuilder::new().with_explicit_nulls(true).build(out)
}

/// Writes rows as JSON objects, one a line; absent values are `null`.
pub fn json_lines<W: std::io::Write>(out: W) -> Writer<W, LineDelimited> {
    WriterBuilder::new().with_explicit_nulls(true).build(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array, ListArray, StringViewArray,
        TimestampMicrosecondArray,
    };
    use arrow::datatypes::Int64Type;

    use super::*;

    fn batch() -> RecordBatch {
        let columns: Vec<(&str, ArrayRef)> = vec![
            (
                "name",
                Arc::new(StringViewArray::from(vec![Some("a\nb"), None, Some("a rather long string with forty characters")])),
            ),
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)]))),
            ("x", Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), None]))),
            ("ok", Arc::new(BooleanArray::from(vec![Some(true), Some(false), None]))),
            ("day", Arc::new(Date32Array::from(vec![Some(19358), None, Some(0)]))),
            ("at", Arc::new(TimestampMicrosecondArray::from(vec![Some(1_500_000), None, Some(0)]).with_timezone("UTC"))),
            ("price", Arc::new(Decimal128Array::from(vec![Some(1234), None, Some(-5)]).with_precision_and_scale(10, 2).unwrap())),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![Some(vec![Some(1), None]), None, Some(vec![])])),
            ),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
    }

    #[test]
    fn tables_show_every_type() {
        let batch = batch();
        let text = table(&batch.schema(), &[batch], Some(12)).unwrap();
        let expected = "\
┌──────────────┬───────┬─────────┬─────────┬────────────┬──────────────────────┬───────────────────┬─────────────┐
│ name         ┆     n ┆       x ┆ ok      ┆ day        ┆ at                   ┆             price ┆ list        │
│ String       ┆ Int64 ┆ Float64 ┆ Boolean ┆ Date32     ┆ Timestamp(µs, \"UTC\") ┆ Decimal128(10, 2) ┆ List(Int64) │
╞══════════════╪═══════╪═════════╪═════════╪════════════╪══════════════════════╪═══════════════════╪═════════════╡
│ a\\nb         ┆     1 ┆     0.5 ┆ true    ┆ 2023-01-01 ┆ 1970-01-01T…         ┆             12.34 ┆ [1, null]   │
│ null         ┆  null ┆     NaN ┆ false   ┆ null       ┆ null                 ┆              null ┆ null        │
│ a rather lo… ┆    -3 ┆    null ┆ null    ┆ 1970-01-01 ┆ 1970-01-01T…         ┆             -0.05 ┆ []          │
└──────────────┴───────┴─────────┴─────────┴────────────┴──────────────────────┴───────────────────┴─────────────┘";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_keeps_types() {
        let mut lines = Vec::new();
        let mut writer = json_lines(&mut lines);
        writer.write(&batch()).and_then(|()| writer.finish()).unwrap();
        let lines = String::from_utf8(lines).unwrap();
        let rows: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0]["name"], "a\nb");
        assert_eq!(rows[0]["n"], 1);
        assert_eq!(rows[0]["ok"], true);
        assert_eq!(rows[0]["list"], serde_json::json!([1, null]));
        assert_eq!(rows[1]["name"], serde_json::Value::Null);
        assert!(rows[1].get("n").is_some_and(serde_json::Value::is_null));
        let mut array = Vec::new();
        let mut writer = json_array(&mut array);
        writer.write(&batch()).and_then(|()| writer.finish()).unwrap();
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&array).unwrap().as_array().unwrap().len(), 3);
        let mut empty = Vec::new();
        json_array(&mut empty).finish().unwrap();
        assert_eq!(empty, b"[]");
    }
}
