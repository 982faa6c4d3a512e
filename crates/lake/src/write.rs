//! Creating tables and writing rows: what each mode does to schema, partitioning and files.
//!
//! ```text
//! base   mode       result
//! none   any        a new table at `location`
//! some   append     same table; the rows are brought to its schema
//! some   overwrite  same table; rows matching the filter go, files matching only partly are rewritten
//! some   replace    same partitioning, and every column some spec was ever made from is still there:
//!                   same table, new snapshot; columns keep their field ids by name
//!                   otherwise: a fresh table (new identity, no history) at `location`
//! ```
//!
//! A fresh table is made because readers trip over metadata whose old specs name columns that are gone; the old
//! table is still there for older commits of the catalog. If `location` is taken, the fresh table goes beside it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use forebay_types::PartitionField;
use iceberg::spec::{DataFile, FormatVersion, Operation, Schema, SortOrder, TableMetadata, TableMetadataBuilder};
use uuid::Uuid;

use crate::commit::{Change, Drop, Staged};
use crate::error::{Error, Result, nearest};
use crate::predicate::Filter;
use crate::rows::{self, Rows};
use crate::schema::{self, TYPES_PROPERTY};
use crate::storage::Location;
use crate::table::Table;
use crate::{overwrite, partition, storage};

/// What to write where.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// Folder of the table if one is made; an absolute path, a `file://` URI, or one of an object store.
    pub location: String,
    /// The metadata file of the table before; `None`: it does not exist yet.
    pub base: Option<String>,
    /// What happens to the rows that are there.
    pub mode: Mode,
    /// Partition fields of a table that is made or replaced. On append and overwrite: empty, or what the table has.
    pub partition_by: Vec<PartitionField>,
    /// Table properties to set, for example `comment`.
    pub properties: Vec<(String, String)>,
}

/// What happens to the rows that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// They go; the schema becomes that of the new rows.
    Replace,
    /// They stay.
    Append,
    /// Those that match go.
    Overwrite {
        /// A SQL boolean expression over columns the table is partitioned by.
        filter: String,
    },
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The new metadata file; the base's if nothing had to change.
    pub metadata_location: String,
    /// Rows given.
    pub rows: u64,
    /// Bytes of the new data files.
    pub file_bytes: u64,
    /// New data files (also those that hold rewritten older rows).
    pub files: usize,
}

/// Makes an empty table and returns the location of its metadata file.
///
/// # Errors
/// If a column's type or name cannot be stored, a partition field does not fit, or the disk refuses.
pub async fn create(
    location: &str,
    schema: &SchemaRef,
    partition_by: &[PartitionField],
    properties: &[(String, String)],
) -> Result<String> {
    let iceberg = schema::to_iceberg(schema)?;
    fresh(location, schema, iceberg, partition_by, properties)?.finish()
}

/// Writes rows. Everything is durable when this returns; the table changes for others only when the returned
/// metadata location is put into the catalog.
///
/// # Errors
/// If schema or values do not fit (see the variants of [`Error`]), or the disk refuses.
pub async fn write(request: WriteRequest, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Written> {
    schema::check_columns(&schema)?;
    let given = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let new = Rows { schema: Arc::clone(&schema), batches };
    let Some(base) = &request.base else {
        let iceberg = schema::to_iceberg(&schema)?;
        if let Mode::Overwrite { filter } = &request.mode {
            Filter::parse(filter, &schema::clean_schema(&iceberg, &schema::notes(&schema, &iceberg)))?;
        }
        let staged = fresh(&request.location, &schema, iceberg, &request.partition_by, &request.properties)?;
        return finish(staged, vec![new], Drop::Nothing, given).await;
    };
    let base = Table::open(base).await?;
    base.check_writable()?;
    if let Mode::Replace = request.mode {
        return finish(replaced(base, &request, &schema)?, vec![new], Drop::Everything, given).await;
    }
    check_partitions(&base, &request.partition_by)?;
    append_columns(&base.metadata, &schema)?;
    if let Mode::Overwrite { filter } = &request.mode {
        let cut = overwrite::cut(&base, filter).await?;
        let staged = kept(base, &request.properties)?;
        return finish(staged, vec![cut.kept, new], Drop::Paths(cut.dropped), given).await;
    }
    if given == 0 && request.properties.is_empty() {
        return Ok(Written { metadata_location: base.location, rows: 0, file_bytes: 0, files: 0 });
    }
    finish(kept(base, &request.properties)?, vec![new], Drop::Nothing, given).await
}

/// Writes the data files, then the commit. `given` is how many of the rows the caller gave.
async fn finish(staged: Staged, rows: Vec<Rows>, dropped: Drop, given: u64) -> Result<Written> {
    let added = rows::store(&staged, rows).await?;
    let file_bytes = added.iter().map(DataFile::file_size_in_bytes).sum();
    let count = added.len();
    let had_rows = staged.metadata.current_snapshot().is_some();
    let drops = match &dropped {
        Drop::Nothing => false,
        Drop::Everything => had_rows,
        Drop::Paths(paths) => !paths.is_empty(),
    };
    let operation = match (drops, added.is_empty()) {
        (false, true) => {
            let metadata_location = staged.finish()?;
            return Ok(Written { metadata_location, rows: given, file_bytes: 0, files: 0 });
        }
        (false, false) => Operation::Append,
        (true, false) => Operation::Overwrite,
        (true, true) => Operation::Delete,
    };
    let metadata_location = staged.commit(Change { added, dropped, operation }).await?;
    Ok(Written { metadata_location, rows: given, file_bytes, files: count })
}

fn properties_with_notes(schema: &SchemaRef, iceberg: &Schema, properties: &[(String, String)]) -> HashMap<String, String> {
    let mut all: HashMap<String, String> = properties.iter().cloned().collect();
    // Files are shared by branches of the catalog: no engine may remove them by itself.
    all.insert("gc.enabled".into(), "false".into());
    if let Some(text) = schema::notes_to_text(&schema::notes(schema, iceberg)) {
        all.insert(TYPES_PROPERTY.into(), text);
    }
    all
}

/// A table that does not exist yet.
fn fresh(
    location: &str,
    schema: &SchemaRef,
    iceberg: Schema,
    partition_by: &[PartitionField],
    properties: &[(String, String)],
) -> Result<Staged> {
    let spec = partition::spec(&iceberg, partition_by)?;
    let location = free_location(location)?;
    let failed = |error| Error::internal::<iceberg::Error>("make the table metadata")(error);
    // The builder gives out field ids anew, so the notes can only be made from what it built.
    let builder =
        TableMetadataBuilder::new(iceberg, spec, SortOrder::unsorted_order(), location, FormatVersion::V2, HashMap::new())
            .map_err(failed)?;
    let numbered = builder.clone().build().map_err(failed)?.metadata;
    let properties = properties_with_notes(schema, numbered.current_schema(), properties);
    Staged::new(builder.set_properties(properties).map_err(failed)?, None)
}

/// `location`, or a sibling if there is a table already.
fn free_location(location: &str) -> Result<String> {
    let location = Location::parse(location)?;
    if storage::is_taken(&location.join("metadata"))? {
        let (suffix, _) = Uuid::new_v4().as_u64_pair();
        return Ok(format!("{location}-{suffix:016x}"));
    }
    Ok(location.text())
}

/// The table unchanged but for properties.
pub(crate) fn kept(base: Table, properties: &[(String, String)]) -> Result<Staged> {
    let failed = |error| Error::internal::<iceberg::Error>("change the table metadata")(error);
    let builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    let builder = builder.upgrade_format_version(FormatVersion::V2).map_err(failed)?;
    let builder = builder.set_properties(properties.iter().cloned().collect()).map_err(failed)?;
    Staged::new(builder, Some(base))
}

/// The table with a new schema and partitioning, in place if that is safe.
fn replaced(base: Table, request: &WriteRequest, schema: &SchemaRef) -> Result<Staged> {
    let wanted = schema::to_iceberg(schema)?;
    let metadata = &base.metadata;
    let evolved = schema::with_ids_of(&wanted, metadata.current_schema(), metadata.last_column_id())?;
    if same_partitions(metadata, &evolved, &request.partition_by) && sources_stay(metadata, &evolved) {
        let failed = |error| Error::internal::<iceberg::Error>("change the table metadata")(error);
        let properties = properties_with_notes(schema, &evolved, &request.properties);
        let mut builder = metadata.clone().into_builder(Some(base.location.clone()));
        builder = builder.upgrade_format_version(FormatVersion::V2).map_err(failed)?;
        if !properties.contains_key(TYPES_PROPERTY) {
            builder = builder.remove_properties(&[TYPES_PROPERTY.to_owned()]).map_err(failed)?;
        }
        // A column named like a partition field cannot be added in place.
        if let Ok(builder) = builder.add_current_schema(evolved) {
            return Staged::new(builder.set_properties(properties).map_err(failed)?, Some(base));
        }
    }
    let mut properties: Vec<(String, String)> = metadata
        .properties()
        .iter()
        .filter(|(key, _)| *key != TYPES_PROPERTY && !request.properties.iter().any(|(new, _)| new == *key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    properties.extend(request.properties.iter().cloned());
    fresh(&request.location, schema, wanted, &request.partition_by, &properties)
}

/// Whether the default spec has exactly these fields.
fn same_partitions(metadata: &TableMetadata, schema: &Schema, fields: &[PartitionField]) -> bool {
    let spec = metadata.default_partition_spec();
    partition::fields_of(spec, metadata.current_schema()).is_some_and(|now| now == fields)
        && spec.fields().iter().all(|field| schema.name_by_field_id(field.source_id).is_some())
}

/// Whether every column that any spec was made from keeps id and type.
fn sources_stay(metadata: &TableMetadata, schema: &Schema) -> bool {
    metadata.partition_specs_iter().flat_map(|spec| spec.fields().iter()).all(|field| {
        let old = metadata.current_schema().field_by_id(field.source_id);
        let new = schema.field_by_id(field.source_id);
        old.zip(new).is_some_and(|(old, new)| old.field_type == new.field_type)
    })
}

fn check_partitions(base: &Table, asked: &[PartitionField]) -> Result<()> {
    let metadata = &base.metadata;
    let now = partition::fields_of(metadata.default_partition_spec(), metadata.current_schema());
    if now.is_none() {
        let feature = "writing with partitions by bucket, truncate or nested fields".to_owned();
        return Err(Error::Unsupported { table: base.location.clone(), feature });
    }
    let now = now.unwrap_or_default();
    if asked.is_empty() || now == asked {
        return Ok(());
    }
    let list = |fields: &[PartitionField]| fields.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let table = if now.is_empty() { "nothing".to_owned() } else { list(&now) };
    Err(Error::PartitionMismatch { table, asked: list(asked) })
}

/// Checks that rows of `schema` can be appended to the table: columns by name, types widening.
fn append_columns(metadata: &TableMetadata, schema: &SchemaRef) -> Result<()> {
    let table = metadata.current_schema().as_struct();
    let notes = schema::notes_from_text(metadata.properties());
    for field in schema.fields() {
        let Some(column) = table.field_by_name(field.name()) else {
            let near = nearest(field.name(), table.fields().iter().map(|field| field.name.as_str()));
            return Err(Error::ExtraColumn { column: field.name().clone(), near });
        };
        let to = schema::clean_field(column, &notes);
        if !schema::widens(field.data_type(), to.data_type()) {
            let (from, to) = (field.data_type().to_string(), to.data_type().to_string());
            return Err(Error::AppendType { column: field.name().clone(), from, to });
        }
    }
    for column in table.fields() {
        if column.required && schema.index_of(&column.name).is_err() {
            return Err(Error::Required { column: column.name.clone(), why: "it is missing".to_owned() });
        }
    }
    Ok(())
}
