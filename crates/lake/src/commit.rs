//! Turns a change of a table into new metadata: manifests, manifest list, snapshot, metadata file.
//!
//! One function serves append, replace and overwrite. The order on disk is what makes it safe: data files, then
//! manifests, then the list, then the metadata file, each durable before the next names it. Nothing refers to the
//! new metadata until the caller puts its location into the catalog, so a crash leaves unused files, no damage.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, MAIN_BRANCH, ManifestContentType, ManifestEntryRef, ManifestFile, ManifestListWriter, ManifestMetadata,
    ManifestWriter, ManifestWriterBuilder, Operation, Snapshot, SnapshotReference, SnapshotRetention, Summary, TableMetadata,
    TableMetadataBuilder,
};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::files::text;
use crate::storage;
use crate::summary::Counts;
use crate::table::{Table, load_manifest, sequence};

/// Metadata about to change: the builder with schema, spec and properties put in, and what it builds without a
/// snapshot. Data files are written against `metadata`.
pub(crate) struct Staged {
    builder: TableMetadataBuilder,
    /// The table as it will be, but for the snapshot.
    pub metadata: TableMetadata,
    /// The table before, if there is one.
    base: Option<Table>,
}

/// Which live files a change removes.
pub(crate) enum Drop {
    /// None.
    Nothing,
    /// All data and delete files.
    Everything,
    /// These paths.
    Paths(HashSet<String>),
}

/// A change of rows.
pub(crate) struct Change {
    /// New data files, under the staged default spec.
    pub added: Vec<DataFile>,
    /// Files that go.
    pub dropped: Drop,
    /// What the snapshot is called.
    pub operation: Operation,
    /// What else its summary tells, for [`replay`](crate::replay).
    pub told: Vec<(String, String)>,
}

impl Change {
    /// A change that adds nothing yet.
    pub(crate) fn of(dropped: Drop) -> Self {
        Self { added: Vec::new(), dropped, operation: Operation::Append, told: Vec::new() }
    }
}

impl Staged {
    /// Builds `builder` once, to learn the ids given.
    pub(crate) fn new(builder: TableMetadataBuilder, base: Option<Table>) -> Result<Self> {
        let metadata = builder.clone().build().map_err(Error::internal("build the table metadata"))?.metadata;
        Ok(Self { builder, metadata, base })
    }

    /// The table's folder.
    pub(crate) fn folder(&self) -> Result<PathBuf> {
        storage::plain_path(self.metadata.location())
    }

    /// Writes the staged metadata without a snapshot.
    pub(crate) fn finish(self) -> Result<String> {
        let folder = self.folder()?.join("metadata");
        storage::create_folder(&folder)?;
        write_metadata(&folder, &self.metadata, self.base.as_ref().map(|table| table.location.as_str()))
    }

    /// [`Staged::finish`], but for a table that would not change: then the base's location.
    pub(crate) fn finish_unless_same(self) -> Result<String> {
        match &self.base {
            Some(base) if same(&base.metadata, &self.metadata) => Ok(base.location.clone()),
            _ => self.finish(),
        }
    }

    /// Writes a snapshot with the change, and the metadata file.
    pub(crate) async fn commit(self, change: Change) -> Result<String> {
        let folder = self.folder()?.join("metadata");
        storage::create_folder(&folder)?;
        let snapshot_id = self.new_snapshot_id();
        let writer = SnapshotWriter {
            io: FileIO::new_with_fs(),
            folder: folder.clone(),
            snapshot_id,
            staged: &self,
            counts: Counts::default(),
            manifests: Vec::new(),
        };
        let snapshot = writer.write(change).await?;
        let failed = |error| Error::internal::<iceberg::Error>("build the table metadata")(error);
        let reference = SnapshotReference::new(snapshot_id, SnapshotRetention::branch(None, None, None));
        let metadata = self
            .builder
            .add_snapshot(snapshot)
            .and_then(|builder| builder.set_ref(MAIN_BRANCH, reference))
            .and_then(TableMetadataBuilder::build)
            .map_err(failed)?
            .metadata;
        storage::sync(&folder)?;
        write_metadata(&folder, &metadata, self.base.as_ref().map(|table| table.location.as_str()))
    }

    /// A positive random id that the table does not have yet.
    fn new_snapshot_id(&self) -> i64 {
        loop {
            let (high, low) = Uuid::new_v4().as_u64_pair();
            let id = i64::try_from((high ^ low) >> 1).expect("63 bits fit");
            if id != 0 && self.metadata.snapshot_by_id(id).is_none() {
                return id;
            }
        }
    }
}

/// Whether nothing that matters differs but the rows.
fn same(a: &TableMetadata, b: &TableMetadata) -> bool {
    a.current_schema_id() == b.current_schema_id()
        && a.properties() == b.properties()
        && a.default_sort_order_id() == b.default_sort_order_id()
        && a.format_version() == b.format_version()
}

struct SnapshotWriter<'a> {
    io: FileIO,
    folder: PathBuf,
    snapshot_id: i64,
    staged: &'a Staged,
    counts: Counts,
    manifests: Vec<ManifestFile>,
}

impl SnapshotWriter<'_> {
    async fn write(mut self, change: Change) -> Result<Snapshot> {
        self.carry_over(change.dropped).await?;
        self.add(change.added).await?;
        let metadata = &self.staged.metadata;
        let sequence = metadata.next_sequence_number();
        let parent = metadata.current_snapshot();
        let parent_id = parent.map(|parent| parent.snapshot_id());
        let path = self.folder.join(format!("snap-{}-1-{}.avro", self.snapshot_id, Uuid::new_v4()));
        let failed = |error| Error::internal::<iceberg::Error>("write the manifest list")(error);
        let output = self.io.new_output(text(&path)).map_err(failed)?.writer().await.map_err(failed)?;
        let mut list = ManifestListWriter::v2(output, self.snapshot_id, parent_id, sequence);
        list.add_manifests(self.manifests.into_iter()).map_err(failed)?;
        list.close().await.map_err(failed)?;
        storage::sync(&path)?;
        let mut properties = self.counts.summary(parent.map(|parent| &parent.summary().additional_properties));
        properties.extend(change.told);
        let now = chrono::Utc::now().timestamp_millis();
        Ok(Snapshot::builder()
            .with_snapshot_id(self.snapshot_id)
            .with_parent_snapshot_id(parent_id)
            .with_sequence_number(sequence)
            .with_timestamp_ms(now.max(metadata.last_updated_ms() + 1))
            .with_manifest_list(text(&path))
            .with_summary(Summary { operation: change.operation, additional_properties: properties })
            .with_schema_id(metadata.current_schema_id())
            .build())
    }

    /// Takes over the base's manifests, without the files that go.
    async fn carry_over(&mut self, dropped: Drop) -> Result<()> {
        let Some(base) = &self.staged.base else { return Ok(()) };
        let Some(snapshot) = base.metadata.current_snapshot() else { return Ok(()) };
        let mut left = match &dropped {
            Drop::Paths(paths) => paths.clone(),
            Drop::Nothing | Drop::Everything => HashSet::new(),
        };
        let goes = |path: &str| match &dropped {
            Drop::Nothing => false,
            Drop::Everything => true,
            Drop::Paths(paths) => paths.contains(path),
        };
        for manifest in base.manifests(snapshot).await? {
            if !manifest.has_added_files() && !manifest.has_existing_files() {
                continue; // It tells what an earlier snapshot removed.
            }
            if matches!(dropped, Drop::Nothing) {
                self.manifests.push(manifest);
                continue;
            }
            let path = manifest.manifest_path.clone();
            let loaded = load_manifest(&manifest, &base.io).await?;
            let live: Vec<&ManifestEntryRef> = loaded.entries().iter().filter(|entry| entry.is_alive()).collect();
            if live.iter().any(|entry| goes(entry.file_path())) {
                left.retain(|path| !live.iter().any(|entry| entry.file_path() == path));
                self.rewrite(loaded.metadata(), manifest.content, &live, &path, &goes).await?;
            } else {
                self.manifests.push(manifest);
            }
        }
        if let Some(path) = left.into_iter().next() {
            return Err(Error::internal("drop a file")(format!("`{path}` is not in the snapshot")));
        }
        Ok(())
    }

    /// Writes a manifest anew, under its own schema and spec, with entries marked deleted.
    async fn rewrite(
        &mut self,
        old: &ManifestMetadata,
        content: ManifestContentType,
        live: &[&ManifestEntryRef],
        path: &str,
        goes: &impl Fn(&str) -> bool,
    ) -> Result<()> {
        let (schema, spec) = (Arc::clone(old.schema()), old.partition_spec().clone());
        let spec_id = spec.spec_id();
        let builder = self.manifest(schema, spec)?;
        let (mut writer, file) = match content {
            ManifestContentType::Data => (builder.0.build_v2_data(), builder.1),
            ManifestContentType::Deletes => (builder.0.build_v2_deletes(), builder.1),
        };
        for entry in live {
            let file = entry.data_file().clone();
            let sequence = sequence(entry, path)?;
            let result = if goes(entry.file_path()) {
                self.counts.remove(&file, spec_id);
                writer.add_delete_file(file, sequence, entry.file_sequence_number)
            } else {
                let snapshot = entry.snapshot_id().unwrap_or(self.snapshot_id);
                writer.add_existing_file(file, snapshot, sequence, entry.file_sequence_number)
            };
            result.map_err(Error::internal("write a manifest"))?;
        }
        self.close(writer, &file).await
    }

    /// Writes the new files' manifest, last, so that a scan reads them after the older ones.
    async fn add(&mut self, files: Vec<DataFile>) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        let metadata = &self.staged.metadata;
        let spec = metadata.default_partition_spec().as_ref().clone();
        let spec_id = spec.spec_id();
        let (builder, path) = self.manifest(Arc::clone(metadata.current_schema()), spec)?;
        let mut writer = builder.build_v2_data();
        for file in files {
            self.counts.add(&file, spec_id);
            // A negative sequence number is written as null: the entry inherits the snapshot's.
            writer.add_file(file, -1).map_err(Error::internal("write a manifest"))?;
        }
        self.close(writer, &path).await
    }

    fn manifest(
        &self,
        schema: Arc<iceberg::spec::Schema>,
        spec: iceberg::spec::PartitionSpec,
    ) -> Result<(ManifestWriterBuilder, PathBuf)> {
        let path = self.folder.join(format!("{}-m{}.avro", Uuid::new_v4(), self.manifests.len()));
        let output = self.io.new_output(text(&path)).map_err(Error::internal("write a manifest"))?;
        Ok((ManifestWriterBuilder::new(output, Some(self.snapshot_id), schema, spec), path))
    }

    async fn close(&mut self, writer: ManifestWriter, path: &Path) -> Result<()> {
        let manifest = writer.write_manifest_file().await.map_err(Error::internal("write a manifest"))?;
        storage::sync(path)?;
        self.manifests.push(manifest);
        Ok(())
    }
}

/// Writes `<version>-<uuid>.metadata.json`, put-if-absent and durable.
pub(crate) fn write_metadata(folder: &Path, metadata: &TableMetadata, previous: Option<&str>) -> Result<String> {
    let version = previous
        .and_then(|path| Path::new(path).file_name()?.to_str()?.split_once('-')?.0.parse::<u32>().ok())
        .map_or(0, |version| version.saturating_add(1));
    let path = folder.join(format!("{version:05}-{}.metadata.json", Uuid::new_v4()));
    let json = serde_json::to_vec(metadata).map_err(Error::internal("encode the table metadata"))?;
    storage::write_new(&path, &json)?;
    storage::sync(folder)?;
    Ok(text(&path))
}
