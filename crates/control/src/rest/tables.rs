//! Tables over REST. What becomes of a table's metadata is decided by `lake::foreign`; here it gets into a commit.

use std::sync::Arc;

use forebay_catalog::{Changes, TableEntry};
use forebay_lake::{Change, Creation, Foreign};
use forebay_types::{CommitHash, TableName};
use serde_json::{Value, json};

use super::error::Error;
use super::namespaces;
use super::route::Named;
use super::site::{Answer, Next, Step, View, level, text};
use crate::error::{Error as ControlError, near};
use crate::limits::REST_TABLES_AT_ONCE_MAX;

/// `GET namespaces/{namespace}/tables`.
pub(crate) fn list(view: &View<'_>, namespace: &str) -> Result<Answer, Error> {
    let identifier = |name: &String| json!({ "namespace": [namespace], "name": name });
    let identifiers: Vec<Value> = namespaces::tables(view, namespace)?.iter().map(identifier).collect();
    Ok(Answer::json(&json!({ "identifiers": identifiers })))
}

/// `GET` and `HEAD …/tables/{table}`.
pub(crate) fn load(view: &View<'_>, table: &Named) -> Result<Answer, Error> {
    let table = existing_name(view, table)?;
    let entry = entry(view, &table, view.head())?;
    Ok(loaded(&*view.site.load(&entry.metadata_location)?, Some(&entry.metadata_location)))
}

/// A table as clients load it. They read the metadata beside its location, and never the file there.
fn loaded(table: &Foreign, metadata_location: Option<&str>) -> Answer {
    let place = metadata_location.map(|location| format!(r#""metadata-location":{},"#, json!(location))).unwrap_or_default();
    Answer { status: 200, body: format!(r#"{{{place}"metadata":{},"config":{{}}}}"#, table.json()) }
}

/// `POST …/tables`: makes a table, or only its metadata (`stage-create`), to be made by a later commit.
pub(crate) fn create(view: &View<'_>, namespace: &str, body: &Value) -> Result<Answer, Error> {
    view.branch()?;
    let creation = Creation::parse(body).map_err(Error::refused(namespace))?;
    let table = TableName::new(namespace, &creation.name)?;
    let folder =
        || format!("{}/{namespace}/{}-{}", view.site.tables_root.trim_end_matches('/'), table.name(), uuid::Uuid::new_v4());
    let location = creation.location.clone().unwrap_or_else(folder);
    let staged = creation.staged;
    let made = creation.build(&location, &view.site.rules()).map_err(Error::refused(&table))?;
    if staged {
        free_at(view, &table, view.head())?;
        made.prepare()?;
        return Ok(loaded(&made, None));
    }
    view.land(|head| {
        free_at(view, &table, head)?;
        let location = made.store()?;
        Ok(put(format!("Create the table `{table}`"), &table, &location, loaded(&made, Some(&location)), vec![location.clone()]))
    })
}

/// `POST …/register`: a table by a metadata file that is in the lake.
pub(crate) fn register(view: &View<'_>, namespace: &str, body: &Value) -> Result<Answer, Error> {
    view.branch()?;
    let table = TableName::new(namespace, text(body, "name")?)?;
    let overwrite = body.get("overwrite").and_then(Value::as_bool).unwrap_or(false);
    let location = text(body, "metadata-location")?;
    let rules = view.site.rules();
    rules.check_location(location).map_err(Error::refused(&table))?;
    let made = view.site.runtime.block_on(Foreign::load(location)).map_err(|error| Error::bad(coded(&error)))?;
    made.admit(&rules).map_err(Error::refused(&table))?;
    let location = made.file().unwrap_or(location).to_owned();
    view.land(|head| {
        if !overwrite {
            free_at(view, &table, head)?;
        }
        namespaces::tables_at(view, namespace, head)?;
        Ok(put(format!("Register the table `{table}`"), &table, &location, loaded(&made, Some(&location)), Vec::new()))
    })
}

fn coded(error: &forebay_lake::Error) -> String {
    let report = forebay_types::Coded::report(error);
    std::iter::once(report.message).chain(report.causes).collect::<Vec<_>>().join(": ")
}

/// A commit that puts a table there.
fn put(message: String, table: &TableName, location: &str, answer: Answer, written: Vec<String>) -> Step {
    let changes = Changes { put: [(table.clone(), TableEntry::new(location))].into(), ..Changes::default() };
    Step::Commit(Box::new(Next { changes, message, answer: Some(answer), written }))
}

/// `DELETE …/tables/{table}`. Files stay, whatever the client says of purging: older commits and other branches have them.
pub(crate) fn delete(view: &View<'_>, table: &Named) -> Result<Answer, Error> {
    view.branch()?;
    let table = existing_name(view, table)?;
    view.land(|head| {
        entry(view, &table, head)?;
        let changes = Changes { delete: [table.clone()].into(), ..Changes::default() };
        Ok(Step::Commit(Box::new(Next { changes, message: format!("Delete the table `{table}`"), ..Next::default() })))
    })
}

/// `POST tables/rename`.
pub(crate) fn rename(view: &View<'_>, body: &Value) -> Result<Answer, Error> {
    view.branch()?;
    let (source, destination) = (identifier(body.get("source"))?, identifier(body.get("destination"))?);
    let source = existing_name(view, &source)?;
    let destination = TableName::new(&destination.namespace, &destination.name)?;
    view.land(|head| {
        let entry = entry(view, &source, head)?;
        free_at(view, &destination, head)?;
        let changes =
            Changes { delete: [source.clone()].into(), put: [(destination.clone(), entry)].into(), ..Changes::default() };
        let message = format!("Rename the table `{source}` to `{destination}`");
        Ok(Step::Commit(Box::new(Next { changes, message, ..Next::default() })))
    })
}

fn identifier(value: Option<&Value>) -> Result<Named, Error> {
    let value = value.ok_or_else(|| Error::bad("it names no table"))?;
    Ok(Named { namespace: level(value.get("namespace"))?.to_owned(), name: text(value, "name")?.to_owned() })
}

/// `POST …/tables/{table}`: one table.
pub(crate) fn commit(view: &View<'_>, table: &Named, body: &Value) -> Result<Answer, Error> {
    view.branch()?;
    let table = TableName::new(&table.namespace, &table.name)?;
    let change = Change::parse(body).map_err(Error::refused(&table))?;
    commit_all(view, &[(table, change)])
}

/// `POST transactions/commit`: any number of tables, in one commit of the catalog.
pub(crate) fn commit_several(view: &View<'_>, body: &Value) -> Result<Answer, Error> {
    view.branch()?;
    let changes = body.get("table-changes").and_then(Value::as_array).ok_or_else(|| Error::bad("it has no `table-changes`"))?;
    if changes.len() > REST_TABLES_AT_ONCE_MAX {
        return Err(Error::bad(format!("a transaction has at most {REST_TABLES_AT_ONCE_MAX} tables")));
    }
    let mut parsed: Vec<(TableName, Change)> = Vec::new();
    for change in changes {
        let named = identifier(change.get("identifier"))?;
        let table = TableName::new(&named.namespace, &named.name)?;
        if parsed.iter().any(|(known, _)| *known == table) {
            return Err(Error::bad(format!("it changes `{table}` twice")));
        }
        let change = Change::parse(change).map_err(Error::refused(&table))?;
        parsed.push((table, change));
    }
    commit_all(view, &parsed).map(|_| Answer::nothing())
}

/// A table of a commit, as it is at the head.
struct Now {
    entry: Option<TableEntry>,
    base: Option<Arc<Foreign>>,
}

/// Commits changes of tables. Either all are made or none; all requirements are checked before a file is written.
fn commit_all(view: &View<'_>, changes: &[(TableName, Change)]) -> Result<Answer, Error> {
    view.land(|head| {
        let now = changes.iter().map(|(table, change)| now(view, table, change, head)).collect::<Result<Vec<_>, _>>()?;
        if was_done(changes, &now) {
            return Ok(Step::Done(last_answer(&now)));
        }
        let rules = view.site.rules();
        let mut made = Vec::new();
        for ((table, change), now) in changes.iter().zip(&now) {
            if change.creates() && now.base.is_some() {
                return Err(exists(view, table));
            }
            made.push(change.clone().apply(now.base.as_deref(), &rules).map_err(Error::refused(table))?);
        }
        let mut next = Next { message: message(changes), ..Next::default() };
        for (((table, _), now), made) in changes.iter().zip(now).zip(&made) {
            let location = made.store()?;
            next.written.push(location.clone());
            next.answer = Some(loaded(made, Some(&location)));
            // What the catalog remembers of a table (files that were imported) stays.
            let entry = TableEntry { metadata_location: location, ..now.entry.unwrap_or_default() };
            next.changes.put.insert(table.clone(), entry);
        }
        Ok(Step::Commit(Box::new(next)))
    })
}

fn now(view: &View<'_>, table: &TableName, change: &Change, head: &CommitHash) -> Result<Now, Error> {
    if !change.creates() {
        let entry = entry(view, table, head)?;
        crate::tables::check_writable(table, &entry)?;
        let base = view.site.load(&entry.metadata_location)?;
        return Ok(Now { entry: Some(entry), base: Some(base) });
    }
    namespaces::tables_at(view, table.namespace(), head)?;
    let entry = view.site.catalog.entry(head, table)?;
    let base = entry.as_ref().map(|entry| view.site.load(&entry.metadata_location)).transpose()?;
    Ok(Now { entry, base })
}

/// Whether this very commit was made before, and its answer lost; or there is nothing to do. Parts of a commit cannot be there.
fn was_done(changes: &[(TableName, Change)], now: &[Now]) -> bool {
    let mut marked = changes.iter().zip(now).filter(|((_, change), _)| change.leaves_a_mark()).peekable();
    if marked.peek().is_none() {
        return changes.iter().all(|(_, change)| change.is_empty());
    }
    marked.all(|((_, change), now)| now.base.as_ref().is_some_and(|base| change.is_done(base)))
}

fn last_answer(now: &[Now]) -> Answer {
    let last = now.iter().rev().find_map(|now| Some((now.base.as_ref()?, now.entry.as_ref()?)));
    last.map_or_else(Answer::nothing, |(base, entry)| loaded(base, Some(&entry.metadata_location)))
}

/// The first line of the commit: `append to `default.t``.
fn message(changes: &[(TableName, Change)]) -> String {
    let part = |(table, change): &(TableName, Change)| format!("{} `{table}`", change.verb());
    let text = changes.iter().map(part).collect::<Vec<_>>().join(", ");
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

/// A name in a path; one that no table can have is the name of no table.
fn existing_name(view: &View<'_>, named: &Named) -> Result<TableName, Error> {
    namespaces::tables(view, &named.namespace)?;
    TableName::new(&named.namespace, &named.name).map_err(|_| missing(view, named, &[]))
}

/// A table that must be there.
fn entry(view: &View<'_>, table: &TableName, at: &CommitHash) -> Result<TableEntry, Error> {
    if let Some(entry) = view.site.catalog.entry(at, table)? {
        return Ok(entry);
    }
    let others = namespaces::tables_at(view, table.namespace(), at)?;
    Err(missing(view, &Named { namespace: table.namespace().to_owned(), name: table.name().to_owned() }, &others))
}

fn missing(view: &View<'_>, named: &Named, others: &[String]) -> Error {
    let near = near(&named.name, others.iter().map(String::as_str));
    ControlError::NoTable { name: format!("{}.{}", named.namespace, named.name), at: view.at.to_owned(), near }.into()
}

/// Refuses a name that is taken, and a namespace that is not there.
fn free_at(view: &View<'_>, table: &TableName, at: &CommitHash) -> Result<(), Error> {
    namespaces::tables_at(view, table.namespace(), at)?;
    if view.site.catalog.entry(at, table)?.is_some() { Err(exists(view, table)) } else { Ok(()) }
}

fn exists(view: &View<'_>, table: &TableName) -> Error {
    ControlError::TableExists { name: table.to_string(), branch: view.at.to_owned() }.into()
}
