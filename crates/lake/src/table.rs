//! A table as one metadata file describes it: schema, partitioning, snapshots, live files.
//!
//! Opening reads the metadata file only; live files come from the snapshot's manifests, read when asked for.
//! Everything read is hostile until parsed: a damaged file is [`Error::Metadata`], never a panic.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use forebay_types::{PartitionField, SortField};
use futures::FutureExt as _;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, FormatVersion, Manifest, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestList,
    Schema, Snapshot, TableMetadata,
};

use crate::error::{Error, Result};
use crate::schema::{self, Notes, type_name};
use crate::{partition, sort, storage};

/// A table at one metadata file.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// The table's identity; a replaced table with an incompatible schema has a new one.
    pub uuid: String,
    /// The table's folder.
    pub location: String,
    /// The metadata file described here.
    pub metadata_location: String,
    /// What a scan returns: no metadata, original Arrow types.
    pub arrow_schema: SchemaRef,
    /// Columns as Iceberg says.
    pub fields: Vec<FieldInfo>,
    /// Partition fields; none if one of them is not ours (over a nested field).
    pub partition_by: Vec<PartitionField>,
    /// Order of the rows of each file; none if it is not ours (transformed, over a nested field).
    pub sort_by: Vec<SortField>,
    /// The current snapshot; `None` if nothing was ever written.
    pub snapshot_id: Option<i64>,
    /// What that snapshot did.
    pub snapshot: Option<SnapshotInfo>,
    /// Id of the current schema.
    pub schema_id: i32,
    /// Snapshots in the metadata.
    pub snapshots: usize,
    /// Rows; `None` if row-level deletes of another engine make them costly to count.
    pub records: Option<u64>,
    /// Bytes of the data files.
    pub file_bytes: Option<u64>,
    /// Table properties.
    pub properties: BTreeMap<String, String>,
    /// The `comment` property.
    pub comment: Option<String>,
    /// Milliseconds since 1970, UTC.
    pub last_updated_ms: i64,
}

/// What a snapshot did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// `append`, `overwrite`, `delete` or `replace`.
    pub operation: String,
    /// Numbers and notes of its writer, for example `added-records`.
    pub summary: BTreeMap<String, String>,
}

/// A top-level column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldInfo {
    /// Iceberg field id.
    pub id: i32,
    /// Name.
    pub name: String,
    /// Whether nulls are forbidden.
    pub required: bool,
    /// Iceberg type name: `long`, `decimal(9, 2)`, `list<string>`.
    pub type_name: String,
    /// Documentation.
    pub doc: Option<String>,
}

/// Describes the table at a metadata file.
///
/// # Errors
/// [`Error::Metadata`] if the file, or the manifest list it names, is missing or damaged.
pub async fn load(metadata_location: &str) -> Result<TableInfo> {
    let table = Table::open(metadata_location).await?;
    let (records, file_bytes) = table.totals().await?;
    let metadata = &table.metadata;
    let current = metadata.current_schema();
    let fields = current.as_struct().fields().iter().map(|field| FieldInfo {
        id: field.id,
        name: field.name.clone(),
        required: field.required,
        type_name: type_name(&field.field_type),
        doc: field.doc.clone(),
    });
    let spec = metadata.default_partition_spec();
    Ok(TableInfo {
        uuid: metadata.uuid().to_string(),
        location: metadata.location().to_owned(),
        metadata_location: table.location.clone(),
        arrow_schema: table.clean_schema(current),
        fields: fields.collect(),
        partition_by: partition::fields_of(spec, current).unwrap_or_default(),
        sort_by: sort::fields_of(metadata.default_sort_order(), current).unwrap_or_default(),
        snapshot_id: metadata.current_snapshot_id(),
        snapshot: metadata.current_snapshot().map(|snapshot| SnapshotInfo {
            operation: snapshot.summary().operation.as_str().to_owned(),
            summary: snapshot.summary().additional_properties.clone().into_iter().collect(),
        }),
        schema_id: metadata.current_schema_id(),
        snapshots: metadata.snapshots().len(),
        records,
        file_bytes,
        comment: metadata.properties().get("comment").cloned(),
        properties: metadata.properties().clone().into_iter().collect(),
        last_updated_ms: metadata.last_updated_ms(),
    })
}

/// An opened metadata file.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub metadata: TableMetadata,
    /// Where it was read from, as a plain path.
    pub location: String,
    pub io: FileIO,
    pub notes: Notes,
}

/// A live file of a snapshot.
#[derive(Debug, Clone)]
pub(crate) struct LiveFile {
    pub file: DataFile,
    /// The partition spec its partition tuple belongs to.
    pub spec_id: i32,
    /// Data sequence number: deletes of a later commit apply.
    pub sequence: i64,
}

/// The live files of a snapshot.
#[derive(Debug, Default, Clone)]
pub(crate) struct LiveFiles {
    /// Data files, oldest first; files of one commit in the order they were written.
    pub data: Vec<LiveFile>,
    /// Position and equality delete files.
    pub deletes: Vec<LiveFile>,
}

impl Table {
    /// Reads a metadata file.
    pub(crate) async fn open(metadata_location: &str) -> Result<Self> {
        let location = storage::plain_location(metadata_location)?;
        let io = FileIO::new_with_fs();
        let metadata = guarded(&location, TableMetadata::read_from(&io, &location)).await?;
        let notes = schema::notes_from_text(metadata.properties());
        Ok(Self { metadata, location, io, notes })
    }

    /// The Arrow schema rows are read as.
    pub(crate) fn clean_schema(&self, schema: &Schema) -> SchemaRef {
        schema::clean_schema(schema, &self.notes)
    }

    /// The snapshot asked for (or the current one), and the schema to read it with.
    pub(crate) fn snapshot(&self, id: Option<i64>) -> Result<(Option<&Arc<Snapshot>>, Arc<Schema>)> {
        let current = (self.metadata.current_snapshot(), Arc::clone(self.metadata.current_schema()));
        let Some(id) = id.filter(|id| self.metadata.current_snapshot_id() != Some(*id)) else {
            return Ok(current);
        };
        let snapshot =
            self.metadata.snapshot_by_id(id).ok_or_else(|| Error::Snapshot { snapshot: id, table: self.location.clone() })?;
        let schema = snapshot.schema(&self.metadata).map_err(Error::metadata(&self.location))?;
        Ok((Some(snapshot), schema))
    }

    /// The manifests of a snapshot.
    pub(crate) async fn manifests(&self, snapshot: &Snapshot) -> Result<Vec<ManifestFile>> {
        let path = snapshot.manifest_list();
        let version = self.metadata.format_version();
        let read = async {
            let bytes = self.io.new_input(path)?.read().await?;
            ManifestList::parse_with_version(&bytes, version)
        };
        let list = guarded(path, read).await?;
        Ok(list.consume_entries().into_iter().collect())
    }

    /// The live files of a snapshot.
    pub(crate) async fn live_files(&self, snapshot: &Snapshot) -> Result<LiveFiles> {
        let mut files = LiveFiles::default();
        for manifest in self.manifests(snapshot).await? {
            if !manifest.has_added_files() && !manifest.has_existing_files() {
                continue;
            }
            let path = manifest.manifest_path.as_str();
            let loaded = load_manifest(&manifest, &self.io).await?;
            let spec_id = loaded.metadata().partition_spec().spec_id();
            for entry in loaded.entries().iter().filter(|entry| entry.is_alive()) {
                let live = LiveFile { file: entry.data_file().clone(), spec_id, sequence: sequence(entry, path)? };
                match entry.content_type() {
                    DataContentType::Data => files.data.push(live),
                    _ => files.deletes.push(live),
                }
            }
        }
        files.data.sort_by_key(|live| live.sequence);
        Ok(files)
    }

    /// Rows and bytes of the current snapshot.
    async fn totals(&self) -> Result<(Option<u64>, Option<u64>)> {
        let Some(snapshot) = self.metadata.current_snapshot() else {
            return Ok((Some(0), Some(0)));
        };
        let manifests = self.manifests(snapshot).await?;
        let deletes = manifests.iter().any(|manifest| {
            manifest.content == ManifestContentType::Deletes && (manifest.has_added_files() || manifest.has_existing_files())
        });
        let counted: Option<u64> = manifests
            .iter()
            .filter(|manifest| manifest.content == ManifestContentType::Data)
            .map(|manifest| manifest.added_rows_count?.checked_add(manifest.existing_rows_count?))
            .sum();
        let stated = |key| snapshot.summary().additional_properties.get(key)?.parse().ok();
        let bytes = match stated("total-files-size").filter(|_| !deletes) {
            Some(bytes) => bytes,
            None => self.live_files(snapshot).await?.data.iter().map(|live| live.file.file_size_in_bytes()).sum(),
        };
        Ok((counted.filter(|_| !deletes), Some(bytes)))
    }

    /// Refuses tables this crate must not write to.
    pub(crate) fn check_writable(&self) -> Result<()> {
        match self.metadata.format_version() {
            FormatVersion::V1 | FormatVersion::V2 => Ok(()),
            FormatVersion::V3 => {
                Err(Error::Unsupported { table: self.location.clone(), feature: "writing format version 3".to_owned() })
            }
        }
    }
}

/// Paths of all live files, data and deletes.
pub(crate) fn live_paths(files: &LiveFiles) -> HashSet<String> {
    files.data.iter().chain(&files.deletes).map(|live| live.file.file_path().to_owned()).collect()
}

/// Reads a manifest.
pub(crate) async fn load_manifest(manifest: &ManifestFile, io: &FileIO) -> Result<Manifest> {
    guarded(&manifest.manifest_path, manifest.load_manifest(io)).await
}

/// Runs a reader of a metadata file. Its libraries panic on some damaged files; that too is an error of the file.
async fn guarded<T>(path: &str, read: impl Future<Output = iceberg::Result<T>>) -> Result<T> {
    match AssertUnwindSafe(read).catch_unwind().await {
        Ok(result) => result.map_err(Error::metadata(path)),
        Err(_) => Err(Error::metadata(path)("it is damaged in a way its reader does not expect")),
    }
}

/// An entry's data sequence number (0 in version 1 tables).
pub(crate) fn sequence(entry: &ManifestEntryRef, path: &str) -> Result<i64> {
    entry.sequence_number().ok_or_else(|| Error::metadata(path)("a live entry has no sequence number"))
}
