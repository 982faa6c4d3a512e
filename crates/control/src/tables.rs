//! Namespaces and tables over the wire. Reads catalog and metadata files, never data files.

use forebay_catalog::{Changes, TableEntry, Tree};
use forebay_lake::TableInfo;
use forebay_types::{CommitHash, TableName};
use serde_json::json;

use crate::api::{self, CommitWords, Op};
use crate::connection::Answer;
use crate::error::{Error, near};
use crate::filter::Filter;
use crate::refs;
use crate::service::{Session, rows};

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

/// Answers `table.list`, `table.get` and `table.delete`.
pub(crate) fn answer(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    match op {
        Op::TableList { at, namespace, name, limit } => {
            let tree = tree(session, &at)?;
            let (namespaces, names) = (Filter::new(namespace.as_deref())?, Filter::new(name.as_deref())?);
            let passing = tree.tables.keys().filter(|table| {
                namespaces.passes(table.namespace()) && (names.passes(table.name()) || names.passes(&table.to_string()))
            });
            let kind = |table: &TableName| kind(&tree.tables[table]);
            let object = |table: &TableName| json!({ "namespace": table.namespace(), "name": table.name(), "kind": kind(table) });
            Answer::of(passing.take(rows(limit)).map(object).collect::<Vec<_>>())
        }
        Op::TableGet { name, at, namespace } => {
            let table = Session::table_name(&name, namespace.as_deref())?;
            let entry = entry(session, &table, &at)?;
            let info = session.service.table_info(&entry.metadata_location)?;
            Answer::of(describe(&table, &entry, &info))
        }
        Op::TableDelete { name, branch, namespace, if_exists, words } => {
            let table = Session::table_name(&name, namespace.as_deref())?;
            delete(session, &table, &branch, if_exists, words)
        }
        other => Err(Error::BadRequest { why: format!("nothing answers {other:?}") }.into()),
    }
}

fn delete(
    session: &Session<'_>,
    table: &TableName,
    branch: &str,
    if_exists: bool,
    words: CommitWords,
) -> Result<Answer, api::Error> {
    let (branch, head) = session.branch(branch)?;
    let tree = session.catalog().tree(&head.hash).map_err(told)?;
    if !tree.tables.contains_key(table) {
        if if_exists {
            return Answer::of(refs::wire(head));
        }
        return Err(missing(table, branch.as_str(), &tree).into());
    }
    let changes = Changes { delete: [table.clone()].into(), ..Changes::default() };
    commit(session, branch.as_str(), &head.hash, &changes, words, format!("Delete the table `{table}`"))
}

/// One commit, answered with the branch after it.
fn commit(
    session: &Session<'_>,
    branch: &str,
    base: &CommitHash,
    changes: &Changes,
    words: CommitWords,
    default: String,
) -> Result<Answer, api::Error> {
    let info = session.info(words, default);
    let name = branch.parse().map_err(Error::from)?;
    session.catalog().commit(&name, base, changes, &info, None).map_err(told)?;
    Answer::of(refs::wire(session.branch(branch)?.1))
}

/// Answers `namespace.*`.
pub(crate) fn answer_namespace(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    match op {
        Op::NamespaceList { at, name, limit } => {
            let tree = tree(session, &at)?;
            let filter = Filter::new(name.as_deref())?;
            let passing = tree.namespaces.iter().filter(|namespace| filter.passes(namespace));
            Answer::of(passing.take(rows(limit)).map(|name| json!({ "name": name })).collect::<Vec<_>>())
        }
        Op::NamespaceCreate { name, branch, if_not_exists, words } => {
            let (branch, head) = session.branch(&branch)?;
            let tree = session.catalog().tree(&head.hash).map_err(told)?;
            if if_not_exists && tree.namespaces.contains(&name) {
                return Answer::of(refs::wire(head));
            }
            let default = format!("Create the namespace `{name}`");
            let changes = Changes { create_namespaces: [name].into(), ..Changes::default() };
            commit(session, branch.as_str(), &head.hash, &changes, words, default)
        }
        Op::NamespaceDelete { name, branch, if_exists, words } => {
            let (branch, head) = session.branch(&branch)?;
            let tree = session.catalog().tree(&head.hash).map_err(told)?;
            if if_exists && !tree.namespaces.contains(&name) {
                return Answer::of(refs::wire(head));
            }
            let default = format!("Delete the namespace `{name}`");
            let changes = Changes { delete_namespaces: [name].into(), ..Changes::default() };
            commit(session, branch.as_str(), &head.hash, &changes, words, default)
        }
        other => Err(Error::BadRequest { why: format!("nothing answers {other:?}") }.into()),
    }
}

fn tree(session: &Session<'_>, at: &str) -> Result<Tree, api::Error> {
    let found = session.resolve(at)?;
    session.catalog().tree(&found.hash).map_err(told)
}

fn entry(session: &Session<'_>, table: &TableName, at: &str) -> Result<TableEntry, api::Error> {
    let mut tree = tree(session, at)?;
    match tree.tables.remove(table) {
        Some(entry) => Ok(entry),
        None => Err(missing(table, at, &tree).into()),
    }
}

/// The error for a table that is not there.
pub(crate) fn missing(table: &TableName, at: &str, tree: &Tree) -> Error {
    let name = table.to_string();
    let names: Vec<String> = tree.tables.keys().map(ToString::to_string).collect();
    Error::NoTable { near: near(&name, names.iter().map(String::as_str)), name, at: at.to_owned() }
}

/// Property of a table's entry: the table is another engine's, here it is only read.
pub(crate) const EXTERNAL_PROPERTY: &str = "forebay.external";

/// Property of an external table's entry: files and folders its data is in, as a JSON list, where that is not the folder of its
/// metadata. In the entry and not in the table's own properties, which other engines write: it opens doors of the sandbox.
pub(crate) const EXTERNAL_ROOTS_PROPERTY: &str = "forebay.external-roots";

/// Where an entry says that its files are.
pub(crate) fn external_roots(entry: &TableEntry) -> Vec<String> {
    let roots = entry.properties.get(EXTERNAL_ROOTS_PROPERTY).and_then(|text| serde_json::from_str(text).ok());
    roots.unwrap_or_default()
}

/// The word for what a table is.
fn kind(entry: &TableEntry) -> &'static str {
    if entry.properties.contains_key(EXTERNAL_PROPERTY) { "EXTERNAL_TABLE" } else { "TABLE" }
}

/// Refuses to write to a table of another engine.
pub(crate) fn check_writable(table: &TableName, entry: &TableEntry) -> Result<(), Error> {
    match entry.properties.contains_key(EXTERNAL_PROPERTY) {
        true => Err(Error::ReadOnlyTable { name: table.to_string() }),
        false => Ok(()),
    }
}

/// A table as the protocol says it.
pub(crate) fn describe(table: &TableName, entry: &TableEntry, info: &TableInfo) -> api::Table {
    let partition = |field: &forebay_types::PartitionField| {
        let mut map = serde_json::Map::new();
        map.insert("name".to_owned(), field.column.clone().into());
        map.insert("transform".to_owned(), field.transform.to_string().into());
        map
    };
    let time = chrono::DateTime::<chrono::Utc>::from_timestamp_millis(info.last_updated_ms).unwrap_or_default();
    let mut properties = info.properties.clone();
    // Ours, not the user's: how Arrow types were stored.
    properties.remove(forebay_lake::TYPES_PROPERTY);
    properties.remove(forebay_lake::CASTS_PROPERTY);
    api::Table {
        id: info.uuid.clone(),
        namespace: table.namespace().to_owned(),
        name: table.name().to_owned(),
        kind: kind(entry).to_owned(),
        fields: info.fields.iter().map(field).collect(),
        partitions: info.partition_by.iter().map(partition).collect(),
        sort_order: info.sort_by.iter().map(ToString::to_string).collect(),
        records: info.records,
        size: info.file_bytes,
        snapshots: info.snapshots as u64,
        metadata_location: info.metadata_location.clone(),
        current_snapshot_id: info.snapshot_id,
        current_schema_id: info.schema_id,
        last_updated_at: time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        properties,
        comment: info.comment.clone(),
    }
}

fn field(field: &forebay_lake::FieldInfo) -> api::Field {
    api::Field {
        id: field.id,
        name: field.name.clone(),
        required: field.required,
        kind: field.type_name.clone(),
        doc: field.doc.clone(),
    }
}
