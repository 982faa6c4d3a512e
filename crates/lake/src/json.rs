//! JSON lines: one object a line, in UTF-8; empty lines are left out.
//!
//! Types are inferred from *all* rows, as for CSV: bool, int64, float64 (int64 and float64 together), string, lists and
//! structs of them; a key some objects lack is null there. Values of different kinds under one key make a string
//! column, which holds strings as they are and the rest as it is written. Strings are strings: a table whose column is a
//! date or timestamp parses them.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema};
use arrow::json::ReaderBuilder;
use arrow::json::reader::Reader;
use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Result};
use crate::found::SourceFile;
use crate::source::{open, unreadable};

/// Nesting of a value, at most: far below what the parser's stack takes.
const DEPTH_MAX: usize = 32;

/// What the values under one key look like so far.
#[derive(Debug, Clone, Default, PartialEq)]
enum Look {
    #[default]
    Nothing,
    Bool,
    Int,
    Float,
    Text,
    List(Box<Look>),
    Struct(Vec<(String, Look)>),
    /// Lists or objects in some rows and something else in others.
    Mixed,
}

impl Look {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, look) | (look, Self::Nothing) => look,
            (Self::Int, Self::Float) | (Self::Float, Self::Int) => Self::Float,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.and(*b))),
            (Self::Struct(a), Self::Struct(b)) => Self::Struct(join(a, b)),
            (a, b) if a == b => a,
            (Self::List(_) | Self::Struct(_) | Self::Mixed, _) | (_, Self::List(_) | Self::Struct(_) | Self::Mixed) => {
                Self::Mixed
            }
            _ => Self::Text,
        }
    }

    /// The column's type; none for what cannot be one column.
    fn data_type(&self) -> Option<DataType> {
        Some(match self {
            Self::Nothing => DataType::Null,
            Self::Bool => DataType::Boolean,
            Self::Int => DataType::Int64,
            Self::Float => DataType::Float64,
            Self::Text => DataType::Utf8,
            Self::List(item) => DataType::List(Arc::new(Field::new("item", item.data_type()?, true))),
            Self::Struct(fields) => DataType::Struct(struct_fields(fields)?),
            Self::Mixed => return None,
        })
    }
}

fn struct_fields(fields: &[(String, Look)]) -> Option<Fields> {
    fields.iter().map(|(name, look)| Some(Field::new(name, look.data_type()?, true))).collect()
}

fn join(mut known: Vec<(String, Look)>, more: Vec<(String, Look)>) -> Vec<(String, Look)> {
    for (name, look) in more {
        match known.iter_mut().find(|(other, _)| *other == name) {
            Some((_, so_far)) => *so_far = std::mem::take(so_far).and(look),
            None => known.push((name, look)),
        }
    }
    known
}

/// The look of any JSON value, read without keeping the value. Keys stay in the order they come.
impl<'de> Deserialize<'de> for Look {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LookVisitor)
    }
}

struct LookVisitor;

impl<'de> Visitor<'de> for LookVisitor {
    type Value = Look;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Look, E> {
        Ok(Look::Nothing)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Look, E> {
        Ok(Look::Bool)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Look, E> {
        Ok(Look::Int)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Look, E> {
        // Whole numbers beyond int64 stay text, so that nothing is lost.
        Ok(if i64::try_from(number).is_ok() { Look::Int } else { Look::Text })
    }

    fn visit_f64<E>(self, number: f64) -> Result<Look, E> {
        // Whole numbers beyond uint64 come as floats.
        Ok(if number.abs() >= 1e15 && number.fract() == 0.0 { Look::Text } else { Look::Float })
    }

    fn visit_str<E>(self, _: &str) -> Result<Look, E> {
        Ok(Look::Text)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Look, A::Error> {
        let mut item = Look::Nothing;
        while let Some(next) = items.next_element::<Look>()? {
            item = item.and(next);
        }
        Ok(Look::List(Box::new(item)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Look, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, look)) = entries.next_entry::<String, Look>()? {
            fields = join(fields, vec![(name, look)]);
        }
        Ok(Look::Struct(fields))
    }
}

/// The schema of a file, from all its rows; columns of nothing but null have the type null.
pub(crate) fn infer(file: &SourceFile) -> Result<ArrowSchema> {
    let path = file.path.as_str();
    let mut look = Look::Struct(Vec::new());
    for (number, line) in BufReader::new(open(file)?).lines().enumerate() {
        let line = line.map_err(unreadable(path))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |why: String| Error::Source { path: path.to_owned(), cause: format!("line {}: {why}", number + 1).into() };
        if depth(&line) > DEPTH_MAX {
            return Err(wrong(format!("it is nested more than {DEPTH_MAX} levels deep")));
        }
        match serde_json::from_str::<Look>(&line).map_err(|error| wrong(error.to_string()))? {
            Look::Struct(fields) => look = look.and(Look::Struct(fields)),
            _ => return Err(wrong("it is not an object".to_owned())),
        }
    }
    let Look::Struct(fields) = look else { unreachable!("structs join to structs") };
    for (name, look) in &fields {
        if look.data_type().is_none() {
            let why = format!("the values of `{name}` are objects or lists in some rows and something else in others");
            return Err(unreadable(path)(why));
        }
    }
    Ok(ArrowSchema::new(struct_fields(&fields).unwrap_or_default()))
}

/// Brackets open at once, at most; those inside strings do not count.
fn depth(line: &str) -> usize {
    let (mut depth, mut most, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for byte in line.bytes() {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'{' | b'[') => {
                depth += 1;
                most = most.max(depth);
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    most
}

/// Reads a file as the schema that was inferred from it.
pub(crate) fn rows(
    file: &SourceFile,
    schema: &ArrowSchema,
    batch_rows: usize,
) -> Result<Reader<BufReader<Box<dyn Read + Send>>>> {
    ReaderBuilder::new(Arc::new(schema.clone()))
        .with_batch_size(batch_rows)
        // Under keys of several kinds, numbers and truth values become the text they are written as.
        .with_coerce_primitive(true)
        .build(BufReader::new(open(file)?))
        .map_err(unreadable(&file.path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_looks() {
        let look =
            |text: &str| text.lines().map(|line| serde_json::from_str::<Look>(line).unwrap()).fold(Look::Nothing, Look::and);
        let kind = |text: &str| look(text).data_type();
        assert_eq!(kind("1\n2.5"), Some(DataType::Float64));
        assert_eq!(kind("1\nnull\n-5"), Some(DataType::Int64));
        assert_eq!(kind("1\n\"a\""), Some(DataType::Utf8));
        assert_eq!(kind("9223372036854775808"), Some(DataType::Utf8));
        assert_eq!(kind("true\n1"), Some(DataType::Utf8));
        assert_eq!(kind("[]\n[1]\nnull"), kind("[1, null]"));
        assert_eq!((kind("[1]\n1"), kind("{\"a\": 1}\n[1]"), kind("[[1], 2]")), (None, None, None));
        let Some(DataType::Struct(fields)) = kind("{\"z\": 1, \"a\": {\"b\": []}}\n{\"c\": true, \"z\": 0.5}") else { panic!() };
        let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["z", "a", "c"], "in the order they come");
        assert_eq!((depth(r#"{"a[[": [{"\"{": []}]}"#), depth("[[]]")), (4, 2));
    }
}
