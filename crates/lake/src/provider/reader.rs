//! Bytes of data files for DataFusion's Parquet reader, straight from our own storage.
//!
//! A footer is read once per query, however many partitions read parts of the file.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::{DataFusionError, internal_datafusion_err};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::physical_plan::metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use parquet::arrow::ARROW_SCHEMA_META_KEY;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder, ParquetMetaDataReader};
use parquet::file::reader::ChunkReader as _;
use tokio::sync::OnceCell;

use super::adapter::PATH_KEY;
use crate::error::{Error, Result};
use crate::scan::open_file;

/// A data file of a query.
#[derive(Debug)]
pub(super) struct OneFile {
    path: String,
    bytes: u64,
    /// Whether the file's schema says which file it is of.
    named: bool,
    metadata: OnceCell<Arc<ParquetMetaData>>,
}

impl OneFile {
    pub fn new(path: &str, bytes: u64, named: bool) -> Self {
        Self { path: path.to_owned(), bytes, named, metadata: OnceCell::new() }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The footer, read at the first call.
    pub async fn metadata(self: &Arc<Self>) -> Result<Arc<ParquetMetaData>> {
        let read = || {
            let this = Arc::clone(self);
            async move {
                let read = move || this.read_metadata();
                tokio::task::spawn_blocking(read).await.map_err(Error::internal("read a footer"))?
            }
        };
        self.metadata.get_or_try_init(read).await.cloned()
    }

    fn read_metadata(&self) -> Result<Arc<ParquetMetaData>> {
        let mut file = open_file(&self.path, Some(self.bytes))?;
        file.prefetch_tail().map_err(Error::data_file(&self.path))?;
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(Error::data_file(&self.path))?;
        Ok(Arc::new(with_own_pairs(metadata, self.named.then_some(self.path.as_str()))))
    }

    fn read(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let failed = |error: std::io::Error| Error::data_file(&self.path)(error);
        let mut file = open_file(&self.path, Some(self.bytes))?;
        file.prefetch(ranges).map_err(failed)?;
        let mut parts = Vec::with_capacity(ranges.len());
        for range in ranges {
            // A damaged footer may name anything.
            if range.start > range.end || range.end > self.bytes.max(range.start) {
                return Err(Error::data_file(&self.path)(format!("it has no bytes {} to {}", range.start, range.end)));
            }
            let length = range.end - range.start;
            let length = usize::try_from(length).map_err(Error::data_file(&self.path))?;
            parts.push(file.get_bytes(range.start, length).map_err(Error::data_file(&self.path))?);
        }
        Ok(parts)
    }
}

/// The types a file was written from are not the table's, which come from its own metadata. `path`: what to call the file.
fn with_own_pairs(metadata: ParquetMetaData, path: Option<&str>) -> ParquetMetaData {
    let file = metadata.file_metadata();
    let old = file.key_value_metadata().map(Vec::as_slice).unwrap_or_default();
    let ours = |pair: &&KeyValue| [ARROW_SCHEMA_META_KEY, PATH_KEY].contains(&pair.key.as_str());
    if path.is_none() && !old.iter().any(|pair| ours(&pair)) {
        return metadata;
    }
    let name = path.map(|path| KeyValue::new(PATH_KEY.to_owned(), path.to_owned()));
    let pairs = old.iter().filter(|pair| !ours(pair)).cloned().chain(name).collect();
    let plain = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        Some(pairs),
        file.schema_descr_ptr(),
        file.column_orders().cloned(),
    );
    let groups = metadata.row_groups().to_vec();
    ParquetMetaDataBuilder::new(plain).set_row_groups(groups).build()
}

/// Makes readers of files that carry their [`OneFile`].
#[derive(Debug)]
pub(super) struct Readers;

impl ParquetFileReaderFactory for Readers {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        let one = file.extension::<Arc<OneFile>>().ok_or_else(|| internal_datafusion_err!("a file that is not the lake's"))?;
        let bytes = MetricBuilder::new(metrics).counter(BYTES_SCANNED, partition);
        Ok(Box::new(Reader { file: Arc::clone(one), bytes }))
    }
}

/// The metric of bytes read of data files, footers left out: DataFusion's own readers count them under this name.
pub(crate) const BYTES_SCANNED: &str = "bytes_scanned";

struct Reader {
    file: Arc<OneFile>,
    bytes: Count,
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        let parts = self.get_byte_ranges(vec![range]);
        async move { Ok(parts.await?.into_iter().next().unwrap_or_default()) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        let file = Arc::clone(&self.file);
        self.bytes
            .add(ranges.iter().map(|range| usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)).sum());
        async move {
            let read = tokio::task::spawn_blocking(move || file.read(&ranges)).await;
            read.map_err(|error| ParquetError::External(error.into()))?.map_err(|error| ParquetError::External(error.into()))
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move { self.file.metadata().await.map_err(|error| ParquetError::External(error.into())) }.boxed()
    }
}
