//! Commits over the wire: the history of a ref, undoing what is in it, and removing what is in none.

use forebay_catalog::{Commit, Replace};
use forebay_types::{TableName, parse_time};

use crate::api::{self, Actor, CommitWords, Op, Properties};
use crate::connection::Answer;
use crate::error::Error;
use crate::filter::Filter;
use crate::maintenance;
use crate::refs::wire;
use crate::service::{Session, rows};
use crate::tables;

fn told(error: forebay_catalog::Error) -> api::Error {
    api::Error::of(&error)
}

/// Answers `commit.*`, `table.revert` and `gc`.
pub(crate) fn answer(session: &Session<'_>, op: Op) -> Result<Answer, api::Error> {
    match op {
        Op::CommitList { at, message, author_name, author_email, properties, authored_date, since, until, parent, limit } => {
            let filter = CommitFilter {
                message: Filter::new(message.as_deref())?,
                author_name: Filter::new(author_name.as_deref())?,
                author_email: Filter::new(author_email.as_deref())?,
                properties,
                authored_date: instant(authored_date)?,
                since: instant(since)?,
                until: instant(until)?,
                parent,
            };
            log(session, &at, &filter, rows(limit))
        }
        Op::Gc { grace_seconds, dry_run } => Answer::of(maintenance::collect(session, grace_seconds, dry_run)?),
        Op::CommitRevert { branch, at, job, words } => revert(session, &branch, at, job, words),
        Op::TableRevert { names, namespace, source, into, replace, words } => {
            let tables = names.iter().map(|name| Session::table_name(name, namespace.as_deref()));
            let tables: std::collections::BTreeSet<TableName> = tables.collect::<Result<_, _>>()?;
            let replace = if replace { Replace::Allowed } else { Replace::Refused };
            revert_tables(session, &tables, &source, &into, replace, words)
        }
        other => Err(Error::BadRequest { why: format!("nothing answers {other:?}") }.into()),
    }
}

/// A time as refs write it.
fn instant(text: Option<String>) -> Result<Option<i64>, api::Error> {
    let Some(text) = text else { return Ok(None) };
    match parse_time(&text) {
        Some(millis) => Ok(Some(millis)),
        None => Err(Error::BadValue {
            what: "the time",
            value: text,
            why: "times are `2026-11-01`, `2026-11-01T09:30` or `2026-11-01T09:30:05.250+01:00`; without a zone they are UTC"
                .to_owned(),
        }
        .into()),
    }
}

struct CommitFilter {
    message: Filter,
    author_name: Filter,
    author_email: Filter,
    properties: Properties,
    authored_date: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
    parent: Option<String>,
}

impl CommitFilter {
    fn passes(&self, commit: &Commit) -> bool {
        self.message.passes(&commit.message)
            && self.author_name.passes(&commit.author_name)
            && self.author_email.passes(&commit.author_email)
            && self.properties.iter().all(|(key, value)| commit.properties.get(key) == Some(value))
            && self.parent.as_ref().is_none_or(|hash| commit.parents.iter().any(|parent| parent.as_str().starts_with(hash)))
            && self.fits_time(commit)
    }

    fn fits_time(&self, commit: &Commit) -> bool {
        if self.authored_date.is_none() && self.since.is_none() && self.until.is_none() {
            return true;
        }
        let Some(time) = parse_time(&commit.authored_at) else { return false };
        self.authored_date.is_none_or(|at| time == at)
            && self.since.is_none_or(|since| time >= since)
            && self.until.is_none_or(|until| time <= until)
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
        failed_job: commit.tainted,
    }
}

fn revert(
    session: &Session<'_>,
    branch: &str,
    at: Option<String>,
    job: Option<String>,
    words: CommitWords,
) -> Result<Answer, api::Error> {
    let (branch, _) = session.branch(branch)?;
    let catalog = session.catalog();
    match (at, job) {
        (Some(at), None) => {
            let found = session.resolve(&at)?;
            let subject = catalog.get_commit(&found.hash).map_err(told)?.message;
            let subject = subject.lines().next().unwrap_or_default();
            let info = session.info(words, format!("Revert \"{subject}\""));
            catalog.revert_commit(&branch, &found.hash, &info).map_err(told)?;
        }
        (None, Some(job)) => {
            // The beginning of an id will do while the job's record is there; the catalog knows whole ids only.
            let job = session.service.jobs.get(&job).map_or(job, |found| found.id);
            let info = session.info(words, format!("Revert the job {job}"));
            catalog.revert_job(&branch, &job, &info).map_err(told)?;
        }
        _ => return Err(Error::BadRequest { why: "a revert is of a `ref` or of a `job`".to_owned() }.into()),
    }
    Answer::of(wire(session.branch(branch.as_str())?.1))
}

fn revert_tables(
    session: &Session<'_>,
    tables: &std::collections::BTreeSet<TableName>,
    source: &str,
    into: &str,
    replace: Replace,
    words: CommitWords,
) -> Result<Answer, api::Error> {
    let (into, _) = session.branch(into)?;
    let from = session.resolve(source)?;
    let tree = session.catalog().tree(&from.hash).map_err(told)?;
    if let Some(table) = tables.iter().find(|table| !tree.tables.contains_key(table)) {
        return Err(tables::missing(table, source, &tree).into());
    }
    let names: Vec<String> = tables.iter().map(|table| format!("`{table}`")).collect();
    let hash = &from.hash.as_str()[..12];
    let info = session.info(words, format!("Revert {} to `{}@{hash}`", names.join(", "), from.name));
    session.catalog().revert_tables(&into, tables, &from.hash, replace, &info).map_err(told)?;
    Answer::of(wire(session.branch(into.as_str())?.1))
}
