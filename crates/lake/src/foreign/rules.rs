//! What a change of another engine may do: the rules that Iceberg's own builder does not know.

use std::collections::HashMap;

use iceberg::TableUpdate;
use iceberg::spec::{FormatVersion, MAIN_BRANCH, Snapshot, TableMetadata, Transform};

use super::{Refusal, invalid};
use crate::storage;

/// Table property that keeps engines from removing files by themselves: branches of the catalog share them.
pub(super) const GC_ENABLED: &str = "gc.enabled";

/// Ids of columns above this are Iceberg's own or leave no room for new ones.
const FIELD_ID_MAX: i32 = 1 << 30;
/// How far a snapshot's sequence number may be ahead of the table's.
const SEQUENCE_GAP_MAX: i64 = 1 << 16;
/// How far a snapshot's time may be ahead of ours: time goes forward only, so a table would keep it.
const AHEAD_MILLIS_MAX: i64 = 24 * 3_600_000;

/// What is allowed where.
#[derive(Debug, Clone)]
pub struct Rules {
    tables_root: String,
    now_millis: i64,
}

impl Rules {
    /// Rules for tables below `tables_root` (a path or URI), at a time in milliseconds since 1970.
    #[must_use]
    pub fn new(tables_root: &str, now_millis: i64) -> Self {
        Self { tables_root: plain(tables_root), now_millis }
    }

    /// Refuses what is not below the lake's folder of tables.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] with both.
    pub fn check_location(&self, location: &str) -> Result<(), Refusal> {
        let path = plain(location);
        let inside = path.strip_prefix(self.tables_root.as_str()).and_then(|rest| rest.strip_prefix('/'));
        let steps = |rest: &str| rest.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\\']));
        if inside.is_some_and(|rest| steps(rest.trim_end_matches('/'))) {
            return Ok(());
        }
        Err(invalid(format!("`{location}` is not in the lake's folder of tables, `{}`", self.tables_root)))
    }

    pub(super) fn check_properties(&self, properties: &HashMap<String, String>) -> Result<(), Refusal> {
        match properties.get(GC_ENABLED) {
            Some(value) if !value.eq_ignore_ascii_case("false") => Err(invalid(format!(
                "`{GC_ENABLED}` stays false: branches share files, and removing them is the lake's business (`forebay gc`)"
            ))),
            _ => Ok(()),
        }
    }

    /// Looks at each update by itself, before any is applied.
    pub(super) fn check_updates(&self, base: Option<&TableMetadata>, updates: &[TableUpdate]) -> Result<(), Refusal> {
        let mut sequence = base.map_or(0, TableMetadata::last_sequence_number);
        let format = base.map_or_else(|| first_format(updates), TableMetadata::format_version);
        for update in updates {
            match update {
                TableUpdate::AddSnapshot { snapshot } => {
                    self.check_snapshot(snapshot, sequence, format)?;
                    sequence = snapshot.sequence_number();
                }
                TableUpdate::SetSnapshotRef { ref_name, reference } if ref_name != MAIN_BRANCH || !reference.is_branch() => {
                    return Err(Refusal::Unsupported(format!(
                        "`{ref_name}`: a table has the one branch `main`; branches and tags are those of the lake, each with a URL of its own"
                    )));
                }
                TableUpdate::RemoveSnapshotRef { ref_name } if ref_name == MAIN_BRANCH => {
                    return Err(invalid("the branch `main` of a table stays"));
                }
                TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 } => {
                    return Err(Refusal::Unsupported("format version 3 is not supported; 1 and 2 are".to_owned()));
                }
                TableUpdate::SetProperties { updates } => self.check_properties(updates)?,
                TableUpdate::RemoveProperties { removals } if removals.iter().any(|key| key == GC_ENABLED) => {
                    return Err(invalid(format!("`{GC_ENABLED}` stays")));
                }
                TableUpdate::SetLocation { location } => self.check_location(location)?,
                TableUpdate::SetStatistics { statistics } => self.check_location(&statistics.statistics_path)?,
                TableUpdate::SetPartitionStatistics { partition_statistics } => {
                    self.check_location(&partition_statistics.statistics_path)?;
                }
                TableUpdate::AddEncryptionKey { .. } | TableUpdate::RemoveEncryptionKey { .. } => {
                    return Err(Refusal::Unsupported("encrypted tables are not supported".to_owned()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn check_snapshot(&self, snapshot: &Snapshot, last: i64, format: FormatVersion) -> Result<(), Refusal> {
        self.check_location(snapshot.manifest_list())?;
        if snapshot.snapshot_id() <= 0 {
            return Err(invalid("the id of a snapshot is a positive number"));
        }
        if snapshot.timestamp_ms() < 0 || snapshot.timestamp_ms().saturating_sub(self.now_millis) > AHEAD_MILLIS_MAX {
            return Err(invalid(format!(
                "the snapshot's time {} is not near ours, {}",
                snapshot.timestamp_ms(),
                self.now_millis
            )));
        }
        let sequence = snapshot.sequence_number();
        if format == FormatVersion::V1 {
            return if sequence == 0 { Ok(()) } else { Err(invalid("a table of format version 1 has no sequence numbers")) };
        }
        if sequence <= last {
            return Err(Refusal::Outdated(format!("the table's sequence number is {last}, and the snapshot's {sequence}")));
        }
        if sequence - last > SEQUENCE_GAP_MAX {
            return Err(invalid(format!("the sequence number {sequence} is too far from the table's, {last}")));
        }
        Ok(())
    }

    /// Looks at the table as it would be.
    pub(super) fn check_result(&self, base: Option<&TableMetadata>, made: &TableMetadata) -> Result<(), Refusal> {
        self.check_location(made.location())?;
        if made.format_version() == FormatVersion::V3 {
            return Err(Refusal::Unsupported("format version 3 is not supported; 1 and 2 are".to_owned()));
        }
        if made.last_column_id() > FIELD_ID_MAX || made.last_partition_id() > FIELD_ID_MAX {
            return Err(invalid(format!("ids of columns and partition fields end at {FIELD_ID_MAX}")));
        }
        if made.current_schema().as_struct().fields().is_empty() {
            return Err(invalid("a table needs a column"));
        }
        if base.is_some_and(|base| base.current_snapshot().is_some()) && made.current_snapshot().is_none() {
            return Err(invalid("the current snapshot stays"));
        }
        check_partitions(made)
    }
}

/// The format version that a new table begins with.
pub(super) fn first_format(updates: &[TableUpdate]) -> FormatVersion {
    let wanted = updates.iter().find_map(|update| match update {
        TableUpdate::UpgradeFormatVersion { format_version } => Some(*format_version),
        _ => None,
    });
    wanted.unwrap_or(FormatVersion::V2)
}

/// Refuses transforms that nobody can compute, and schemas without a column that a partition spec needs: engines cannot read
/// what was written by that spec.
fn check_partitions(made: &TableMetadata) -> Result<(), Refusal> {
    let schema = made.current_schema();
    for field in made.partition_specs_iter().flat_map(|spec| spec.fields()) {
        if matches!(field.transform, Transform::Unknown | Transform::Bucket(0) | Transform::Truncate(0)) {
            return Err(invalid(format!("the partition field `{}` has a transform that is none", field.name)));
        }
        if schema.field_by_id(field.source_id).is_none() {
            let known = made.schemas_iter().find_map(|schema| schema.name_by_field_id(field.source_id));
            return Err(invalid(format!(
                "the column `{}` stays: the table is, or was, partitioned by it; make a table without it instead",
                known.unwrap_or(&field.name)
            )));
        }
    }
    Ok(())
}

/// A location as it is compared: local ones as plain paths, others as they are, without a slash at the end.
pub(super) fn plain(location: &str) -> String {
    storage::plain_location(location).unwrap_or_else(|_| location.trim_end_matches('/').to_owned())
}
