//! Undoing commits, runs and tables, each by one new commit; history stays as it is.
//!
//! ```text
//! commit, run:  what led from the commit's first parent to the commit, backwards, on the branch as it is now
//! tables:       their entries of another ref, put on the branch
//! ```
//!
//! Invariant: a commit that changed several tables is undone whole or not at all. A revert of single tables is
//! refused where it would leave, or bring, half of such a commit: no run could have produced that state.

use crate::catalog::{Catalog, CommitInfo, Next, Protected, refuse_tainted, short};
use crate::change::{Changes, Difference, TableEntry};
use crate::error::{Error, Result};
use crate::history::{self, Log, meeting};
use crate::merge;
use crate::object::{Commit, TreeObject};
use forebay_types::{BranchName, CommitHash, TableName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Property of a commit: the job that made it.
pub const JOB_PROPERTY: &str = "forebay.job";

/// Property of a revert: hashes of the commits it undoes, by commas.
pub const REVERTS_PROPERTY: &str = "forebay.reverts";

/// Whether a revert of tables may replace a table that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replace {
    /// It is refused.
    #[default]
    Refused,
    /// It may.
    Allowed,
}

impl Catalog {
    /// Undoes a commit of the branch's history by a new commit. Of a merge it undoes all that the merge brought.
    pub fn revert_commit(&self, branch: &BranchName, commit: &CommitHash, info: &CommitInfo) -> Result<CommitHash> {
        let what = format!("the commit `{}`", short(commit));
        self.undo(branch, &what, info, |_| Ok(vec![self.objects.commit(commit)?]))
    }

    /// Undoes everything a job committed to the branch, by one new commit.
    pub fn revert_job(&self, branch: &BranchName, job: &str, info: &CommitInfo) -> Result<CommitHash> {
        let what = format!("the job `{job}`");
        self.undo(branch, &what, info, |head| {
            let mut found = Vec::new();
            for commit in Log::new(Arc::clone(&self.objects), &head.hash) {
                let commit = commit?;
                if commit.properties.get(JOB_PROPERTY).is_some_and(|of| of == job) {
                    found.push(Arc::new(commit));
                }
            }
            Ok(found)
        })
    }

    /// Undoes commits, of which the newest come first, in one.
    fn undo(
        &self,
        branch: &BranchName,
        what: &str,
        info: &CommitInfo,
        choose: impl Fn(&Commit) -> Result<Vec<Arc<Commit>>>,
    ) -> Result<CommitHash> {
        let action = format!("revert on `{branch}`");
        self.moving(branch, &action, Protected::Refused, |head, now| {
            refuse_tainted(&action, branch.as_str(), head)?;
            let commits = choose(head)?;
            let mut there = !commits.is_empty();
            for commit in &commits {
                there = there && history::contains(&self.objects, &head.hash, &commit.hash)?;
            }
            if !there {
                return Err(Error::NotInHistory { what: what.to_owned(), branch: branch.clone() });
            }
            let before = self.objects.tree(&head.tree)?;
            let nothing = || Error::NothingToRevert { what: what.to_owned(), branch: branch.clone() };
            if commits.len() > 1 && self.is_undone(&commits, &before)? {
                return Err(nothing());
            }
            let mut tree = Arc::clone(&before);
            for commit in &commits {
                let outcome = merge::undo(&self.objects, &*self.parent_tree(commit)?, &*self.objects.tree(&commit.tree)?, &tree)?;
                let conflict = |tables| Error::RevertConflict { what: what.to_owned(), branch: branch.clone(), tables };
                tree = Arc::new(outcome.map_err(conflict)?);
            }
            if tree == before {
                return Err(nothing());
            }
            let mut info = info.clone();
            let hashes: Vec<&str> = commits.iter().map(|commit| commit.hash.as_str()).collect();
            info.properties.insert(REVERTS_PROPERTY.to_owned(), hashes.join(","));
            Ok(Next::Commit(self.write_commit(&tree, &[head], &info, None, now)?))
        })
    }

    /// Whether every table is as it was before the oldest of these commits that changed it.
    fn is_undone(&self, commits: &[Arc<Commit>], head: &TreeObject) -> Result<bool> {
        let mut before: BTreeMap<TableName, Option<TableEntry>> = BTreeMap::new();
        for commit in commits {
            let changed = self.objects.differences(&*self.parent_tree(commit)?, &*self.objects.tree(&commit.tree)?)?;
            before.extend(changed.into_iter().map(|difference| (difference.table, difference.before)));
        }
        for (table, entry) in &before {
            if self.objects.entry(head, table)? != *entry {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The tree a commit was made upon.
    fn parent_tree(&self, commit: &Commit) -> Result<Arc<TreeObject>> {
        match commit.parents.first() {
            Some(parent) => self.objects.tree(&self.objects.commit(parent)?.tree),
            None => Ok(Arc::default()),
        }
    }

    /// Puts tables on `branch` as they are at `source`, in one commit. Tables that are so already stay; if all are,
    /// there is nothing to revert.
    pub fn revert_tables(
        &self,
        branch: &BranchName,
        tables: &BTreeSet<TableName>,
        source: &CommitHash,
        replace: Replace,
        info: &CommitInfo,
    ) -> Result<CommitHash> {
        // Files of its tables must not go while they are named anew.
        self.pin(source)?;
        let source_tree = self.objects.tree(&self.objects.commit(source)?.tree)?;
        let mut wanted = BTreeMap::new();
        for table in tables {
            let entry = self.objects.entry(&source_tree, table)?;
            let unknown = || Error::Unknown { what: "table", name: table.to_string(), at: short(source), nearest: Vec::new() };
            wanted.insert(table, entry.ok_or_else(unknown)?);
        }
        let action = format!("revert on `{branch}`");
        self.moving(branch, &action, Protected::Refused, |head, now| {
            refuse_tainted(&action, branch.as_str(), head)?;
            let head_tree = self.objects.tree(&head.tree)?;
            let put = self.to_put(branch, &wanted, &head_tree, replace)?;
            let meeting = meeting(&self.objects, source, &head.hash)?;
            if let Some(commit) = &meeting.tainted {
                refuse_tainted(&action, &short(&commit.hash), commit)?;
            }
            self.refuse_halves(branch, tables, &meeting.apart, [&head_tree, &source_tree])?;
            let changes = Changes { put, ..Changes::default() };
            let tree = crate::apply::apply(&self.objects, branch, &head_tree, &head_tree, &changes)?;
            Ok(Next::Commit(self.write_commit(&tree, &[head], info, None, now)?))
        })
    }

    /// The entries that differ from those on the branch.
    fn to_put(
        &self,
        branch: &BranchName,
        wanted: &BTreeMap<&TableName, TableEntry>,
        head: &TreeObject,
        replace: Replace,
    ) -> Result<BTreeMap<TableName, TableEntry>> {
        let mut put = BTreeMap::new();
        let mut replaced = Vec::new();
        for (table, entry) in wanted {
            let now = self.objects.entry(head, table)?;
            if now.as_ref() == Some(entry) {
                continue;
            }
            if now.is_some() {
                replaced.push(TableName::clone(table));
            }
            put.insert(TableName::clone(table), entry.clone());
        }
        if put.is_empty() {
            let names: Vec<String> = wanted.keys().map(|table| format!("`{table}`")).collect();
            return Err(Error::NothingToRevert { what: names.join(", "), branch: branch.clone() });
        }
        if replace == Replace::Refused && !replaced.is_empty() {
            return Err(Error::RevertReplaces { tables: replaced, branch: branch.clone() });
        }
        Ok(put)
    }

    /// Refuses if a commit that only one of the two histories has, and that changed one of `tables`, changed others
    /// too in which branch and source differ: afterwards half of it would be there.
    fn refuse_halves(
        &self,
        branch: &BranchName,
        tables: &BTreeSet<TableName>,
        apart: &[Arc<Commit>],
        [head, source]: [&TreeObject; 2],
    ) -> Result<()> {
        let differing: BTreeSet<TableName> =
            self.objects.differences(head, source)?.into_iter().map(|difference| difference.table).collect();
        // A merge brings commits together; what it changed, they did.
        for commit in apart.iter().filter(|commit| commit.parents.len() == 1) {
            let changed: Vec<Difference> =
                self.objects.differences(&*self.parent_tree(commit)?, &*self.objects.tree(&commit.tree)?)?;
            if !changed.iter().any(|difference| tables.contains(&difference.table)) {
                continue;
            }
            let names = changed.into_iter().map(|difference| difference.table);
            let others: Vec<TableName> = names.filter(|table| !tables.contains(table) && differing.contains(table)).collect();
            if !others.is_empty() {
                let job = commit.properties.get(JOB_PROPERTY).map(|job| format!("the job `{job}`"));
                let commit = job.unwrap_or_else(|| format!("the commit `{}`", short(&commit.hash)));
                return Err(Error::PartialRevert {
                    tables: tables.iter().cloned().collect(),
                    branch: branch.clone(),
                    commit,
                    others,
                });
            }
        }
        Ok(())
    }
}
