//! Columns of the table as expressions over the columns of a file.
//!
//! Iceberg files know columns by field id, so a renamed column is found, and one that was dropped and made again is not taken
//! for the old one. Files without ids (imported, or of other engines) are read by name. A column the file does not have is
//! null, or what the file's identity partition says; one of another type is brought to the table's by the rules of all reads.

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema as ArrowSchema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column, Literal};
use datafusion::physical_expr_adapter::{PhysicalExprAdapter, PhysicalExprAdapterFactory};
use iceberg::spec::{Schema, TableMetadata, Type};

use super::external;
use crate::cast::cast_exactly;
use crate::conform::{conform, field_id};
use crate::error::Error;
use crate::statistics::{identity_value, literals};
use crate::table::LiveFile;

/// What [`OneFile`](super::reader::OneFile) adds to the metadata of a file's schema: its path, which [`Constants`] are found by.
pub(super) const PATH_KEY: &str = "forebay.path";

/// Values of identity partitions, by path and then field id. Files of imported tables lack these columns.
pub(super) type Constants = HashMap<String, HashMap<i32, ScalarValue>>;

/// The table's columns, as they are looked for in files.
#[derive(Debug)]
pub(super) struct FieldIds {
    /// The table's metadata file, for messages.
    table: String,
    wanted: Arc<[Wanted]>,
    constants: Arc<Constants>,
}

/// A column of the table.
#[derive(Debug)]
struct Wanted {
    id: i32,
    stored: Type,
    field: FieldRef,
    /// A float column of which some file does not say that it holds no NaN. Parquet leaves NaN out of statistics while SQL here
    /// sorts it above all numbers, so statistics must not be asked.
    may_have_nan: bool,
}

impl FieldIds {
    pub fn of(table: &str, schema: &Schema, fields: &SchemaRef, files: &[LiveFile]) -> Self {
        let wanted = schema.as_struct().fields().iter().zip(fields.fields()).map(|(stored, field)| Wanted {
            id: stored.id,
            stored: stored.field_type.as_ref().clone(),
            field: Arc::clone(field),
            may_have_nan: field.data_type().is_floating()
                && files.iter().any(|live| live.file.nan_value_counts().get(&stored.id) != Some(&0)),
        });
        Self { table: table.to_owned(), wanted: wanted.collect(), constants: Arc::default() }
    }

    /// With values of identity partitions.
    pub fn with(self, constants: Constants) -> Self {
        Self { constants: Arc::new(constants), ..self }
    }

    /// Whether a file has values of identity partitions.
    pub fn has_constants(&self, path: &str) -> bool {
        self.constants.contains_key(path)
    }
}

/// The values of identity partitions of files, in the types of `fields`. Those that cannot be told are left to the file.
pub(super) fn constants(metadata: &TableMetadata, schema: &Schema, fields: &SchemaRef, files: &[LiveFile]) -> Constants {
    let mut constants = Constants::new();
    if metadata.partition_specs_iter().all(|spec| spec.is_unpartitioned()) {
        return constants;
    }
    for live in files {
        for (stored, field) in schema.as_struct().fields().iter().zip(fields.fields()) {
            let Some(Some(value)) = identity_value(live, metadata, stored.id) else { continue };
            let one = stored.field_type.as_primitive_type().and_then(|kind| literals(kind, std::iter::once(Some(&value))));
            let cast = one.and_then(|one| cast_exactly(&one, field.data_type()).ok());
            if let Some(value) = cast.and_then(|one| ScalarValue::try_from_array(&one, 0).ok()) {
                constants.entry(live.file.file_path().to_owned()).or_default().insert(stored.id, value);
            }
        }
    }
    constants
}

impl PhysicalExprAdapterFactory for FieldIds {
    fn create(&self, logical: SchemaRef, physical: SchemaRef) -> Result<Arc<dyn PhysicalExprAdapter>, DataFusionError> {
        let has_ids = physical.fields().iter().any(|field| field_id(field).is_some());
        let path = physical.metadata().get(PATH_KEY).cloned();
        let constants = path.map(|path| (Arc::clone(&self.constants), path));
        let (table, wanted) = (self.table.clone(), Arc::clone(&self.wanted));
        Ok(Arc::new(Adapter { table, wanted, logical, physical, has_ids, constants }))
    }
}

/// [`FieldIds`] for one file.
#[derive(Debug)]
struct Adapter {
    table: String,
    wanted: Arc<[Wanted]>,
    logical: SchemaRef,
    physical: SchemaRef,
    has_ids: bool,
    /// The values of all files, and which is this one.
    constants: Option<(Arc<Constants>, String)>,
}

impl PhysicalExprAdapter for Adapter {
    fn rewrite(&self, expression: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let rewritten = expression.transform(|part| match part.downcast_ref::<Column>() {
            Some(column) => Ok(Transformed::yes(self.column(column.name())?)),
            None => Ok(Transformed::no(part)),
        });
        rewritten.map(|rewritten| rewritten.data)
    }
}

impl Adapter {
    fn column(&self, name: &str) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let wanted = &self.wanted[self.logical.index_of(name)?];
        let fields = self.physical.fields();
        let found = match self.has_ids {
            true => fields.iter().position(|field| field_id(field) == Some(wanted.id)),
            false => fields.iter().position(|field| field.name() == name),
        };
        let Some(index) = found else {
            let constant = self.constants.as_ref().and_then(|(all, path)| all.get(path)?.get(&wanted.id));
            if let Some(value) = constant {
                return Ok(Arc::new(Literal::new(value.clone())));
            }
            if !wanted.field.is_nullable() {
                let why = format!("the required column `{name}` is not in one of its data files");
                return Err(external(Error::metadata(&self.table)(why)));
            }
            return Ok(Arc::new(Literal::new(ScalarValue::try_from(wanted.field.data_type())?)));
        };
        let field = &fields[index];
        let column: Arc<dyn PhysicalExpr> = Arc::new(Column::new(field.name(), index));
        if field.data_type() == wanted.field.data_type() && !wanted.may_have_nan {
            return Ok(column);
        }
        if widens(field.data_type(), wanted.field.data_type()) && !wanted.may_have_nan {
            // Unlike `Conformed`, this is understood where statistics are looked at.
            return Ok(Arc::new(CastExpr::new(column, wanted.field.data_type().clone(), None)));
        }
        let (field, stored) = (Arc::clone(&wanted.field), wanted.stored.clone());
        Ok(Arc::new(Conformed { column, field, stored }))
    }
}

/// Whether a cast keeps every value and their order.
fn widens(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Int32, DataType::Int64) | (DataType::Float32, DataType::Float64) => true,
        (DataType::Utf8 | DataType::LargeUtf8, DataType::Utf8View) => true,
        (DataType::Binary | DataType::LargeBinary, DataType::BinaryView) => true,
        (DataType::Decimal128(from, scale), DataType::Decimal128(to, same)) => scale == same && from <= to,
        _ => false,
    }
}

/// A column of a file, brought to the table's type. Opaque to everything that reasons about expressions.
#[derive(Debug, Clone)]
struct Conformed {
    column: Arc<dyn PhysicalExpr>,
    field: FieldRef,
    stored: Type,
}

impl PartialEq for Conformed {
    fn eq(&self, other: &Self) -> bool {
        self.column.eq(&other.column) && self.field == other.field
    }
}

impl Eq for Conformed {}

impl Hash for Conformed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        self.field.hash(state);
    }
}

impl fmt::Display for Conformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "as_table({})", self.column)
    }
}

impl PhysicalExpr for Conformed {
    fn data_type(&self, _: &ArrowSchema) -> Result<DataType, DataFusionError> {
        Ok(self.field.data_type().clone())
    }

    fn nullable(&self, _: &ArrowSchema) -> Result<bool, DataFusionError> {
        Ok(self.field.is_nullable())
    }

    fn return_field(&self, _: &ArrowSchema) -> Result<FieldRef, DataFusionError> {
        Ok(Arc::new(Field::clone(&self.field)))
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue, DataFusionError> {
        let array = self.column.evaluate(batch)?.into_array(batch.num_rows())?;
        let conformed = conform(&array, self.field.data_type(), Some(&self.stored)).map_err(|problem| {
            let (column, kind) = (self.field.name().clone(), self.field.data_type().to_string());
            external(Error::Recorded { column, kind, why: problem.why })
        })?;
        Ok(ColumnarValue::Array(conformed))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.column]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn PhysicalExpr>>,
    ) -> Result<Arc<dyn PhysicalExpr>, DataFusionError> {
        let column = children.into_iter().next().unwrap_or_else(|| Arc::clone(&self.column));
        Ok(Arc::new(Self { column, ..Self::clone(&self) }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.column.fmt_sql(f)
    }
}
