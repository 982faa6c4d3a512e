//! Tables whose files are not the lake's: put on a branch as they are, and only read.
//!
//! ```text
//! metadata of another engine   the entry names that file; nothing is written
//! Parquet files                metadata of ours names them (`lake::register`); the entry says where they are
//! ```
//!
//! What they are is fixed in the commit: newer metadata, or more files, come by registering again with `overwrite`.

use std::path::Path;

use forebay_catalog::TableEntry;
use forebay_types::TableName;
use serde_json::json;

use crate::api;
use crate::error::Error;
use crate::imports::{as_job, put};
use crate::service::Session;
use crate::tables::{self, EXTERNAL_PROPERTY, EXTERNAL_ROOTS_PROPERTY};

/// What an external table is made of.
pub(crate) enum Outside {
    /// An Iceberg metadata file.
    Metadata(String),
    /// Files, folders and globs of Parquet files.
    Parquet(Vec<String>),
}

impl Outside {
    /// From the parts of a request.
    pub(crate) fn of(metadata_uri: Option<String>, search_patterns: Vec<String>) -> Result<Self, Error> {
        match (metadata_uri, search_patterns.is_empty()) {
            (Some(uri), true) => Ok(Self::Metadata(uri)),
            (None, false) => Ok(Self::Parquet(search_patterns)),
            (None, true) => Err(Error::BadRequest { why: "it names neither a metadata file nor Parquet files".to_owned() }),
            (Some(_), false) => Err(Error::BadRequest { why: "it names a metadata file and Parquet files".to_owned() }),
        }
    }
}

/// Puts an external table on a branch.
pub(crate) fn create(
    session: &Session<'_>,
    table: &TableName,
    outside: &Outside,
    branch: &str,
    overwrite: bool,
) -> Result<api::Table, api::Error> {
    as_job(session, "external-table-create", branch, |job| {
        let (name, head) = session.branch(branch)?;
        let tree = session.catalog().tree(&head.hash).map_err(|error| api::Error::of(&error))?;
        if !overwrite && tree.tables.contains_key(table) {
            return Err(Error::TableExists { name: table.to_string(), branch: branch.to_owned() }.into());
        }
        let mut entry = match outside {
            Outside::Metadata(uri) => of_metadata(session, uri)?,
            Outside::Parquet(patterns) => of_parquet(session, table, patterns)?,
        };
        entry.properties.insert(EXTERNAL_PROPERTY.to_owned(), "true".to_owned());
        let info = session.service.table_info(&entry.metadata_location)?;
        put(session, job, &name, &head.hash, table, entry.clone(), format!("Register the table `{table}`"))?;
        Ok(tables::describe(table, &entry, &info))
    })
}

fn of_metadata(session: &Session<'_>, uri: &str) -> Result<TableEntry, api::Error> {
    let info = session.service.table_info(uri)?;
    for location in [&info.metadata_location, &info.location] {
        check_outside(session, location)?;
    }
    Ok(TableEntry::new(info.metadata_location.clone()))
}

fn of_parquet(session: &Session<'_>, table: &TableName, patterns: &[String]) -> Result<TableEntry, api::Error> {
    let location = format!("{}/{}/{}-{}", session.lake.tables_root, table.namespace(), table.name(), uuid::Uuid::new_v4());
    let work = async {
        let mut files = Vec::new();
        let mut roots = Vec::new();
        for pattern in patterns {
            files.extend(forebay_lake::sources(pattern).await?);
            roots.push(forebay_lake::search_root(pattern)?);
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok((files, roots))
    };
    let found: Result<_, forebay_lake::Error> = session.service.runtime().block_on(work);
    let (files, roots) = found.map_err(|error| api::Error::of(&error))?;
    files.iter().try_for_each(|file| check_outside(session, &file.path))?;
    let made = session.service.runtime().block_on(forebay_lake::register(&location, &files));
    let mut entry = TableEntry::new(made.map_err(|error| api::Error::of(&error))?);
    entry.properties.insert(EXTERNAL_ROOTS_PROPERTY.to_owned(), json!(roots).to_string());
    Ok(entry)
}

/// Files of the lake itself come and go with its commits.
fn check_outside(session: &Session<'_>, location: &str) -> Result<(), Error> {
    let root = session.lake.tables_root.trim_start_matches("file://");
    match Path::new(location).starts_with(root) {
        true => Err(Error::NotExternal { location: location.to_owned() }),
        false => Ok(()),
    }
}
