//! Branches and tags over the wire.

use forebay_catalog::{FastForward, Ref, RefKind};
use forebay_types::BranchName;
use serde_json::json;

use crate::api::{self, CommitWords, Op};
use crate::connection::Answer;
use crate::diff;
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
    api::Ref {
        name: found.name,
        hash: found.hash.to_string(),
        kind: kind.to_owned(),
        failed_job: found.failed_job,
        protected: found.protected,
    }
}

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

fn name(text: &str) -> Result<BranchName, api::Error> {
    Ok(text.parse().map_err(Error::from)?)
}

/// Refs for the wire.
fn wires(refs: Vec<Ref>) -> Result<Answer, api::Error> {
    Answer::of(refs.into_iter().map(wire).collect::<Vec<_>>())
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

/// Answers `branch.*`.
pub(crate) fn answer(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    let catalog = session.catalog();
    match op {
        Op::BranchList { name, user, limit } => {
            let filter = Filter::new(name.as_deref())?;
            let zone = user.map(|user| format!("{user}."));
            let wanted = |name: &str| filter.passes(name) && zone.as_deref().is_none_or(|zone| name.starts_with(zone));
            wires(catalog.branches_where(&wanted, rows(limit)).map_err(told)?)
        }
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
        Op::BranchProtect { name: branch, protected } => {
            Answer::of(wire(catalog.protect_branch(&name(&branch)?, protected).map_err(told)?))
        }
        Op::BranchMerge { source, into, always_commit, words } => merge(session, &source, &into, always_commit, words),
        Op::BranchDiff { a, b, namespace, names_only } => diff::answer(session, [&a, &b], namespace.as_deref(), names_only),
        other => Err(Error::BadRequest { why: format!("nothing answers {other:?}") }.into()),
    }
}

fn merge(session: &Session<'_>, source: &str, into: &str, always_commit: bool, words: CommitWords) -> Result<Answer, api::Error> {
    let from = session.resolve(source)?;
    let (into, head) = session.branch(into)?;
    if from.hash == head.hash {
        return Err(Error::SameRef { a: source.to_owned(), b: into.to_string() }.into());
    }
    let fast_forward = if always_commit { FastForward::Never } else { FastForward::Allowed };
    let info = session.info(words, format!("Merge `{source}` into `{into}`"));
    session.catalog().merge(&from.hash, &into, &info, fast_forward).map_err(told)?;
    Answer::of(wire(get(session, into.as_str(), RefKind::Branch)?))
}

/// Answers `tag.*`.
pub(crate) fn answer_tag(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    let catalog = session.catalog();
    match op {
        Op::TagList { name, limit } => {
            let filter = Filter::new(name.as_deref())?;
            wires(catalog.tags_where(&|name| filter.passes(name), rows(limit)).map_err(told)?)
        }
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
