//! Types as a person writes them in a plan: Iceberg's names, as `table get` shows them.
//!
//! ```text
//! boolean int long float double decimal(9, 2) date time timestamp timestamptz string binary fixed[16]
//! list<long>  map<string, long>  struct<a: long, b: list<string>>
//! ```

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, TimeUnit};

use crate::schema::{to_iceberg, type_name};

/// Nesting of a type, at most.
const DEPTH_MAX: usize = 32;

/// The Iceberg name of what an Arrow type is stored as; Arrow's own name if it cannot be stored.
#[must_use]
pub fn stored_name(kind: &DataType) -> String {
    let schema = ArrowSchema::new(vec![Field::new("column", kind.clone(), true)]);
    let stored = to_iceberg(&schema).ok().and_then(|schema| schema.as_struct().fields().first().cloned());
    stored.map_or_else(|| kind.to_string(), |field| type_name(&field.field_type))
}

/// Reads a type; `None` for what is none.
#[must_use]
pub fn parse_type(text: &str) -> Option<DataType> {
    parse(text.trim(), 0)
}

fn parse(text: &str, depth: usize) -> Option<DataType> {
    if depth > DEPTH_MAX {
        return None;
    }
    let lower = text.to_ascii_lowercase();
    let micros = TimeUnit::Microsecond;
    Some(match lower.as_str() {
        "boolean" | "bool" => DataType::Boolean,
        "int" | "integer" | "int32" => DataType::Int32,
        "long" | "bigint" | "int64" => DataType::Int64,
        "float" | "float32" => DataType::Float32,
        "double" | "float64" => DataType::Float64,
        "date" | "date32" => DataType::Date32,
        "time" => DataType::Time64(micros),
        "timestamp" => DataType::Timestamp(micros, None),
        "timestamptz" => DataType::Timestamp(micros, Some("UTC".into())),
        "string" | "text" | "utf8" => DataType::Utf8,
        "binary" => DataType::Binary,
        _ => return compound(text, &lower, depth),
    })
}

fn compound(text: &str, lower: &str, depth: usize) -> Option<DataType> {
    let inside =
        |open: char, close: char| text.strip_suffix(close).and_then(|text| text.split_once(open)).map(|(_, inner)| inner);
    let nested = |name: &str, kind: DataType| Field::new(name, kind, true);
    if lower.starts_with("decimal(") {
        let (precision, scale) = inside('(', ')')?.split_once(',')?;
        let (precision, scale): (u8, i8) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
        let fits = (1..=38).contains(&precision) && scale >= 0 && i16::from(scale) <= i16::from(precision);
        return fits.then_some(DataType::Decimal128(precision, scale));
    }
    if lower.starts_with("fixed[") {
        return inside('[', ']')?.trim().parse().ok().filter(|bytes: &i32| *bytes > 0).map(DataType::FixedSizeBinary);
    }
    if lower.starts_with("list<") {
        return Some(DataType::List(Arc::new(nested("item", parse(inside('<', '>')?.trim(), depth + 1)?))));
    }
    let parts = || inside('<', '>').map(split);
    if lower.starts_with("map<") {
        let [key, value] = parts()?.try_into().ok()?;
        let key = nested("key", parse(key, depth + 1)?).with_nullable(false);
        let value = nested("value", parse(value, depth + 1)?);
        let entries = Field::new("entries", DataType::Struct(vec![key, value].into()), false);
        return Some(DataType::Map(Arc::new(entries), false));
    }
    if lower.starts_with("struct<") {
        let field = |part: &str| {
            let (name, kind) = part.split_once(':')?;
            Some(nested(name.trim(), parse(kind.trim(), depth + 1)?))
        };
        let fields: Option<Fields> = parts()?.into_iter().map(field).collect();
        return fields.filter(|fields| !fields.is_empty()).map(DataType::Struct);
    }
    None
}

/// The parts between commas outside brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = text.split(|c| {
        depth += i32::from(matches!(c, '<' | '(' | '[')) - i32::from(matches!(c, '>' | ')' | ']'));
        c == ',' && depth <= 0
    });
    parts.map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in [
            "boolean",
            "int",
            "long",
            "float",
            "double",
            "decimal(9, 2)",
            "date",
            "time",
            "timestamp",
            "timestamptz",
            "string",
            "binary",
            "fixed[16]",
            "list<long>",
            "map<string, list<int>>",
            "struct<a: long, b: struct<c: decimal(3, 0), d: map<int, date>>>",
        ] {
            assert_eq!(stored_name(&parse_type(name).unwrap()), name);
        }
        assert_eq!(parse_type(" Decimal(38,38) "), Some(DataType::Decimal128(38, 38)));
        for wrong in [
            "",
            "lng",
            "decimal(39, 1)",
            "decimal(3, 4)",
            "decimal(3)",
            "list<>",
            "list<long",
            "map<int>",
            "struct<>",
            "struct<a>",
            "fixed[0]",
        ] {
            assert_eq!(parse_type(wrong), None, "{wrong}");
        }
        assert_eq!(parse_type(&format!("{}int{}", "list<".repeat(100), ">".repeat(100))), None);
    }
}
