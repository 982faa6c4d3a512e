//! Namespaces over REST. They have one level.

use std::collections::BTreeMap;

use forebay_catalog::Changes;
use forebay_types::TableName;
use serde_json::{Value, json};

use super::error::Error;
use super::route::LEVELS;
use super::site::{Answer, Next, Step, View, level};
use crate::limits::REST_PROPERTIES_MAX;

/// `GET namespaces`: all of them, or those in a namespace, which are none.
pub(crate) fn list(view: &View<'_>, parent: Option<&str>) -> Result<Answer, Error> {
    if let Some(parent) = parent {
        tables(view, parent)?;
        return Ok(Answer::json(&json!({ "namespaces": [] })));
    }
    let names = view.site.catalog.namespaces(view.head())?;
    Ok(Answer::json(&json!({ "namespaces": names.iter().map(|name| [name]).collect::<Vec<_>>() })))
}

/// `GET` and `HEAD namespaces/{namespace}`.
pub(crate) fn get(view: &View<'_>, name: &str) -> Result<Answer, Error> {
    tables(view, name)?;
    let properties = view.site.catalog.namespace_properties(view.head(), name)?;
    Ok(Answer::json(&json!({ "namespace": [name], "properties": properties })))
}

/// `POST namespaces`.
pub(crate) fn create(view: &View<'_>, body: &Value) -> Result<Answer, Error> {
    let name = level(body.get("namespace"))?.to_owned();
    TableName::new(&name, "t")?;
    let properties = texts(body, "properties")?;
    view.land(|_| {
        let set = properties.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        let namespace_properties = [(name.clone(), set)].into();
        let changes = Changes { create_namespaces: [name.clone()].into(), namespace_properties, ..Changes::default() };
        let answer = Answer::json(&json!({ "namespace": [&name], "properties": properties }));
        let message = format!("Create the namespace `{name}`");
        Ok(Step::Commit(Box::new(Next { changes, message, answer: Some(answer), written: Vec::new() })))
    })
}

/// `DELETE namespaces/{namespace}`.
pub(crate) fn delete(view: &View<'_>, name: &str) -> Result<Answer, Error> {
    view.branch()?;
    tables(view, name)?;
    view.land(|_| {
        let changes = Changes { delete_namespaces: [name.to_owned()].into(), ..Changes::default() };
        let message = format!("Delete the namespace `{name}`");
        Ok(Step::Commit(Box::new(Next { changes, message, ..Next::default() })))
    })
}

/// `POST namespaces/{namespace}/properties`: sets some, takes some away.
pub(crate) fn change(view: &View<'_>, name: &str, body: &Value) -> Result<Answer, Error> {
    view.branch()?;
    tables(view, name)?;
    let updates = texts(body, "updates")?;
    let removals: Vec<String> = match body.get("removals").filter(|removals| !removals.is_null()) {
        Some(removals) => {
            serde_json::from_value(removals.clone()).map_err(|_| Error::bad("its `removals` is not a list of texts"))?
        }
        None => Vec::new(),
    };
    if let Some(both) = removals.iter().find(|key| updates.contains_key(*key)) {
        return Err(Error::bad(format!("it both sets and removes `{both}`")));
    }
    view.land(|head| {
        tables_at(view, name, head)?;
        let now = view.site.catalog.namespace_properties(head, name)?.unwrap_or_default();
        let (removed, missing): (Vec<&String>, Vec<&String>) = removals.iter().partition(|key| now.contains_key(*key));
        let answer =
            Answer::json(&json!({ "updated": updates.keys().collect::<Vec<_>>(), "removed": removed, "missing": missing }));
        let set = updates.iter().map(|(key, value)| (key.clone(), Some(value.clone())));
        let edits: BTreeMap<String, Option<String>> = set.chain(removed.iter().map(|key| ((*key).clone(), None))).collect();
        if edits.is_empty() {
            return Ok(Step::Done(answer));
        }
        let changes = Changes { namespace_properties: [(name.to_owned(), edits)].into(), ..Changes::default() };
        let message = format!("Change the properties of the namespace `{name}`");
        Ok(Step::Commit(Box::new(Next { changes, message, answer: Some(answer), written: Vec::new() })))
    })
}

/// An object of texts in a body, bounded in number; absent is empty.
fn texts(body: &Value, key: &str) -> Result<BTreeMap<String, String>, Error> {
    let Some(value) = body.get(key).filter(|value| !value.is_null()) else { return Ok(BTreeMap::new()) };
    let found: BTreeMap<String, String> =
        serde_json::from_value(value.clone()).map_err(|_| Error::bad(format!("its `{key}` is not an object of texts")))?;
    if found.len() > REST_PROPERTIES_MAX {
        return Err(Error::bad(format!("a namespace has at most {REST_PROPERTIES_MAX} properties")));
    }
    Ok(found)
}

/// The tables of a namespace, which must be there, at the commit that is read.
pub(crate) fn tables(view: &View<'_>, name: &str) -> Result<Vec<String>, Error> {
    tables_at(view, name, view.head())
}

/// The tables of a namespace, which must be there, at a commit.
pub(crate) fn tables_at(view: &View<'_>, name: &str, at: &forebay_types::CommitHash) -> Result<Vec<String>, Error> {
    match view.site.catalog.tables_of(at, name)? {
        Some(tables) => Ok(tables.into_iter().collect()),
        None => {
            let name = name.replace(LEVELS, ".");
            let at = view.at.to_owned();
            Err(forebay_catalog::Error::Unknown { what: "namespace", name, at, nearest: Vec::new() }.into())
        }
    }
}
