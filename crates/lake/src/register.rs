//! Parquet files of others as a table that is only read: metadata of ours names them where they lie, nothing is copied.
//!
//! ```text
//! /d/year=2024/a.parquet ─┐  footers   <location>/metadata/…     columns, files with their counts and bounds;
//! /d/year=2025/b.parquet ─┴─────────>  nothing in <location>/data  `year` is an identity partition, its value the folder's
//! ```
//!
//! Readers find columns by field id. Files without ids get them from the table property [`NAME_MAPPING`]; if files have ids (they
//! were part of a table once), the table takes theirs. Bounds are kept only where the file stores a column as the table does, and
//! its writer followed the newer rules of Parquet; a missing bound costs time, a wrong one rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, new_null_array};
use arrow::datatypes::{DataType, Field, Fields, Schema as ArrowSchema, SchemaRef};
use forebay_types::{PartitionField, Transform};
use iceberg::spec::{
    FormatVersion, ListType, MapType, NestedField, NestedFieldRef, Operation, PartitionSpec, Schema, SortOrder, Struct,
    StructType, TableMetadataBuilder, Type,
};
use parquet::file::metadata::ParquetMetaData;
use serde_json::{Value, json};

use crate::commit::{Change, Drop, Staged};
use crate::conform::field_id;
use crate::error::{Error, Result};
use crate::found::{SourceFile, SourceFormat};
use crate::schema::{self, TYPES_PROPERTY, list_item, stored_as};
use crate::storage::{self, Location};
use crate::{csv, metrics, partition, rows, scan, source};

/// Iceberg's property by which readers find columns in files that have no field ids.
const NAME_MAPPING: &str = "schema.name-mapping.default";

/// Makes a table at `location` of Parquet files, and returns its metadata file.
///
/// # Errors
/// [`Error::Foreign`] names the file that cannot be part of it, and why; [`Error::SourceConflict`] the columns whose types do not
/// go together; [`Error::Source`] a damaged file.
pub async fn register(location: &str, files: &[SourceFile]) -> Result<String> {
    let (files, location) = (files.to_vec(), Location::parse(location)?.text());
    let read = move || {
        let footers = scan::parallel(&files, &Footer::read)?;
        let table = Outline::of(&files, &footers)?;
        let staged = table.staged(&location)?;
        let entries = table.entries(&staged, &files, &footers)?;
        Ok::<_, Error>((staged, entries))
    };
    let (staged, added) = tokio::task::spawn_blocking(read).await.map_err(Error::internal("read the footers"))??;
    staged.commit(Change { added, operation: Operation::Append, ..Change::of(Drop::Nothing) }).await
}

fn refused(file: &SourceFile, why: String) -> Error {
    Error::Foreign { path: file.path.clone(), why }
}

/// What a file says of itself.
struct Footer {
    metadata: Arc<ParquetMetaData>,
    schema: SchemaRef,
}

impl Footer {
    fn read(file: &SourceFile) -> Result<Self> {
        if file.format != SourceFormat::Parquet {
            return Err(refused(file, "it is no Parquet file".to_owned()));
        }
        let opened = source::parquet(file)?;
        let schema = Arc::clone(opened.schema());
        schema::check_columns(&schema).map_err(|error| refused(file, error.to_string()))?;
        Ok(Self { metadata: Arc::clone(opened.metadata()), schema })
    }
}

/// The table that the files make.
struct Outline {
    arrow: SchemaRef,
    schema: Schema,
    /// Columns whose values are names of folders.
    folders: Vec<String>,
    /// Whether ids are those of the files.
    numbered: bool,
}

impl Outline {
    fn of(files: &[SourceFile], footers: &[Footer]) -> Result<Self> {
        let folders = folder_columns(files, footers)?;
        let schemas: Vec<&ArrowSchema> = footers.iter().map(|footer| footer.schema.as_ref()).collect();
        let arrow = source::one_schema(source::columns_of(files, &schemas))?;
        let plain = schema::to_iceberg(&arrow)?;
        check_types(files, footers, &arrow)?;
        let ids = file_ids(files, footers)?;
        if !ids.is_empty() && !folders.is_empty() {
            let why = format!("its columns have field ids, and `{}` is the name of a folder only", folders[0]);
            return Err(refused(&files[0], why));
        }
        let schema = if ids.is_empty() { plain } else { renumbered(&plain, &ids)? };
        Ok(Self { arrow, schema, folders, numbered: !ids.is_empty() })
    }

    fn staged(&self, location: &str) -> Result<Staged> {
        let failed = |error| Error::internal::<iceberg::Error>("make the table metadata")(error);
        if storage::is_taken(&Location::parse(location)?.join("metadata"))? {
            return Err(Error::internal("make the table")(format!("`{location}` is taken")));
        }
        let by = self.folders.iter().map(|column| PartitionField { column: column.clone(), transform: Transform::Identity });
        let spec = partition::spec(&self.schema, &by.collect::<Vec<_>>())?;
        let order = SortOrder::unsorted_order();
        let builder =
            TableMetadataBuilder::new(self.schema.clone(), spec, order, location.to_owned(), FormatVersion::V2, HashMap::new());
        let mut builder = builder.map_err(failed)?;
        if self.numbered {
            // The builder gives out ids of its own to the first schema, and takes those of a second.
            builder = builder.add_current_schema(self.schema.clone()).map_err(failed)?;
        }
        let numbered = builder.clone().build().map_err(failed)?.metadata;
        let schema = numbered.current_schema();
        let mut properties = HashMap::from([
            ("gc.enabled".to_owned(), "false".to_owned()),
            (NAME_MAPPING.to_owned(), Value::from(mapping(schema.as_struct().fields())).to_string()),
        ]);
        properties
            .extend(schema::notes_to_text(&schema::notes(&self.arrow, schema)).map(|text| (TYPES_PROPERTY.to_owned(), text)));
        Staged::new(builder.set_properties(properties).map_err(failed)?, None)
    }

    fn entries(&self, staged: &Staged, files: &[SourceFile], footers: &[Footer]) -> Result<Vec<iceberg::spec::DataFile>> {
        let schema = staged.metadata.current_schema();
        let spec = staged.metadata.default_partition_spec();
        let stored = rows::stored_schema(schema)?;
        let mut entries = Vec::with_capacity(files.len());
        for (file, footer) in files.iter().zip(footers) {
            let partition = folder_values(file, schema, spec, &stored)?;
            let found = metrics::Found { path: &file.path, bytes: file.bytes, footer: &footer.metadata, schema: &footer.schema };
            entries.push(metrics::found_file(&found, schema, spec.spec_id(), partition)?);
        }
        Ok(entries)
    }
}

/// Columns that no file has and folders name.
fn folder_columns(files: &[SourceFile], footers: &[Footer]) -> Result<Vec<String>> {
    let mut columns: Vec<String> = Vec::new();
    for (file, footer) in files.iter().zip(footers) {
        for (name, _) in &file.folders {
            if footer.schema.field_with_name(name).is_err() && !columns.contains(name) {
                columns.push(name.clone());
            }
        }
    }
    for (file, footer) in files.iter().zip(footers) {
        if let Some(name) = columns.iter().find(|name| footer.schema.field_with_name(name).is_ok()) {
            return Err(refused(file, format!("its column `{name}` is the name of a folder elsewhere")));
        }
    }
    Ok(columns)
}

/// Readers of Iceberg widen as Iceberg allows, and no further.
fn check_types(files: &[SourceFile], footers: &[Footer], table: &ArrowSchema) -> Result<()> {
    for (file, footer) in files.iter().zip(footers) {
        for field in footer.schema.fields() {
            let wanted = table.field_with_name(field.name()).map_err(Error::internal("find a column"))?;
            if !readable(field.data_type(), wanted.data_type()) {
                let why = format!("column `{}` is {}, and {} in others", field.name(), field.data_type(), wanted.data_type());
                return Err(refused(file, why));
            }
        }
    }
    Ok(())
}

fn readable(from: &DataType, to: &DataType) -> bool {
    use iceberg::spec::PrimitiveType as P;
    match (from, to) {
        (DataType::Struct(from), DataType::Struct(to)) => from.iter().all(|field| {
            let same = to.iter().find(|other| other.name() == field.name());
            same.is_some_and(|other| readable(field.data_type(), other.data_type()))
        }),
        (DataType::Map(from, _), DataType::Map(to, _)) => readable(from.data_type(), to.data_type()),
        _ => match (list_item(from), list_item(to)) {
            (Some(from), Some(to)) => readable(from.data_type(), to.data_type()),
            (None, None) => match (stored_as(from), stored_as(to)) {
                (Some(P::Int), Some(P::Long)) | (Some(P::Float), Some(P::Double)) => true,
                (Some(P::Decimal { precision: a, scale: s }), Some(P::Decimal { precision: b, scale: t })) => s == t && a <= b,
                (a, b) => a.is_some() && a == b,
            },
            _ => false,
        },
    }
}

/// The ids that files give their columns, by path (`a`, `a.b`, `list.element`, `map.key`).
fn file_ids(files: &[SourceFile], footers: &[Footer]) -> Result<BTreeMap<String, i32>> {
    let mut ids: BTreeMap<String, i32> = BTreeMap::new();
    for (file, footer) in files.iter().zip(footers) {
        let mut own = Vec::new();
        collect_ids("", footer.schema.fields(), &mut own);
        for (path, id) in own {
            match ids.get(&path) {
                Some(other) if *other != id => {
                    return Err(refused(file, format!("its column `{path}` has the field id {id}, and {other} in others")));
                }
                Some(_) => {}
                None if id < 1 || ids.values().any(|other| *other == id) => {
                    return Err(refused(file, format!("its column `{path}` has the field id {id}, which is another column's")));
                }
                None => drop(ids.insert(path, id)),
            }
        }
    }
    Ok(ids)
}

fn collect_ids(above: &str, fields: &Fields, ids: &mut Vec<(String, i32)>) {
    for field in fields {
        let path = if above.is_empty() { field.name().clone() } else { format!("{above}.{}", field.name()) };
        collect_id(&path, field, ids);
    }
}

fn collect_id(path: &str, field: &Field, ids: &mut Vec<(String, i32)>) {
    ids.extend(field_id(field).map(|id| (path.to_owned(), id)));
    match field.data_type() {
        DataType::Struct(fields) => collect_ids(path, fields, ids),
        DataType::Map(entries, _) => {
            if let DataType::Struct(pair) = entries.data_type() {
                collect_id(&format!("{path}.key"), &pair[0], ids);
                collect_id(&format!("{path}.value"), &pair[1], ids);
            }
        }
        kind => {
            if let Some(item) = list_item(kind) {
                collect_id(&format!("{path}.element"), item, ids);
            }
        }
    }
}

/// The schema with the ids of the files; what no file numbers gets ids above theirs.
fn renumbered(schema: &Schema, ids: &BTreeMap<String, i32>) -> Result<Schema> {
    let mut next = ids.values().copied().max().unwrap_or(0);
    let mut give = |path: &str| {
        ids.get(path).copied().unwrap_or_else(|| {
            next += 1;
            next
        })
    };
    let fields = schema.as_struct().fields().iter().map(|field| with_id(&field.name, field, &mut give)).collect::<Vec<_>>();
    Schema::builder().with_fields(fields).build().map_err(Error::internal("number the columns"))
}

fn with_id(path: &str, field: &NestedFieldRef, give: &mut impl FnMut(&str) -> i32) -> NestedFieldRef {
    let id = give(path);
    let kind = match field.field_type.as_ref() {
        Type::Primitive(kind) => Type::Primitive(kind.clone()),
        Type::Struct(inner) => {
            let fields = inner.fields().iter().map(|field| with_id(&format!("{path}.{}", field.name), field, give));
            Type::Struct(StructType::new(fields.collect()))
        }
        Type::List(list) => Type::List(ListType::new(with_id(&format!("{path}.element"), &list.element_field, give))),
        Type::Map(map) => Type::Map(MapType::new(
            with_id(&format!("{path}.key"), &map.key_field, give),
            with_id(&format!("{path}.value"), &map.value_field, give),
        )),
    };
    Arc::new(NestedField { id, field_type: Box::new(kind), ..NestedField::clone(field) })
}

/// Iceberg's name mapping of columns.
fn mapping(fields: &[NestedFieldRef]) -> Vec<Value> {
    let one = |field: &NestedFieldRef| {
        let below = match field.field_type.as_ref() {
            Type::Primitive(_) => Vec::new(),
            Type::Struct(inner) => mapping(inner.fields()),
            Type::List(list) => mapping(&[Arc::clone(&list.element_field)]),
            Type::Map(map) => mapping(&[Arc::clone(&map.key_field), Arc::clone(&map.value_field)]),
        };
        match below.is_empty() {
            true => json!({ "field-id": field.id, "names": [field.name] }),
            false => json!({ "field-id": field.id, "names": [field.name], "fields": below }),
        }
    };
    fields.iter().map(one).collect()
}

/// A file's place in the table's partitioning: the values of its folders.
fn folder_values(file: &SourceFile, schema: &Schema, spec: &PartitionSpec, stored: &SchemaRef) -> Result<Struct> {
    if spec.is_unpartitioned() {
        return Ok(Struct::empty());
    }
    let sources: BTreeSet<i32> = spec.fields().iter().map(|field| field.source_id).collect();
    let column = |(field, stored): (&NestedFieldRef, &Arc<Field>)| -> Result<ArrayRef> {
        let value = file.folders.iter().rev().find(|(name, _)| *name == field.name).and_then(|(_, value)| value.clone());
        match value.filter(|_| sources.contains(&field.id)) {
            None => Ok(new_null_array(stored.data_type(), 1)),
            Some(value) => {
                let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
                csv::parse(&text, stored.data_type())
                    .map_err(|problem| refused(file, format!("`{}`: {}", field.name, problem.why)))
            }
        }
    };
    let columns = schema.as_struct().fields().iter().zip(stored.fields()).map(column).collect::<Result<Vec<_>>>()?;
    let row = RecordBatch::try_new(Arc::clone(stored), columns).map_err(Error::internal("make a partition"))?;
    let groups = partition::split(vec![row], schema, spec)?;
    Ok(groups.into_iter().next().map_or_else(Struct::empty, |group| group.values))
}
