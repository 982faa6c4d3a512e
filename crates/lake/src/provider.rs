//! A snapshot as a table of a query: DataFusion's own Parquet scan over the snapshot's files.
//!
//! ```text
//! filters --manifest statistics--> files --groups of about equal size--> partitions, read in parallel
//!                                            each file: footer --> row groups --> pages --> bloom filters --> rows
//! ```
//!
//! What Iceberg adds to Parquet is brought in around that scan: columns are found by field id ([`adapter`]), position deletes
//! become a selection of rows, identity partition values become constants, and what manifests know of rows, nulls and bounds
//! becomes the planner's statistics ([`estimates`]). Filters that the plan makes while it runs (from the build side of a join,
//! from a top-k) reach the scan as well.
//!
//! Invariants: a skip never drops a row that matches, so filters are evaluated above the scan again; bounds are never told
//! as exact values, because Iceberg allows them to be wider; strings and binaries come as views.

mod adapter;
mod estimates;
mod reader;

#[cfg(test)]
pub(crate) use reader::BYTES_SCANNED;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::common::config::TableParquetOptions;
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess};
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use iceberg::spec::{DataFileFormat, Schema};

use crate::deletes::{self, Deletes};
use crate::error::{Error, Result};
use crate::predicate::Filter;
use crate::statistics;
use crate::strings;
use crate::table::{LiveFile, LiveFiles, Table};
use adapter::FieldIds;
use reader::{OneFile, Readers};

/// Rows that are worth a partition of their own: below, starting a task costs more than it saves, and one partition keeps
/// the order of rows.
const PARTITION_ROWS_MIN: u64 = 64 * 1024;

/// A snapshot of a table, for queries. Nothing of it changes once it is open.
#[derive(Debug)]
pub struct LakeTable {
    table: Table,
    schema: Arc<Schema>,
    /// Its Arrow form, strings and binaries as views.
    fields: SchemaRef,
    live: LiveFiles,
    columns: Arc<FieldIds>,
}

impl LakeTable {
    /// Opens the table at a metadata file, at its current snapshot or an older one. Reads metadata and manifests, no data file.
    ///
    /// # Errors
    /// [`Error::Metadata`] if one of those is missing or damaged, [`Error::Snapshot`] if there is no such snapshot,
    /// [`Error::Unsupported`] for data files that are not Parquet.
    pub async fn open(metadata_location: &str, snapshot_id: Option<i64>) -> Result<Self> {
        let table = Table::open(metadata_location).await?;
        let (snapshot, schema) = table.snapshot(snapshot_id)?;
        let live = match snapshot {
            Some(snapshot) => table.live_files(snapshot).await?,
            None => LiveFiles::default(),
        };
        if let Some(other) = live.data.iter().find(|live| live.file.file_format() != DataFileFormat::Parquet) {
            let feature = format!("a data file in {} format", other.file.file_format());
            return Err(Error::Unsupported { table: table.location.clone(), feature });
        }
        let fields = strings::wanted(&table.clean_schema(&schema), &[], true);
        let constants = adapter::constants(&table.metadata, &schema, &fields, &live.data);
        let columns = Arc::new(FieldIds::of(&table.location, &schema, &fields, &live.data).with(constants));
        Ok(Self { table, schema, fields, live, columns })
    }

    /// Rows, before the deletes of other engines.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.live.data.iter().map(|live| live.file.record_count()).sum()
    }

    /// Bytes of the data files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.live.data.iter().map(|live| live.file.file_size_in_bytes()).sum()
    }

    /// Leaves out files that cannot hold a row for which all `filters` are true. Each filter skips on its own, so that one that
    /// statistics say nothing about does not spoil the others.
    fn prune(&self, filters: &[Expr]) -> Vec<&LiveFile> {
        let mut files: Vec<&LiveFile> = self.live.data.iter().collect();
        let all = filters.iter().cloned().chain(conjunction(filters.to_vec()).filter(|_| filters.len() > 1));
        for filter in all.filter_map(|filter| Filter::planned(filter, &self.fields)) {
            let metadata = &self.table.metadata;
            let containers = statistics::of_files(&files, metadata, &self.schema, &self.fields, filter.columns());
            let keep = filter.may_match(&containers);
            files = files.into_iter().zip(keep).filter_map(|(file, keep)| keep.then_some(file)).collect();
        }
        files
    }

    /// The rows of `files` that other engines have deleted.
    async fn deletes(&self, files: &[&LiveFile]) -> Result<Deletes> {
        if self.live.deletes.is_empty() {
            return Ok(Deletes::default());
        }
        let files: Vec<LiveFile> = files.iter().map(|live| (*live).clone()).collect();
        let (deletes, table) = (self.live.deletes.clone(), self.table.location.clone());
        let load = move || deletes::load(&deletes, &files, &table);
        tokio::task::spawn_blocking(load).await.map_err(Error::internal("read the deletes"))?
    }

    /// A file as the scan takes it.
    async fn file(&self, live: &LiveFile, deletes: &Deletes) -> Result<PartitionedFile> {
        let path = live.file.file_path();
        let named = self.columns.has_constants(path);
        let file = Arc::new(OneFile::new(path, live.file.file_size_in_bytes(), named));
        let statistics = estimates::of_file(live, &self.table.metadata, &self.schema, &self.fields, deletes.touch(path));
        let part = PartitionedFile::new(path, live.file.file_size_in_bytes()).with_statistics(Arc::new(statistics));
        let part = match deletes.touch(path) {
            true => part.with_extension(rows_left(&file, deletes).await?),
            false => part,
        };
        Ok(part.with_extension(file))
    }
}

/// The rows of a file that are not deleted.
async fn rows_left(file: &Arc<OneFile>, deletes: &Deletes) -> Result<ParquetAccessPlan> {
    let metadata = file.metadata().await?;
    let mut first_row = 0;
    let mut access = Vec::with_capacity(metadata.num_row_groups());
    for group in metadata.row_groups() {
        let rows = usize::try_from(group.num_rows()).map_err(Error::data_file(file.path()))?;
        access.push(match deletes.selection(file.path(), first_row, rows) {
            Some(selection) if selection.selects_any() => RowGroupAccess::Selection(selection),
            Some(_) => RowGroupAccess::Skip,
            None => RowGroupAccess::Scan,
        });
        first_row += rows;
    }
    Ok(ParquetAccessPlan::new(access))
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.fields)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let files = self.prune(filters);
        if files.is_empty() {
            let schema = match projection {
                Some(columns) => Arc::new(self.fields.project(columns)?),
                None => Arc::clone(&self.fields),
            };
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let deletes = self.deletes(&files).await.map_err(external)?;
        let mut parts = Vec::with_capacity(files.len());
        for live in &files {
            parts.push((live.file.record_count(), self.file(live, &deletes).await.map_err(external)?));
        }
        let deleted = files.iter().any(|live| deletes.touch(live.file.file_path()));
        let options = state.config_options();
        let parquet = TableParquetOptions { global: options.execution.parquet.clone(), ..TableParquetOptions::default() };
        let source = ParquetSource::new(Arc::clone(&self.fields))
            .with_table_parquet_options(parquet)
            .with_parquet_file_reader_factory(Arc::new(Readers));
        // A limit counts the rows of whole row groups where order does not matter, and deleted ones with them.
        let in_order = deleted || !options.optimizer.enable_round_robin_repartition;
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups(parts, options.execution.target_partitions))
            .with_statistics(estimates::of_files(&files, &self.table.metadata, &self.schema, &self.fields, deleted))
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .with_preserve_order(in_order)
            .with_expr_adapter(Some(Arc::clone(&self.columns) as _));
        Ok(DataSourceExec::from_data_source(config.build()))
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

/// Files in runs of about as many rows each. Large files are cut by the planner afterwards, where that is worth while.
fn groups(parts: Vec<(u64, PartitionedFile)>, partitions: usize) -> Vec<FileGroup> {
    let rows: u64 = parts.iter().map(|(rows, _)| rows).sum();
    let count = (rows / PARTITION_ROWS_MIN).clamp(1, partitions.max(1) as u64);
    let mut groups: Vec<Vec<PartitionedFile>> = Vec::new();
    groups.resize_with(usize::try_from(count).unwrap_or(1), Vec::new);
    let mut seen = 0;
    for (rows_here, part) in parts {
        let middle = u128::from(seen + rows_here / 2) * u128::from(count) / u128::from(rows.max(1));
        let last = groups.len() - 1;
        groups[usize::try_from(middle).unwrap_or(last).min(last)].push(part);
        seen += rows_here;
    }
    groups.into_iter().filter(|group| !group.is_empty()).map(FileGroup::new).collect()
}

/// An error of the lake on its way through DataFusion; whoever takes it out again finds code and hint.
pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
