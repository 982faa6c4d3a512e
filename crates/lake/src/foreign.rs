//! Changes of tables that other engines made, as Iceberg's REST protocol writes them down.
//!
//! An engine writes data files and manifests by itself, and hands over what becomes of the metadata: requirements (what
//! must still hold) and updates. Here they are read, checked against the table as it is now, and applied: pure
//! functions of JSON and metadata, but for [`Foreign::load`] and [`Foreign::store`].
//!
//! ```text
//! body ── parse ──> Change ── apply(base) ──> Foreign ── store ──> metadata file; then the catalog's commit
//!                                 └─> Refusal: Outdated (look again and retry), Invalid, Unsupported
//! ```
//!
//! Invariants: a body is hostile until applied: whatever is in it, the result is metadata this crate reads, all of whose
//! locations are in the lake's folder of tables, or a [`Refusal`]; a table has the one ref `main`, because branches are the catalog's;
//! `gc.enabled` is false; no column goes that a partition spec of the table was made from. The rules are in [`rules`].

mod rules;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;

use iceberg::spec::{
    FormatVersion, Operation, Schema, SortOrder, TableMetadata, TableMetadataBuilder, TableProperties, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use serde_json::Value;

use crate::commit::write_metadata;
use crate::error::{Error, Result};
use crate::storage;
use crate::table::Table;

pub use rules::Rules;

/// Why a change of another engine is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The table is no longer what the change was made for: after another look, a new change may be right.
    #[error("{0}")]
    Outdated(String),
    /// It makes no sense, or would leave a table that engines trip over.
    #[error("{0}")]
    Invalid(String),
    /// It asks for something of Iceberg that is not built.
    #[error("{0}")]
    Unsupported(String),
}

/// Metadata of a table, and the file it was read from (if it was stored).
#[derive(Debug, Clone)]
pub struct Foreign {
    metadata: TableMetadata,
    file: Option<String>,
    json: String,
}

impl Foreign {
    /// Reads a metadata file.
    ///
    /// # Errors
    /// [`Error::Metadata`] if it is missing or damaged.
    pub async fn load(metadata_location: &str) -> Result<Self> {
        let table = Table::open(metadata_location).await?;
        Self::of(table.metadata, Some(table.location)).map_err(|refusal| Error::metadata(metadata_location)(refusal.to_string()))
    }

    fn of(metadata: TableMetadata, file: Option<String>) -> Result<Self, Refusal> {
        let json = serde_json::to_string(&metadata).map_err(|error| Refusal::Invalid(error.to_string()))?;
        Ok(Self { metadata, file, json })
    }

    /// Writes metadata that [`Change::apply`] or [`Creation::build`] made to a file of its own, durably. Returns its
    /// location; nobody knows of it before it is put into the catalog.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn store(&self) -> Result<String> {
        let folder = self.folder()?;
        write_metadata(&folder, &self.metadata, self.file.as_deref())
    }

    /// Makes the folder of metadata files: engines that write to a staged table expect it.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn prepare(&self) -> Result<()> {
        self.folder().map(drop)
    }

    fn folder(&self) -> Result<std::path::PathBuf> {
        let folder = storage::plain_path(self.metadata.location())?.join("metadata");
        storage::create_folder(&folder)?;
        Ok(folder)
    }

    /// The metadata as JSON text, as a metadata file holds it.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }

    /// The table's folder.
    #[must_use]
    pub fn location(&self) -> &str {
        self.metadata.location()
    }

    /// The file it was read from.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Checks metadata that somebody else wrote, before it becomes a table of the lake.
    ///
    /// # Errors
    /// [`Refusal`] if it, or a file it names, is not in the lake, or if it uses what is not built.
    pub fn admit(&self, rules: &Rules) -> Result<(), Refusal> {
        rules.check_location(self.file.as_deref().unwrap_or_default())?;
        rules.check_result(None, &self.metadata)?;
        self.metadata.snapshots().try_for_each(|snapshot| rules.check_location(snapshot.manifest_list()))
    }
}

/// A table to be made.
#[derive(Debug, Clone)]
pub struct Creation {
    /// Its name in the namespace.
    pub name: String,
    /// Only the metadata is wanted; the table is made by a later [`Change`].
    pub staged: bool,
    /// Its folder, if the engine has a wish.
    pub location: Option<String>,
    schema: Schema,
    spec: UnboundPartitionSpec,
    order: SortOrder,
    format: FormatVersion,
    properties: HashMap<String, String>,
}

impl Creation {
    /// Reads the body of `POST …/tables`.
    ///
    /// # Errors
    /// [`Refusal`] if a part is missing or makes no sense.
    pub fn parse(body: &Value) -> Result<Self, Refusal> {
        let name = body.get("name").and_then(Value::as_str).ok_or_else(|| invalid("it has no `name`"))?;
        let mut properties: HashMap<String, String> = optional(body, "properties")?.unwrap_or_default();
        let format = format_version(properties.get(TableProperties::PROPERTY_FORMAT_VERSION).map(String::as_str))?;
        strip_reserved(&mut properties);
        Ok(Self {
            name: name.to_owned(),
            staged: optional(body, "stage-create")?.unwrap_or(false),
            location: optional(body, "location")?,
            schema: optional(body, "schema")?.ok_or_else(|| invalid("it has no `schema`"))?,
            spec: optional(body, "partition-spec")?.unwrap_or_default(),
            order: optional(body, "write-order")?.unwrap_or_else(SortOrder::unsorted_order),
            format,
            properties,
        })
    }

    /// The metadata of the table, in the folder `location`. Ids of columns are given anew, from 1.
    ///
    /// # Errors
    /// [`Refusal`] if the parts do not fit together, or the location is not in the lake.
    pub fn build(self, location: &str, rules: &Rules) -> Result<Foreign, Refusal> {
        rules.check_location(location)?;
        rules.check_properties(&self.properties)?;
        let mut properties = self.properties;
        properties.insert(rules::GC_ENABLED.to_owned(), "false".to_owned());
        let location = rules::plain(location);
        let build = || TableMetadataBuilder::new(self.schema, self.spec, self.order, location, self.format, properties)?.build();
        let metadata = guarded(build)?.metadata;
        rules.check_result(None, &metadata)?;
        Foreign::of(metadata, None)
    }
}

/// What an engine asks to be done to one table.
#[derive(Debug, Clone)]
pub struct Change {
    requirements: Vec<TableRequirement>,
    updates: Vec<TableUpdate>,
}

impl Change {
    /// Reads `{"requirements": …, "updates": …}`.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if it cannot be read.
    pub fn parse(body: &Value) -> Result<Self, Refusal> {
        let requirements = optional(body, "requirements")?.unwrap_or_default();
        let updates: Vec<TableUpdate> = optional(body, "updates")?.ok_or_else(|| invalid("it has no `updates`"))?;
        Ok(Self { requirements, updates: updates.into_iter().map(our_way).collect() })
    }

    /// Whether it makes the table.
    #[must_use]
    pub fn creates(&self) -> bool {
        self.requirements.contains(&TableRequirement::NotExist)
    }

    /// What it does, for the message of a commit: `append to`, `create`, ….
    #[must_use]
    pub fn verb(&self) -> &'static str {
        let any = |wanted: &dyn Fn(&TableUpdate) -> bool| self.updates.iter().any(wanted);
        let operation = |wanted: Operation| {
            any(&|update| matches!(update, TableUpdate::AddSnapshot { snapshot } if snapshot.summary().operation == wanted))
        };
        if self.creates() {
            return "create";
        }
        match (operation(Operation::Append), operation(Operation::Delete), operation(Operation::Overwrite)) {
            (_, _, true) | (true, true, _) => "overwrite rows of",
            (true, false, _) => "append to",
            (false, true, _) => "delete rows of",
            _ if operation(Operation::Replace) => "rewrite files of",
            _ if any(&|update| matches!(update, TableUpdate::AddSchema { .. })) => "change the schema of",
            _ if any(&|update| matches!(update, TableUpdate::SetSnapshotRef { .. })) => "move back",
            _ => "change",
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.updates.is_empty()
    }

    /// Whether [`Change::is_done`] can tell: changes of columns or properties alone leave no mark.
    #[must_use]
    pub fn leaves_a_mark(&self) -> bool {
        self.snapshots().next().is_some() || (self.creates() && self.uuid().is_some())
    }

    /// Whether the table shows that this very change was made before, so that an engine which lost the answer and sends it
    /// again is told of its success: all its snapshots are there or, if it makes a table and has none, the table has its identity.
    #[must_use]
    pub fn is_done(&self, base: &Foreign) -> bool {
        let mut snapshots = self.snapshots();
        let is_there = |id| base.metadata.snapshot_by_id(id).is_some();
        match snapshots.next() {
            Some(first) => is_there(first) && snapshots.all(is_there),
            None => self.creates() && self.uuid() == Some(base.metadata.uuid()),
        }
    }

    fn snapshots(&self) -> impl Iterator<Item = i64> {
        self.updates.iter().filter_map(|update| match update {
            TableUpdate::AddSnapshot { snapshot } => Some(snapshot.snapshot_id()),
            _ => None,
        })
    }

    fn uuid(&self) -> Option<uuid::Uuid> {
        self.updates.iter().find_map(|update| match update {
            TableUpdate::AssignUuid { uuid } => Some(*uuid),
            _ => None,
        })
    }

    /// The metadata after the change. `base` is the table as it is now, if it is there.
    ///
    /// # Errors
    /// [`Refusal::Outdated`] if a requirement does not hold; other refusals if the change cannot be made at all.
    pub fn apply(self, base: Option<&Foreign>, rules: &Rules) -> Result<Foreign, Refusal> {
        for requirement in &self.requirements {
            requirement.check(base.map(|base| &base.metadata)).map_err(|error| Refusal::Outdated(error.message().to_owned()))?;
        }
        rules.check_updates(base.map(|base| &base.metadata), &self.updates)?;
        let build = || {
            let mut builder = match base {
                Some(base) => base.metadata.clone().into_builder(base.file.clone()),
                None => new_table(&self.updates)?,
            };
            builder = builder.set_properties(HashMap::from([(rules::GC_ENABLED.to_owned(), "false".to_owned())]))?;
            for update in self.updates {
                builder = update.apply(builder)?;
            }
            builder.build()
        };
        let metadata = guarded(build)?.metadata;
        rules.check_result(base.map(|base| &base.metadata), &metadata)?;
        Foreign::of(metadata, base.and_then(|base| base.file.clone()))
    }
}

/// The table that the updates of a creation begin with. Nothing is remembered of the staged one: the updates tell all of it.
/// Its columns must have the ids they would be given, since files with these ids are there.
fn new_table(updates: &[TableUpdate]) -> iceberg::Result<TableMetadataBuilder> {
    let missing = |what: &str| iceberg::Error::new(iceberg::ErrorKind::DataInvalid, format!("a new table needs {what}"));
    let (mut schema, mut spec, mut order, mut location) = (None, None, None, None);
    for update in updates {
        match update {
            TableUpdate::AddSchema { schema: added } => schema = schema.or(Some(added)),
            TableUpdate::AddSpec { spec: added } => spec = spec.or(Some(added)),
            TableUpdate::AddSortOrder { sort_order } => order = order.or(Some(sort_order)),
            TableUpdate::SetLocation { location: set } => location = Some(set),
            _ => {}
        }
    }
    let schema = schema.ok_or_else(|| missing("a schema"))?;
    let location = location.ok_or_else(|| missing("a location"))?;
    let spec = spec.cloned().unwrap_or_default();
    let order = order.cloned().unwrap_or_else(SortOrder::unsorted_order);
    let (location, format) = (rules::plain(location), rules::first_format(updates));
    let builder = TableMetadataBuilder::new(schema.clone(), spec, order, location, format, HashMap::new())?;
    let made = builder.clone().build()?.metadata;
    if made.current_schema().as_struct() != schema.as_struct() {
        return Err(missing("columns numbered from 1, as they were when it was staged"));
    }
    Ok(builder)
}

fn invalid(why: impl Into<String>) -> Refusal {
    Refusal::Invalid(why.into())
}

/// A part of a body; absent and null are the same.
fn optional<T: serde::de::DeserializeOwned>(body: &Value, key: &str) -> Result<Option<T>, Refusal> {
    let Some(part) = body.get(key).filter(|part| !part.is_null()) else { return Ok(None) };
    let parse = || serde_json::from_value(part.clone()).map_err(|error| invalid(format!("its `{key}`: {error}")));
    caught(parse)?.map(Some)
}

fn format_version(text: Option<&str>) -> Result<FormatVersion, Refusal> {
    match text {
        None | Some("2") => Ok(FormatVersion::V2),
        Some("1") => Ok(FormatVersion::V1),
        Some(other) => Err(Refusal::Unsupported(format!("format version {other} is not supported; 1 and 2 are"))),
    }
}

/// Properties that stand for other parts of the metadata: engines send them, and they are kept nowhere.
fn strip_reserved(properties: &mut HashMap<String, String>) {
    properties.retain(|key, _| !TableProperties::RESERVED_PROPERTIES.contains(&key.as_str()));
}

/// An update as we keep it: no reserved properties, and locations as plain paths.
fn our_way(update: TableUpdate) -> TableUpdate {
    match update {
        TableUpdate::SetLocation { location } => TableUpdate::SetLocation { location: rules::plain(&location) },
        TableUpdate::SetProperties { mut updates } => {
            strip_reserved(&mut updates);
            TableUpdate::SetProperties { updates }
        }
        other => other,
    }
}

/// Runs Iceberg's own checks; what they refuse is the body's fault, and so is what they panic on.
fn guarded<T>(work: impl FnOnce() -> iceberg::Result<T>) -> Result<T, Refusal> {
    caught(work)?.map_err(|error| match error.kind() {
        iceberg::ErrorKind::FeatureUnsupported => Refusal::Unsupported(error.message().to_owned()),
        _ => invalid(error.message()),
    })
}

fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Refusal> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).map_err(|_| invalid("it makes no sense in a way nobody expected"))
}
