//! The lake as the REST protocol sees it: one request in, one answer out. Blocks; any number of threads may call it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_catalog::{Catalog, Changes, CommitInfo, Ref, RefKind};
use forebay_lake::{Foreign, Rules};
use forebay_types::{BranchName, CommitHash, RefSpec};
use serde_json::{Value, json};

use super::error::Error;
use super::route::{Endpoint, endpoints};
use super::{namespaces, tables};
use crate::api::Actor;
use crate::limits::{REST_ATTEMPTS_MAX, REST_CLIENT_NAME_CHARS_MAX, REST_TABLES_KEPT_MAX};

/// Property of a commit made over REST: what the client calls itself (its `User-Agent`).
const CLIENT_PROPERTY: &str = "forebay.client";

/// An open lake, served to other engines.
pub(crate) struct Site {
    pub(crate) catalog: Catalog,
    /// Folder of table folders, as a path or URI.
    pub(crate) tables_root: String,
    /// Author of the commits.
    pub(crate) author: Actor,
    pub(crate) runtime: tokio::runtime::Handle,
    /// Metadata files that were read; they never change.
    pub(crate) loaded: Mutex<HashMap<String, Arc<Foreign>>>,
}

/// What is asked, after its address was read.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) at: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) body: Vec<u8>,
    /// What the client calls itself.
    pub(crate) client: String,
}

/// What is answered. An empty body is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(body: &Value) -> Self {
        Self { status: 200, body: body.to_string() }
    }

    pub(crate) fn nothing() -> Self {
        Self { status: 204, body: String::new() }
    }

    /// The same to a HEAD: what is there, is there.
    pub(crate) fn without_body(self) -> Self {
        Self { status: if self.status == 200 { 204 } else { self.status }, body: String::new() }
    }
}

/// What a write comes to, given the head of its branch.
pub(crate) enum Step {
    /// It was done before.
    Done(Answer),
    /// To be put upon that head.
    Commit(Box<Next>),
}

/// A commit to be made.
#[derive(Default)]
pub(crate) struct Next {
    pub(crate) changes: Changes,
    pub(crate) message: String,
    pub(crate) answer: Option<Answer>,
    /// Metadata files made for it. If it is not made, they go.
    pub(crate) written: Vec<String>,
}

/// A ref of the site, as it was when the request came.
pub(crate) struct View<'a> {
    pub(crate) site: &'a Site,
    pub(crate) found: Ref,
    pub(crate) at: &'a str,
    client: &'a str,
}

impl Site {
    /// Answers a request that was let in.
    pub(crate) fn answer(&self, call: &Call) -> Result<Answer, Error> {
        // A name that no ref can have is no ref.
        let spec: RefSpec = call.at.parse().map_err(|_| unknown(&call.at))?;
        let view = View { site: self, found: self.catalog.resolve(&spec)?, at: &call.at, client: &call.client };
        let body = || parse(&call.body);
        match &call.endpoint {
            Endpoint::Config => Ok(view.config()),
            Endpoint::Token => Err(Error::bad("a token is not asked for here")),
            Endpoint::Namespaces { parent } => namespaces::list(&view, parent.as_deref()),
            Endpoint::CreateNamespace => namespaces::create(&view, &body()?),
            Endpoint::Namespace(name) => namespaces::get(&view, name),
            Endpoint::DropNamespace(name) => namespaces::delete(&view, name),
            Endpoint::NamespaceProperties(name) => namespaces::change(&view, name, &body()?),
            Endpoint::Tables(namespace) => tables::list(&view, namespace),
            Endpoint::CreateTable(namespace) => tables::create(&view, namespace, &body()?),
            Endpoint::Register(namespace) => tables::register(&view, namespace, &body()?),
            Endpoint::Table(table) => tables::load(&view, table),
            Endpoint::CommitTable(table) => tables::commit(&view, table, &body()?),
            Endpoint::DropTable(table) => tables::delete(&view, table),
            Endpoint::Metrics(table) => tables::load(&view, table).map(|_| Answer::nothing()),
            Endpoint::Rename => tables::rename(&view, &body()?),
            Endpoint::Transaction => tables::commit_several(&view, &body()?),
            Endpoint::Views => Err(Error::NoEndpoint { method: "a view".to_owned(), path: "(there are none)".to_owned() }),
        }
    }

    /// A table's metadata.
    pub(crate) fn load(&self, metadata_location: &str) -> Result<Arc<Foreign>, Error> {
        let known = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).get(metadata_location).cloned();
        if let Some(table) = known {
            return Ok(table);
        }
        let table = Arc::new(self.runtime.block_on(Foreign::load(metadata_location))?);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.len() >= REST_TABLES_KEPT_MAX {
            loaded.clear();
        }
        loaded.insert(metadata_location.to_owned(), Arc::clone(&table));
        Ok(table)
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules::new(&self.tables_root, chrono::Utc::now().timestamp_millis())
    }
}

impl<'a> View<'a> {
    /// A ref, for tests.
    #[cfg(test)]
    pub(crate) fn of(site: &'a Site, found: Ref, at: &'a str) -> Self {
        Self { site, found, at, client: "" }
    }

    /// Neither a prefix nor another address: what clients append stays below the ref.
    fn config(&self) -> Answer {
        let writable = self.found.kind == RefKind::Branch;
        Answer::json(&json!({ "defaults": {}, "overrides": {}, "endpoints": endpoints(writable) }))
    }

    /// The commit that is read.
    pub(crate) fn head(&self) -> &CommitHash {
        &self.found.hash
    }

    /// Makes one commit on the branch. `decide` makes it of the branch's head; if another writer moves the tables it is about
    /// meanwhile, it is asked again with the new head. Other tables may move as they like.
    pub(crate) fn land(&self, mut decide: impl FnMut(&CommitHash) -> Result<Step, Error>) -> Result<Answer, Error> {
        let branch = self.branch()?;
        let mut head = self.found.hash.clone();
        for _ in 0..REST_ATTEMPTS_MAX {
            let next = match decide(&head)? {
                Step::Done(answer) => return Ok(answer),
                Step::Commit(next) => *next,
            };
            let error = match self.site.catalog.commit(&branch, &head, &next.changes, &self.info(next.message), None) {
                Ok(hash) => {
                    tracing::info!(branch = %branch, commit = %hash, client = self.client, "committed over REST");
                    return Ok(next.answer.unwrap_or_else(Answer::nothing));
                }
                Err(error) => error,
            };
            let is_conflict = matches!(error, forebay_catalog::Error::Conflict { .. });
            if is_conflict || is_refusal(&error) {
                // Nobody knows of them. What cannot be removed is found by `forebay gc`.
                next.written.iter().for_each(|file| drop(std::fs::remove_file(file)));
            }
            if !is_conflict {
                return Err(error.into());
            }
            head = self.site.catalog.resolve(&RefSpec::Name(branch.clone()))?.hash;
        }
        Err(Error::Busy { branch: branch.to_string() })
    }

    /// The branch, if it may be written to. The catalog looks again when it commits; this is before anything is written.
    pub(crate) fn branch(&self) -> Result<BranchName, Error> {
        if self.found.kind != RefKind::Branch {
            return Err(Error::ReadOnly { at: self.at.to_owned() });
        }
        let branch: BranchName = self.found.name.parse()?;
        let action = format!("commit to `{branch}`");
        if let Some(job) = self.found.failed_job.clone() {
            return Err(forebay_catalog::Error::Tainted { action, branch_or_commit: branch.to_string(), job }.into());
        }
        if self.found.protected {
            return Err(forebay_catalog::Error::ProtectedBranch { action, branch }.into());
        }
        Ok(branch)
    }

    fn info(&self, message: String) -> CommitInfo {
        let client: String = self.client.chars().filter(|c| !c.is_control()).take(REST_CLIENT_NAME_CHARS_MAX).collect();
        let properties = if client.is_empty() { BTreeMap::new() } else { [(CLIENT_PROPERTY.to_owned(), client)].into() };
        CommitInfo {
            author_name: self.site.author.name.clone(),
            author_email: self.site.author.email.clone(),
            message,
            properties,
        }
    }
}

/// Errors after which the commit surely was not made.
fn is_refusal(error: &forebay_catalog::Error) -> bool {
    use forebay_catalog::Error;
    matches!(
        error,
        Error::Tainted { .. }
            | Error::ProtectedBranch { .. }
            | Error::NotABranch { .. }
            | Error::UnknownRef { .. }
            | Error::Exists { .. }
            | Error::Unknown { .. }
    )
}

fn unknown(at: &str) -> Error {
    forebay_catalog::Error::UnknownRef { name: at.to_owned(), nearest: Vec::new() }.into()
}

fn parse(body: &[u8]) -> Result<Value, Error> {
    let value: Value = serde_json::from_slice(body).map_err(|error| Error::bad(format!("its body is not JSON: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(Error::bad("its body is not a JSON object")) }
}

/// A field of a body that must be text.
pub(crate) fn text<'v>(body: &'v Value, key: &str) -> Result<&'v str, Error> {
    body.get(key).and_then(Value::as_str).ok_or_else(|| Error::bad(format!("its body has no text `{key}`")))
}

/// A namespace in a body: a list of its levels, of which there is one.
pub(crate) fn level(value: Option<&Value>) -> Result<&str, Error> {
    match value.and_then(Value::as_array).map(Vec::as_slice) {
        Some([one]) => one.as_str().ok_or_else(|| Error::bad("a namespace is a list of texts")),
        Some(_) => Err(Error::bad("namespaces have one level here")),
        None => Err(Error::bad("its body has no `namespace`")),
    }
}
