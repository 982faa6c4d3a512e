//! Creating tables and writing rows: what each mode does to schema, partitioning and files.
//!
//! ```text
//! base   mode       result
//! none   any        a new table at `location`
//! some   append     same table; its schema grows where the rows ask for it (see `evolve`)
//! some   overwrite  the same; rows matching the filter go, files matching only partly are rewritten
//! some   merge      the same; rows with a key that is given go (see `merge`), their files are rewritten
//! some   replace    same partitioning, and every column some spec was ever made from is still there:
//!                   same table, new snapshot; columns keep their field ids by name
//!                   otherwise: a fresh table (new identity, no history) at `location`
//! ```
//!
//! A fresh table is made because readers trip over metadata whose old specs name columns that are gone; the old
//! table is still there for older commits of the catalog. If `location` is taken, the fresh table goes beside it.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use forebay_types::{PartitionField, SortField};
use iceberg::spec::{DataFile, FormatVersion, Operation, Schema, TableMetadata, TableMetadataBuilder};
use uuid::Uuid;

use crate::commit::{Change, Drop, Staged};
use crate::error::{Error, Result};
use crate::evolve::{self, Grown};
use crate::predicate::Filter;
use crate::rows::{self, Rows};
use crate::schema::{self, TYPES_PROPERTY};
use crate::table::Table;
use crate::{merge, overwrite, partition, replay, sort, storage};

/// What to write where.
#[derive(Debug, Clone)]
pub struct WriteRequest {
    /// Folder of the table if one is made; an absolute path or `file://` URI.
    pub location: String,
    /// The metadata file of the table before; `None`: it does not exist yet.
    pub base: Option<String>,
    /// What happens to the rows that are there.
    pub mode: Mode,
    /// Partition fields of a table that is made or replaced. Otherwise: empty, or what the table has.
    pub partition_by: Vec<PartitionField>,
    /// Order of the rows of each file, from now on. Empty: a table that is made or replaced has none, others keep theirs.
    pub sort_by: Vec<SortField>,
    /// Documentation of columns, by name. Columns that are not named keep what they have.
    pub docs: Vec<(String, String)>,
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
    /// Those with a key that is given go; the rows given are put, but for those that are marked.
    Merge {
        /// The columns rows are matched by.
        keys: Vec<String>,
        /// A SQL boolean expression over the rows given: which of them delete. The name of a boolean column alone is a
        /// mark that is not stored.
        delete_when: Option<String>,
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
    /// How the schema grew, for people.
    pub changes: Vec<String>,
}

/// Makes an empty table and returns the location of its metadata file.
///
/// # Errors
/// If a column's type or name cannot be stored, a partition field does not fit, or the disk refuses.
pub async fn create(
    location: &str,
    schema: &SchemaRef,
    partition_by: &[PartitionField],
    sort_by: &[SortField],
    properties: &[(String, String)],
) -> Result<String> {
    let request = WriteRequest {
        location: location.to_owned(),
        base: None,
        mode: Mode::Replace,
        partition_by: partition_by.to_vec(),
        sort_by: sort_by.to_vec(),
        docs: Vec::new(),
        properties: properties.to_vec(),
    };
    fresh(&request, schema, schema::to_iceberg(schema)?, properties)?.finish()
}

/// Writes rows. Everything is durable when this returns; the table changes for others only when the returned
/// metadata location is put into the catalog.
///
/// # Errors
/// If schema or values do not fit (see the variants of [`Error`]), or the disk refuses.
pub async fn write(request: WriteRequest, schema: SchemaRef, batches: Vec<RecordBatch>) -> Result<Written> {
    schema::check_columns(&schema)?;
    let given = batches.iter().map(|batch| batch.num_rows() as u64).sum();
    let new = Rows { schema, batches };
    let Some(base) = &request.base else { return first(&request, new, given).await };
    let base = Table::open(base).await?;
    base.check_writable()?;
    if let Mode::Replace = request.mode {
        let staged = replaced(base, &request, &new.schema)?;
        return finish(staged, vec![new], Change::of(Drop::Everything), given, Vec::new()).await;
    }
    check_partitions(&base, &request.partition_by)?;
    match &request.mode {
        Mode::Merge { keys, delete_when } => {
            let marked = merge::marked(new, delete_when.as_deref())?;
            let grown = evolve::grow(&base.metadata, &base.notes, &marked.rows.schema, &request.docs)?;
            let clean = schema::clean_schema(&grown.schema, &grown.notes);
            let merged = merge::merge(&base, marked, keys, &clean).await?;
            let mut change = Change::of(Drop::Paths(merged.dropped));
            change.told = replay::merge_told(keys, merged.idle_deletes);
            let changes = grown.changes.clone();
            finish(kept(base, &request, grown)?, vec![merged.kept, merged.put], change, given, changes).await
        }
        mode => {
            let grown = evolve::grow(&base.metadata, &base.notes, &new.schema, &request.docs)?;
            let changes = grown.changes.clone();
            let mut change = Change::of(Drop::Nothing);
            let mut rows = Vec::new();
            if let Mode::Overwrite { filter } = mode {
                let cut = overwrite::cut(&base, filter).await?;
                rows.push(cut.kept);
                change = Change { told: replay::overwrite_told(filter), ..Change::of(Drop::Paths(cut.dropped)) };
            }
            rows.push(new);
            finish(kept(base, &request, grown)?, rows, change, given, changes).await
        }
    }
}

/// The first rows of a table that does not exist yet.
async fn first(request: &WriteRequest, new: Rows, given: u64) -> Result<Written> {
    let clean = |schema: &SchemaRef| {
        let iceberg = schema::to_iceberg(schema)?;
        Ok::<_, Error>((schema::clean_schema(&iceberg, &schema::notes(schema, &iceberg)), iceberg))
    };
    let mut rows = new;
    if let Mode::Merge { keys, delete_when } = &request.mode {
        let marked = merge::marked(rows, delete_when.as_deref())?;
        let (clean, _) = clean(&marked.rows.schema)?;
        rows = merge::into_nothing(marked, keys, &clean)?.put;
    }
    let (clean, iceberg) = clean(&rows.schema)?;
    if let Mode::Overwrite { filter } = &request.mode {
        Filter::parse(filter, &clean)?;
    }
    let staged = fresh(request, &rows.schema, iceberg, &request.properties)?;
    finish(staged, vec![rows], Change::of(Drop::Nothing), given, Vec::new()).await
}

/// Writes the data files, then the commit. `given` is how many of the rows the caller gave.
async fn finish(staged: Staged, rows: Vec<Rows>, change: Change, given: u64, changes: Vec<String>) -> Result<Written> {
    let added = rows::store(&staged, rows).await?;
    let file_bytes = added.iter().map(DataFile::file_size_in_bytes).sum();
    let files = added.len();
    let had_rows = staged.metadata.current_snapshot().is_some();
    let drops = match &change.dropped {
        Drop::Nothing => false,
        Drop::Everything => had_rows,
        Drop::Paths(paths) => !paths.is_empty(),
    };
    let operation = match (drops, added.is_empty()) {
        (false, true) => {
            let metadata_location = staged.finish_unless_same()?;
            return Ok(Written { metadata_location, rows: given, file_bytes, files, changes });
        }
        (false, false) => Operation::Append,
        (true, false) => Operation::Overwrite,
        (true, true) => Operation::Delete,
    };
    let metadata_location = staged.commit(Change { added, operation, ..change }).await?;
    Ok(Written { metadata_location, rows: given, file_bytes, files, changes })
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
fn fresh(request: &WriteRequest, schema: &SchemaRef, iceberg: Schema, properties: &[(String, String)]) -> Result<Staged> {
    let failed = |error| Error::internal::<iceberg::Error>("make the table metadata")(error);
    let fields = evolve::documented(iceberg.as_struct().fields().to_vec(), &request.docs);
    let iceberg = Schema::builder().with_fields(fields).build().map_err(failed)?;
    let spec = partition::spec(&iceberg, &request.partition_by)?;
    let order = sort::order(&iceberg, &request.sort_by)?;
    let location = free_location(&request.location)?;
    // The builder gives out field ids anew, so the notes can only be made from what it built.
    let builder = TableMetadataBuilder::new(iceberg, spec, order, location, FormatVersion::V2, HashMap::new());
    let builder = builder.map_err(failed)?;
    let numbered = builder.clone().build().map_err(failed)?.metadata;
    let properties = properties_with_notes(schema, numbered.current_schema(), properties);
    Staged::new(builder.set_properties(properties).map_err(failed)?, None)
}

/// `location`, or a sibling if there is a table already.
fn free_location(location: &str) -> Result<String> {
    let location = storage::plain_location(location)?;
    if storage::plain_path(&location)?.join("metadata").exists() {
        let (suffix, _) = Uuid::new_v4().as_u64_pair();
        return Ok(format!("{location}-{suffix:016x}"));
    }
    Ok(location)
}

/// The table with the rows' columns, and the properties and order asked for.
fn kept(base: Table, request: &WriteRequest, grown: Grown) -> Result<Staged> {
    let failed = |error| Error::internal::<iceberg::Error>("change the table metadata")(error);
    let mut builder = base.metadata.clone().into_builder(Some(base.location.clone()));
    builder = builder.upgrade_format_version(FormatVersion::V2).map_err(failed)?;
    let mut properties: HashMap<String, String> = request.properties.iter().cloned().collect();
    if grown.notes != base.notes {
        match schema::notes_to_text(&grown.notes) {
            Some(text) => drop(properties.insert(TYPES_PROPERTY.to_owned(), text)),
            None => builder = builder.remove_properties(&[TYPES_PROPERTY.to_owned()]).map_err(failed)?,
        }
    }
    if grown.schema.as_struct() != base.metadata.current_schema().as_struct() {
        // All that is wrong with it can be a column named like a partition field.
        let refused = |error: iceberg::Error| Error::NewColumn { changes: grown.changes.join(", "), cause: error.into() };
        builder = builder.add_current_schema(grown.schema).map_err(refused)?;
    }
    let builder = builder.set_properties(properties).map_err(failed)?;
    if request.sort_by.is_empty() {
        return Staged::new(builder, Some(base));
    }
    let schema = builder.clone().build().map_err(failed)?.metadata.current_schema().clone();
    Staged::new(ordered(builder, &schema, &request.sort_by)?, Some(base))
}

/// Makes an order the table's default.
fn ordered(builder: TableMetadataBuilder, schema: &Schema, fields: &[SortField]) -> Result<TableMetadataBuilder> {
    let failed = |error| Error::internal::<iceberg::Error>("set the sort order")(error);
    let order = sort::order(schema, fields)?;
    builder.add_sort_order(order).and_then(|builder| builder.set_default_sort_order(-1)).map_err(failed)
}

/// The table with a new schema and partitioning, in place if that is safe.
fn replaced(base: Table, request: &WriteRequest, schema: &SchemaRef) -> Result<Staged> {
    let wanted = schema::to_iceberg(schema)?;
    let metadata = &base.metadata;
    let evolved = schema::with_ids_of(&wanted, metadata.current_schema(), metadata.last_column_id())?;
    let fields = evolve::documented(evolved.as_struct().fields().to_vec(), &request.docs);
    let evolved = Schema::builder().with_fields(fields).build().map_err(Error::internal("document the columns"))?;
    if same_partitions(metadata, &evolved, &request.partition_by) && sources_stay(metadata, &evolved) {
        let failed = |error| Error::internal::<iceberg::Error>("change the table metadata")(error);
        let properties = properties_with_notes(schema, &evolved, &request.properties);
        let mut builder = metadata.clone().into_builder(Some(base.location.clone()));
        builder = builder.upgrade_format_version(FormatVersion::V2).map_err(failed)?;
        if !properties.contains_key(TYPES_PROPERTY) {
            builder = builder.remove_properties(&[TYPES_PROPERTY.to_owned()]).map_err(failed)?;
        }
        // A column named like a partition field cannot be added in place.
        if let Ok(builder) = builder.add_current_schema(evolved.clone()) {
            let builder = ordered(builder, &evolved, &request.sort_by)?;
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
    let wanted = with_docs_of(&wanted, metadata.current_schema())?;
    fresh(request, schema, wanted, &properties)
}

/// `new`, with the documentation `old` has for columns of the same names.
fn with_docs_of(new: &Schema, old: &Schema) -> Result<Schema> {
    let docs = old.as_struct().fields().iter().filter_map(|field| Some((field.name.clone(), field.doc.clone()?)));
    let fields = evolve::documented(new.as_struct().fields().to_vec(), &docs.collect::<Vec<_>>());
    Schema::builder().with_fields(fields).build().map_err(Error::internal("document the columns"))
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
        let feature = "writing with partitions by nested fields".to_owned();
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
