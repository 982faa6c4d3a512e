//! What a table's schema becomes when rows of another schema are added: columns are found by name, new ones are added
//! at the end, types are widened where Iceberg allows it in place. Nothing is dropped, renamed or moved.
//!
//! ```text
//! rows fit the table's type              -> the column stays            int8 rows, long column
//! the table's type fits into the rows'   -> widened, its id stays       long rows, int column; double, float
//!   and Iceberg promotes it                                            decimal(12, 2) rows, decimal(9, 2) column
//! else                                   -> refused                    string rows, int column; double rows, long column
//! a column the table lacks               -> added, nullable, new id     also inside structs, lists and maps
//! a column the rows lack                 -> null, if it may be null
//! ```
//!
//! A column that some partition spec was made from is not widened: readers compare its old partition values by type.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, Schema, StructType, TableMetadata, Type};

use crate::error::{Error, Result};
use crate::schema::{self, Notes, clean_type, common_type, list_item, promotes, read_as, stored_as, widens};

/// A schema that has grown.
#[derive(Debug)]
pub(crate) struct Grown {
    pub schema: Schema,
    pub notes: Notes,
    /// What happened, for people: "added column `a`", "widened column `b` from int to long".
    pub changes: Vec<String>,
}

/// The schema after rows of `given` were added, with documentation for the columns that `docs` names.
pub(crate) fn grow(metadata: &TableMetadata, notes: &Notes, given: &SchemaRef, docs: &[(String, String)]) -> Result<Grown> {
    let mut growth = Growth {
        next_id: metadata.last_column_id() + 1,
        notes: notes.clone(),
        sources: metadata.partition_specs_iter().flat_map(|spec| spec.fields().iter()).map(|field| field.source_id).collect(),
        changes: Vec::new(),
    };
    let old = metadata.current_schema().as_struct();
    let mut fields = Vec::new();
    for column in old.fields() {
        fields.push(match given.field_with_name(&column.name) {
            Ok(field) => growth.field(&column.name, column, field.data_type()).map_err(|()| growth.refusal(column, field))?,
            // Whether it may be null, the rows say when they are stored: a merge fills in what was there.
            Err(_) => Arc::clone(column),
        });
    }
    for field in given.fields() {
        if old.field_by_name(field.name()).is_none() {
            fields.push(growth.new_field(field.name(), field)?);
        }
    }
    let schema = Schema::builder().with_fields(documented(fields, docs)).build();
    let schema = schema.map_err(|error| Error::ColumnName { why: error.message().to_owned() })?;
    Ok(Grown { schema, notes: growth.notes, changes: growth.changes })
}

/// `fields` with the documentation that `docs` has for them, by name.
pub(crate) fn documented(fields: Vec<NestedFieldRef>, docs: &[(String, String)]) -> Vec<NestedFieldRef> {
    let docs: BTreeMap<&str, &str> = docs.iter().map(|(name, doc)| (name.as_str(), doc.as_str())).collect();
    let fields = fields.into_iter().map(|field| match docs.get(field.name.as_str()) {
        Some(doc) if field.doc.as_deref() != Some(*doc) => Arc::new(field.as_ref().clone().with_doc(*doc)),
        _ => field,
    });
    fields.collect()
}

struct Growth {
    next_id: i32,
    notes: Notes,
    /// Columns some partition spec was made from.
    sources: HashSet<i32>,
    changes: Vec<String>,
}

impl Growth {
    /// The column after rows of type `row` were added; an error if they do not fit.
    fn field(&mut self, path: &str, old: &NestedFieldRef, row: &DataType) -> Result<NestedFieldRef, ()> {
        let row = match row {
            DataType::Dictionary(_, value) => value,
            DataType::RunEndEncoded(_, value) => value.data_type(),
            row => row,
        };
        let kind = match (old.field_type.as_ref(), row) {
            (_, DataType::Null) => return Ok(Arc::clone(old)),
            (Type::Primitive(kind), _) => Type::Primitive(self.primitive(path, old, kind, row)?),
            (Type::Struct(fields), DataType::Struct(rows)) => {
                Type::Struct(StructType::new(self.fields(path, fields.fields(), rows)?))
            }
            (Type::List(list), row) => {
                let item = list_item(row).ok_or(())?;
                Type::List(ListType::new(self.field(&format!("{path}.element"), &list.element_field, item.data_type())?))
            }
            (Type::Map(map), DataType::Map(entries, _)) => {
                let DataType::Struct(pair) = entries.data_type() else { return Err(()) };
                let key = Arc::clone(&map.key_field);
                if !widens(pair[0].data_type(), &clean_type(&key, &self.notes)) {
                    return Err(());
                }
                let value = self.field(&format!("{path}.value"), &map.value_field, pair[1].data_type())?;
                Type::Map(MapType::new(key, value))
            }
            _ => return Err(()),
        };
        if kind == *old.field_type {
            return Ok(Arc::clone(old));
        }
        Ok(Arc::new(NestedField { field_type: Box::new(kind), ..old.as_ref().clone() }))
    }

    fn fields(&mut self, path: &str, old: &[NestedFieldRef], rows: &arrow::datatypes::Fields) -> Result<Vec<NestedFieldRef>, ()> {
        let mut fields = Vec::new();
        for field in old {
            let row = rows.iter().find(|row| *row.name() == field.name);
            fields.push(match row {
                Some(row) => self.field(&format!("{path}.{}", field.name), field, row.data_type())?,
                None if field.required => return Err(()),
                None => Arc::clone(field),
            });
        }
        for row in rows {
            if !old.iter().any(|field| field.name == *row.name()) {
                fields.push(self.new_field(&format!("{path}.{}", row.name()), row).map_err(drop)?);
            }
        }
        Ok(fields)
    }

    fn primitive(&mut self, path: &str, old: &NestedField, kind: &PrimitiveType, row: &DataType) -> Result<PrimitiveType, ()> {
        let clean = clean_type(old, &self.notes);
        if widens(row, &clean) {
            return Ok(kind.clone());
        }
        let wide = common_type(&clean, row).filter(|wide| widens(&clean, wide) && widens(row, wide)).ok_or(())?;
        let stored = stored_as(&wide).filter(|stored| promotes(kind, stored)).ok_or(())?;
        if stored != *kind && self.sources.contains(&old.id) {
            return Err(());
        }
        self.notes.remove(&old.id);
        if wide != read_as(&stored) {
            self.notes.insert(old.id, wide.to_string());
        }
        self.changes.push(format!("widened column `{path}` from {clean} to {wide}"));
        Ok(stored)
    }

    /// A column the table lacks. The rows that are there have no value for it.
    fn new_field(&mut self, path: &str, field: &Field) -> Result<NestedFieldRef> {
        let new = schema::nested_field(path, field, &mut self.next_id, 0)?;
        schema::note(field.data_type(), &new, &mut self.notes);
        self.changes.push(format!("added column `{path}`"));
        Ok(Arc::new(NestedField { required: false, ..new.as_ref().clone() }))
    }

    fn refusal(&self, column: &NestedField, field: &Field) -> Error {
        let (from, to) = (field.data_type().to_string(), clean_type(column, &self.notes).to_string());
        Error::AppendType { column: column.name.clone(), from, to }
    }
}
