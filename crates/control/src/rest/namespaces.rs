//! Namespaces over REST. They have one level and, so far, no properties.

use forebay_catalog::Changes;
use forebay_types::TableName;
use serde_json::{Value, json};

use super::error::Error;
use super::route::LEVELS;
use super::site::{Answer, Next, Step, View, level};

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
    Ok(Answer::json(&json!({ "namespace": [name], "properties": {} })))
}

/// `POST namespaces`.
pub(crate) fn create(view: &View<'_>, body: &Value) -> Result<Answer, Error> {
    let name = level(body.get("namespace"))?.to_owned();
    TableName::new(&name, "t")?;
    if body.get("properties").and_then(Value::as_object).is_some_and(|properties| !properties.is_empty()) {
        return Err(Error::Unsupported { what: "a namespace has no properties" });
    }
    view.land(|_| {
        let changes = Changes { create_namespaces: [name.clone()].into(), ..Changes::default() };
        let answer = Answer::json(&json!({ "namespace": [&name], "properties": {} }));
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

/// `POST namespaces/{namespace}/properties`.
pub(crate) fn change(view: &View<'_>, name: &str, body: &Value) -> Result<Answer, Error> {
    tables(view, name)?;
    if body.get("updates").and_then(Value::as_object).is_some_and(|updates| !updates.is_empty()) {
        return Err(Error::Unsupported { what: "a namespace has no properties" });
    }
    let missing = body.get("removals").cloned().unwrap_or_else(|| json!([]));
    Ok(Answer::json(&json!({ "updated": [], "removed": [], "missing": missing })))
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
