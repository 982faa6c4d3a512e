//! Branches, tags and commits over the wire.

use forebay_catalog::{Commit, Ref, RefKind};
use forebay_types::BranchName;
use serde_json::json;

use crate::api::{self, Actor, Op, Properties};
use crate::connection::Answer;
use crate::error::Error;
use crate::filter::Filter;
use crate::service::{Session, rows};

/// A ref as the protocol says it.
pub(crate) fn wire(found: Ref) -> api::Ref {
    let kind = match found.kind {
        RefKind::Branch => "BRANCH",
        RefKind::Tag => "TAG",
        RefKind::Detached => "DETACHED",
    };
    api::Ref { name: found.name, hash: found.hash.to_string(), kind: kind.to_owned(), failed_job: found.failed_job }
}

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

fn name(text: &str) -> Result<BranchName, api::Error> {
    Ok(text.parse().map_err(Error::from)?)
}

/// Branches that pass a filter.
fn list(refs: Vec<Ref>, filter: Option<&str>, limit: Option<u64>) -> Result<Answer, api::Error> {
    let filter = Filter::new(filter)?;
    let refs = refs.into_iter().filter(|found| filter.passes(&found.name));
    Answer::of(refs.take(rows(limit)).map(wire).collect::<Vec<_>>())
}

/// A ref of that kind, by name.
fn get(session: &Session<'_>, text: &str, kind: RefKind) -> Result<Ref, api::Error> {
    let spec = forebay_types::RefSpec::Name(name(text)?);
    match session.catalog().resolve(&spec).map_err(told)? {
        found if found.kind == kind => Ok(found),
        found if kind == RefKind::Branch => Err(Error::NotABranch { at: found.name }.into()),
        found => Err(Error::NotATag { at: found.name }.into()),
    }
}

/// Whether an error says that there is no such ref.
fn is_unknown(error: &forebay_catalog::Error) -> bool {
    matches!(error, forebay_catalog::Error::UnknownRef { .. })
}

/// With `if_exists`, what was not there counts as not deleted.
fn deleted(result: forebay_catalog::Result<()>, if_exists: bool) -> Result<Answer, api::Error> {
    match result {
        Ok(()) => Answer::of(json!({ "deleted": true })),
        Err(error) if if_exists && is_unknown(&error) => Answer::of(json!({ "deleted": false })),
        Err(error) => Err(told(error)),
    }
}

/// Answers `branch.*` and `commit.*`.
pub(crate) fn answer(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    let catalog = session.catalog();
    match op {
        Op::BranchList { name, limit } => list(catalog.branches().map_err(told)?, name.as_deref(), limit),
        Op::BranchGet { name } => Answer::of(wire(get(session, &name, RefKind::Branch)?)),
        Op::BranchCreate { name: new, from, if_not_exists } => {
            let new = name(&new)?;
            let from = session.resolve(&from)?;
            match catalog.create_branch(&new, &from.hash) {
                Err(forebay_catalog::Error::Exists { existing: "branch", .. }) if if_not_exists => {
                    Answer::of(wire(get(session, new.as_str(), RefKind::Branch)?))
                }
                created => Answer::of(wire(created.map_err(told)?)),
            }
        }
        Op::BranchDelete { name: old, if_exists } => deleted(catalog.delete_branch(&name(&old)?), if_exists),
        Op::BranchRename { name: old, new_name } => {
            Answer::of(wire(catalog.rename_branch(&name(&old)?, &name(&new_name)?).map_err(told)?))
        }
        Op::BranchMerge { source, into, words } => {
            let from = session.resolve(&source)?;
            let (into, _) = session.branch(&into)?;
            let info = session.info(words, format!("Merge `{source}` into `{into}`"));
            catalog.merge(&from.hash, &into, &info).map_err(told)?;
            Answer::of(wire(get(session, into.as_str(), RefKind::Branch)?))
        }
        Op::BranchDiff { a, b, namespace } => diff(session, &a, &b, namespace.as_deref()),
        Op::CommitList { at, message, author_name, author_email, properties, limit } => {
            let filter = CommitFilter {
                message: Filter::new(message.as_deref())?,
                author_name: Filter::new(author_name.as_deref())?,
                author_email: Filter::new(author_email.as_deref())?,
                properties,
            };
            log(session, &at, &filter, rows(limit))
        }
        other => Err(Error::BadRequest { why: format!("nothing answers {other:?}") }.into()),
    }
}

fn diff(session: &Session<'_>, a: &str, b: &str, namespace: Option<&str>) -> Result<Answer, api::Error> {
    let (a, b) = (session.resolve(a)?.hash, session.resolve(b)?.hash);
    let diff = session.catalog().diff(&a, &b).map_err(told)?;
    let names = |tables: std::collections::BTreeSet<forebay_types::TableName>| {
        let tables = tables.into_iter().filter(|table| namespace.is_none_or(|namespace| table.namespace() == namespace));
        tables.map(|table| table.to_string()).collect::<Vec<_>>()
    };
    Answer::of(json!({ "added": names(diff.added), "removed": names(diff.removed), "changed": names(diff.changed) }))
}

struct CommitFilter {
    message: Filter,
    author_name: Filter,
    author_email: Filter,
    properties: Properties,
}

impl CommitFilter {
    fn passes(&self, commit: &Commit) -> bool {
        self.message.passes(&commit.message)
            && self.author_name.passes(&commit.author_name)
            && self.author_email.passes(&commit.author_email)
            && self.properties.iter().all(|(key, value)| commit.properties.get(key) == Some(value))
    }
}

fn log(session: &Session<'_>, at: &str, filter: &CommitFilter, limit: usize) -> Result<Answer, api::Error> {
    let from = session.resolve(at)?;
    let mut commits = Vec::new();
    for commit in session.catalog().log(&from.hash) {
        if commits.len() == limit {
            break;
        }
        let commit = commit.map_err(told)?;
        if filter.passes(&commit) {
            commits.push(wire_commit(commit));
        }
    }
    Answer::of(commits)
}

fn wire_commit(commit: Commit) -> api::Commit {
    api::Commit {
        hash: commit.hash.to_string(),
        message: commit.message,
        author: Actor { name: commit.author_name, email: commit.author_email },
        authored_date: commit.authored_at,
        parent_hashes: commit.parents.iter().map(ToString::to_string).collect(),
        properties: commit.properties,
    }
}

/// Answers `tag.*`.
pub(crate) fn answer_tag(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    let catalog = session.catalog();
    match op {
        Op::TagList { name, limit } => list(catalog.tags().map_err(told)?, name.as_deref(), limit),
        Op::TagGet { name } => Answer::of(wire(get(session, &name, RefKind::Tag)?)),
        Op::TagCreate { name: new, from, if_not_exists } => {
            let new = name(&new)?;
            let from = session.resolve(&from)?;
            match catalog.create_tag(&new, &from.hash) {
                Err(forebay_catalog::Error::Exists { existing: "tag", .. }) if if_not_exists => {
                    Answer::of(wire(get(session, new.as_str(), RefKind::Tag)?))
                }
                created => Answer::of(wire(created.map_err(told)?)),
            }
        }
        Op::TagDelete { name: old, if_exists } => deleted(catalog.delete_tag(&name(&old)?), if_exists),
        Op::TagRename { name: old, new_name } => {
            Answer::of(wire(catalog.rename_tag(&name(&old)?, &name(&new_name)?).map_err(told)?))
        }
        other => Err(Error::BadRequest { why: format!("nothing answers {other:?}") }.into()),
    }
}
