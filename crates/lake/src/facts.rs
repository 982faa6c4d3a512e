//! What manifests tell of a table's columns: nulls and bounds, without opening a data file.

use std::cmp::Ordering;

use iceberg::spec::{Datum, NestedFieldRef, PrimitiveLiteral, PrimitiveType};

use crate::error::Result;
use crate::table::{LiveFile, Table};

/// What manifests tell of a table's current snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableFacts {
    /// Live data files.
    pub files: u64,
    /// Live delete files of other engines. With them, counts and bounds are those of the rows before these deletes.
    pub delete_files: u64,
    /// Top-level columns, in the table's order.
    pub columns: Vec<ColumnFacts>,
}

/// What manifests tell of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Iceberg field id.
    pub id: i32,
    /// Name.
    pub name: String,
    /// Nulls; `None` if a file does not say.
    pub nulls: Option<u64>,
    /// No value is below; as text. `None` if there is no value, or a file does not say. Long texts are cut.
    pub lower: Option<String>,
    /// No value is above.
    pub upper: Option<String>,
}

/// Reads the facts of the table at a metadata file. Cost: one small read per manifest.
///
/// # Errors
/// [`crate::Error::Metadata`] if the file, or a manifest below it, is missing or damaged.
pub async fn facts(metadata_location: &str) -> Result<TableFacts> {
    let table = Table::open(metadata_location).await?;
    let live = match table.metadata.current_snapshot() {
        Some(snapshot) => table.live_files(snapshot).await?,
        None => return Ok(facts_of(&table, &[], 0)),
    };
    Ok(facts_of(&table, &live.data, live.deletes.len()))
}

fn facts_of(table: &Table, files: &[LiveFile], deletes: usize) -> TableFacts {
    let fields = table.metadata.current_schema().as_struct().fields();
    TableFacts {
        files: files.len() as u64,
        delete_files: deletes as u64,
        columns: fields.iter().map(|field| column(field, files)).collect(),
    }
}

fn column(field: &NestedFieldRef, files: &[LiveFile]) -> ColumnFacts {
    // A file that is older than the column holds nulls in it, and says nothing of it.
    let nulls = |live: &LiveFile| {
        let known = live.file.null_value_counts().get(&field.id).copied();
        known.or_else(|| {
            (!live.file.value_counts().contains_key(&field.id) && says_something(live)).then(|| live.file.record_count())
        })
    };
    let is_primitive = field.field_type.as_primitive_type().is_some();
    let filled: Vec<&LiveFile> = files.iter().filter(|live| nulls(live) != Some(live.file.record_count())).collect();
    let bound = |pick: fn(&LiveFile, i32) -> Option<Datum>, keep: Ordering| {
        let kind = field.field_type.as_primitive_type()?;
        let mut best: Option<Datum> = None;
        for live in &filled {
            let next = promoted(pick(live, field.id)?, kind)?;
            best = match best {
                Some(old) if next.partial_cmp(&old)? != keep => Some(old),
                _ => Some(next),
            };
        }
        best.map(|datum| text(&datum))
    };
    ColumnFacts {
        id: field.id,
        name: field.name.clone(),
        nulls: if is_primitive { files.iter().map(nulls).sum() } else { None },
        lower: bound(|live, id| live.file.lower_bounds().get(&id).cloned(), Ordering::Less),
        upper: bound(|live, id| live.file.upper_bounds().get(&id).cloned(), Ordering::Greater),
    }
}

/// Whether the file's entry holds counts at all: some writers leave them out.
fn says_something(live: &LiveFile) -> bool {
    live.file.record_count() == 0 || !live.file.value_counts().is_empty()
}

/// A bound of an older, narrower type of the column, as its present type.
fn promoted(datum: Datum, kind: &PrimitiveType) -> Option<Datum> {
    match (datum.literal(), kind) {
        (PrimitiveLiteral::Int(value), PrimitiveType::Long) => Some(Datum::long(i64::from(*value))),
        (PrimitiveLiteral::Float(value), PrimitiveType::Double) => Some(Datum::double(f64::from(value.0))),
        _ => Some(datum),
    }
}

fn text(datum: &Datum) -> String {
    match datum.literal() {
        PrimitiveLiteral::String(text) => text.clone(),
        _ => datum.to_string(),
    }
}
