//! What Iceberg keeps of a data file, computed from its Parquet footer: counts, sizes, lower and upper bounds.
//!
//! The crate's own writer leaves inexact Parquet statistics out *per row group*, and so makes wrong bounds for a file
//! with several row groups and long strings. Here every row group counts: a shortened minimum is still a lower bound
//! and a shortened, incremented maximum an upper bound; a column of which one row group has values but no bounds
//! gets none at all.

use std::collections::{HashMap, HashSet};

use arrow::datatypes::Schema as ArrowSchema;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, PrimitiveType, Schema, Struct};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

use crate::error::{Error, Result};
use crate::files::Target;
use crate::schema;

/// Bounds longer than this are left out of the manifest.
const BOUND_BYTES_MAX: usize = 256;

/// A Parquet file that was written, before Iceberg knows of it.
pub(crate) struct Written {
    /// Plain absolute path.
    pub path: String,
    /// Size on disk.
    pub bytes: u64,
    /// The footer.
    pub footer: ParquetMetaData,
    /// NaNs by field id, for top-level float columns.
    pub nans: HashMap<i32, u64>,
}

/// The Iceberg entry of a written file.
pub(crate) fn data_file(written: Written, target: &Target, partition: Struct) -> Result<DataFile> {
    let schema: &Schema = &target.schema;
    let mut columns = Columns::default();
    for group in written.footer.row_groups() {
        for chunk in group.columns() {
            let description = chunk.column_descr();
            let info = description.self_type().get_basic_info();
            if !info.has_id() {
                continue;
            }
            let id = info.id();
            *columns.sizes.entry(id).or_default() += unsigned(chunk.compressed_size());
            *columns.values.entry(id).or_default() += unsigned(chunk.num_values());
            let statistics = chunk.statistics();
            match statistics.and_then(Statistics::null_count_opt) {
                Some(nulls) => *columns.nulls.entry(id).or_default() += nulls,
                None => drop(columns.unknown_nulls.insert(id)),
            }
            if description.max_rep_level() == 0
                && let Some(kind) = schema.field_by_id(id).and_then(|field| field.field_type.as_primitive_type())
            {
                columns.add_bounds(id, kind, statistics, unsigned(chunk.num_values()));
            }
        }
    }
    columns.finish();
    let offsets = written.footer.row_groups().iter().filter_map(|group| group.file_offset());
    let mut builder = DataFileBuilder::default();
    if let Some(order_id) = target.order_id {
        builder.sort_order_id(order_id);
    }
    builder
        .content(DataContentType::Data)
        .file_path(written.path)
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(target.spec_id)
        .record_count(unsigned(written.footer.file_metadata().num_rows()))
        .file_size_in_bytes(written.bytes)
        .column_sizes(columns.sizes)
        .value_counts(columns.values)
        .null_value_counts(columns.nulls)
        .nan_value_counts(written.nans)
        .lower_bounds(columns.lower)
        .upper_bounds(columns.upper)
        .split_offsets(Some(offsets.collect()))
        .build()
        .map_err(Error::internal("describe the data file"))
}

/// A Parquet file of another program.
pub(crate) struct Found<'a> {
    pub path: &'a str,
    pub bytes: u64,
    pub footer: &'a ParquetMetaData,
    /// Its columns in Arrow's types.
    pub schema: &'a ArrowSchema,
}

/// The Iceberg entry of a file that others wrote. What its statistics say of a column counts if the file has the column at its
/// top, in the very type of the table, and if it was written by the newer rules for minima and maxima.
pub(crate) fn found_file(found: &Found<'_>, schema: &Schema, spec_id: i32, partition: Struct) -> Result<DataFile> {
    let mut columns = Columns::default();
    for chunk in found.footer.row_groups().iter().flat_map(|group| group.columns()) {
        let path = chunk.column_path().parts();
        let (Some(field), [name]) = (path.first().and_then(|name| schema.as_struct().field_by_name(name)), path) else {
            continue;
        };
        let Some(kind) = field.field_type.as_primitive_type() else { continue };
        *columns.sizes.entry(field.id).or_default() += unsigned(chunk.compressed_size());
        *columns.values.entry(field.id).or_default() += unsigned(chunk.num_values());
        let statistics = chunk.statistics();
        match statistics.and_then(Statistics::null_count_opt) {
            Some(nulls) => *columns.nulls.entry(field.id).or_default() += nulls,
            None => drop(columns.unknown_nulls.insert(field.id)),
        }
        let same = found.schema.field_with_name(name).is_ok_and(|field| *field.data_type() == schema::read_as(kind));
        let statistics = statistics.filter(|statistics| same && !statistics.is_min_max_deprecated());
        columns.add_bounds(field.id, kind, statistics, unsigned(chunk.num_values()));
    }
    columns.finish();
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(found.path.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(spec_id)
        .record_count(unsigned(found.footer.file_metadata().num_rows()))
        .file_size_in_bytes(found.bytes)
        .column_sizes(columns.sizes)
        .value_counts(columns.values)
        .null_value_counts(columns.nulls)
        .lower_bounds(columns.lower)
        .upper_bounds(columns.upper)
        .build()
        .map_err(Error::internal("describe the data file"))
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[derive(Default)]
struct Columns {
    sizes: HashMap<i32, u64>,
    values: HashMap<i32, u64>,
    nulls: HashMap<i32, u64>,
    unknown_nulls: HashSet<i32>,
    lower: HashMap<i32, Datum>,
    upper: HashMap<i32, Datum>,
    no_lower: HashSet<i32>,
    no_upper: HashSet<i32>,
}

impl Columns {
    fn add_bounds(&mut self, id: i32, kind: &PrimitiveType, statistics: Option<&Statistics>, values: u64) {
        let nulls = statistics.and_then(Statistics::null_count_opt);
        if nulls == Some(values) {
            return; // Only nulls: this row group says nothing about the bounds.
        }
        match statistics.and_then(|statistics| datum(kind, statistics, statistics.min_bytes_opt()?)) {
            Some(bound) => keep(&mut self.lower, id, bound, |new, old| new < old),
            None => drop(self.no_lower.insert(id)),
        }
        match statistics.and_then(|statistics| datum(kind, statistics, statistics.max_bytes_opt()?)) {
            Some(bound) => keep(&mut self.upper, id, bound, |new, old| new > old),
            None => drop(self.no_upper.insert(id)),
        }
    }

    fn finish(&mut self) {
        let short = |bound: &Datum| bound.to_bytes().is_ok_and(|bytes| bytes.len() <= BOUND_BYTES_MAX);
        self.lower.retain(|id, bound| !self.no_lower.contains(id) && short(bound));
        self.upper.retain(|id, bound| !self.no_upper.contains(id) && short(bound));
        self.nulls.retain(|id, _| !self.unknown_nulls.contains(id));
    }
}

fn keep(bounds: &mut HashMap<i32, Datum>, id: i32, bound: Datum, better: impl Fn(&Datum, &Datum) -> bool) {
    match bounds.get_mut(&id) {
        Some(old) if better(&bound, old) => *old = bound,
        Some(_) => {}
        None => drop(bounds.insert(id, bound)),
    }
}

/// A Parquet bound as an Iceberg value. Parquet keeps small decimals little-endian, Iceberg all of them big-endian;
/// else the bytes agree.
fn datum(kind: &PrimitiveType, statistics: &Statistics, bytes: &[u8]) -> Option<Datum> {
    let flipped: Vec<u8>;
    let bytes = match (kind, statistics) {
        (PrimitiveType::Decimal { .. }, Statistics::Int32(_) | Statistics::Int64(_)) => {
            flipped = bytes.iter().rev().copied().collect();
            &flipped
        }
        _ => bytes,
    };
    Datum::try_from_bytes(bytes, kind.clone()).ok().filter(|datum| !datum.is_nan())
}
