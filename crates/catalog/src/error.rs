//! What can go wrong in the catalog, and how it is told to a person.

use crate::limits::LISTED_TABLES_MAX;
use crate::store::StoreError;
use forebay_types::{BranchName, Coded, CommitHash, Fault, InvalidName, OPEN_FILES_HINT, Report, TableName, is_out_of_files};
use std::fmt;

/// Result of a catalog operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Everything the catalog refuses or fails at. After any of them the lake is as it was, unless the variant says more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No branch, tag or commit of that name.
    #[error("could not find the ref `{name}`")]
    UnknownRef {
        /// What was asked for.
        name: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// A hash prefix that several commits share.
    #[error("could not tell which commit `{prefix}` means")]
    AmbiguousHash {
        /// What was asked for.
        prefix: String,
        /// The commits.
        candidates: Vec<CommitHash>,
    },
    /// A branch, tag or namespace of that name exists.
    #[error("could not create the {what} `{name}`: a {existing} of that name exists")]
    Exists {
        /// `branch`, `tag` or `namespace`.
        what: &'static str,
        /// Its name.
        name: String,
        /// What has the name now.
        existing: &'static str,
    },
    /// Tables that the change is based on are different on the branch now.
    #[error("could not commit to `{branch}`: {} changed there meanwhile", count(tables))]
    Conflict {
        /// The branch.
        branch: BranchName,
        /// Which tables, and how.
        tables: Vec<TableConflict>,
    },
    /// Both sides of a merge changed a table.
    #[error("could not merge into `{into}`: {} changed on both sides", count(tables))]
    MergeConflict {
        /// The target.
        into: BranchName,
        /// Which tables, and how.
        tables: Vec<TableConflict>,
    },
    /// Results of a failed run would get into a branch.
    #[error("could not {action}: `{branch_or_commit}` holds results of the failed job `{job}`")]
    Tainted {
        /// ``merge into `main` ``, ``commit to `x` ``.
        action: String,
        /// Where the results are.
        branch_or_commit: String,
        /// The job.
        job: String,
    },
    /// `main` and `default` stay.
    #[error("could not {verb} the {what} `{name}`: every lake has it")]
    Protected {
        /// `delete` or `rename`.
        verb: &'static str,
        /// `branch` or `namespace`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Only branches can be written to.
    #[error("could not write to `{name}`: it is a tag")]
    NotABranch {
        /// The tag.
        name: BranchName,
    },
    /// An object or ref that is not what its name promises.
    #[error("could not read `{key}` of the catalog: {why}")]
    Corrupt {
        /// Key in the store.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// An object that something names is not there.
    #[error("could not find `{key}`, which the catalog needs")]
    Missing {
        /// Key in the store.
        key: String,
    },
    /// The folder is not a catalog, or one of a version we do not know.
    #[error("could not open the catalog at `{place}`: {why}")]
    Format {
        /// Where.
        place: String,
        /// What is wrong.
        why: String,
    },
    /// Reading or writing failed. A commit during which this happens is on the branch whole, or not at all.
    #[error(transparent)]
    Storage(StoreError),
    /// A namespace with tables in it cannot be deleted.
    #[error("could not delete the namespace `{namespace}`: it holds {}", list(tables.iter()))]
    NamespaceNotEmpty {
        /// The namespace.
        namespace: String,
        /// What is in it.
        tables: Vec<TableName>,
    },
    /// A change deletes a table or namespace that is not there.
    #[error("could not find the {what} `{name}` on `{at}`")]
    Unknown {
        /// `table` or `namespace`.
        what: &'static str,
        /// Its name.
        name: String,
        /// The branch or commit.
        at: String,
        /// Names that look like it.
        nearest: Vec<String>,
    },
    /// A namespace cannot have this name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A walk back that leads to no commit.
    #[error("could not find the commit `{name}`: {why}")]
    NoSuchCommit {
        /// The ref as asked for.
        name: String,
        /// Where the walk ended.
        why: String,
    },
    /// A protected branch is moved by merges only, and stays.
    #[error("could not {action}: `{branch}` is protected")]
    ProtectedBranch {
        /// ``commit to `main` ``, ``delete the branch `main` ``.
        action: String,
        /// The branch.
        branch: BranchName,
    },
    /// Tables of the commits to undo are not as these left them.
    #[error("could not revert {what} on `{branch}`: {} changed since", count(tables))]
    RevertConflict {
        /// ``the commit `…` ``, ``the job `…` ``.
        what: String,
        /// The branch.
        branch: BranchName,
        /// Which tables, and how.
        tables: Vec<TableConflict>,
    },
    /// Reverting these tables alone would leave half of a commit that changed several.
    #[error("could not revert {} on `{branch}`: a commit that changed more tables would be there by half", list(tables.iter()))]
    PartialRevert {
        /// The tables asked for.
        tables: Vec<TableName>,
        /// The branch.
        branch: BranchName,
        /// Its commit: as its job, or its hash.
        commit: String,
        /// Tables it changed that are not among `tables`.
        others: Vec<TableName>,
    },
    /// Everything is as it would be afterwards.
    #[error("could not revert {what} on `{branch}`: it would change nothing")]
    NothingToRevert {
        /// Commit, job or tables.
        what: String,
        /// The branch.
        branch: BranchName,
    },
    /// A table revert would replace a table, and was not told to.
    #[error("could not revert {} on `{branch}`: it would be replaced", list(tables.iter()))]
    RevertReplaces {
        /// The tables.
        tables: Vec<TableName>,
        /// The branch.
        branch: BranchName,
    },
    /// What is to be undone never was on the branch.
    #[error("could not find {what} in the history of `{branch}`")]
    NotInHistory {
        /// Commit or job.
        what: String,
        /// The branch.
        branch: BranchName,
    },
    /// The store lost its answer each time, and could not be read either.
    #[error("could not find out whether `{name}` moved")]
    UnknownOutcome {
        /// Branch or tag.
        name: BranchName,
    },
    /// Garbage collection is not for this kind of store.
    #[error("could not collect garbage in `{place}`")]
    NoCollection {
        /// Where.
        place: String,
    },
    /// An object store that ignores the conditions of writes.
    #[error("could not keep a catalog in `{place}`: the store does not write conditionally")]
    NoConditionalPut {
        /// Where.
        place: String,
    },
    /// Other writers were faster every time.
    #[error("could not move `{name}`: other writers were first {attempts} times in a row")]
    Contention {
        /// Branch or tag.
        name: BranchName,
        /// How often we tried.
        attempts: u32,
    },
}

/// A table that stands against a commit, a merge or a revert.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableConflict {
    /// The table.
    pub table: TableName,
    /// What happened to it.
    pub reason: ConflictReason,
}

/// What happened to a table in conflict: first on the branch, then in the change or the merged source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictReason {
    /// Both made a table of this name.
    CreatedOnBoth,
    /// Both changed it.
    ChangedOnBoth,
    /// Deleted on the branch, changed by the other.
    DeletedAndChanged,
    /// Changed on the branch, deleted by the other.
    ChangedAndDeleted,
    /// Its namespace was deleted on one side.
    NamespaceDeleted,
    /// The histories meet at several commits, and which one counts would decide the result.
    SeveralBases,
    /// Created on the branch meanwhile.
    Created,
    /// Changed on the branch meanwhile.
    Changed,
    /// Deleted on the branch meanwhile.
    Deleted,
    /// Created again on the branch after what is to be undone.
    CreatedSince,
    /// Changed on the branch after what is to be undone.
    ChangedSince,
    /// Deleted on the branch after what is to be undone.
    DeletedSince,
}

impl fmt::Display for ConflictReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CreatedOnBoth => "created on both sides",
            Self::ChangedOnBoth => "changed on both sides",
            Self::DeletedAndChanged => "deleted on the target, changed on the source",
            Self::ChangedAndDeleted => "changed on the target, deleted on the source",
            Self::NamespaceDeleted => "its namespace was deleted on one side",
            Self::SeveralBases => "the two histories were merged crosswise and disagree about it",
            Self::Created => "created on the branch meanwhile",
            Self::Changed => "changed on the branch meanwhile",
            Self::Deleted => "deleted on the branch meanwhile",
            Self::CreatedSince => "created again since",
            Self::ChangedSince => "changed since",
            Self::DeletedSince => "deleted since",
        })
    }
}

impl fmt::Display for TableConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.table, self.reason)
    }
}

impl Error {
    /// Another writer changed the same tables: after looking at their change, the same request may succeed.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::MergeConflict { .. } | Self::RevertConflict { .. })
    }

    fn code(&self) -> &'static str {
        match self {
            Self::UnknownRef { .. } => "CAT0001",
            Self::AmbiguousHash { .. } => "CAT0002",
            Self::Exists { .. } => "CAT0003",
            Self::Conflict { .. } => "CAT0004",
            Self::MergeConflict { .. } => "CAT0005",
            Self::Tainted { .. } => "CAT0006",
            Self::Protected { .. } => "CAT0007",
            Self::NotABranch { .. } => "CAT0008",
            Self::Corrupt { .. } => "CAT0009",
            Self::Missing { .. } => "CAT0010",
            Self::Format { .. } => "CAT0011",
            Self::Storage(error) if error.is_full() => "CAT0013",
            Self::Storage(_) => "CAT0012",
            Self::NamespaceNotEmpty { .. } => "CAT0014",
            Self::Unknown { .. } => "CAT0015",
            Self::Contention { .. } => "CAT0016",
            Self::InvalidName(_) => "CAT0017",
            Self::NoSuchCommit { .. } => "CAT0018",
            Self::ProtectedBranch { .. } => "CAT0019",
            Self::RevertConflict { .. } => "CAT0020",
            Self::PartialRevert { .. } => "CAT0021",
            Self::NothingToRevert { .. } => "CAT0022",
            Self::RevertReplaces { .. } => "CAT0023",
            Self::NotInHistory { .. } => "CAT0024",
            Self::UnknownOutcome { .. } => "CAT0025",
            Self::NoCollection { .. } => "CAT0026",
            Self::NoConditionalPut { .. } => "CAT0027",
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Corrupt { .. } | Self::Missing { .. } | Self::Storage(_) => Fault::Platform,
            Self::Contention { .. } | Self::UnknownOutcome { .. } => Fault::Platform,
            Self::Format { .. } | Self::InvalidName(_) | Self::NoConditionalPut { .. } => Fault::Usage,
            _ => Fault::Request,
        }
    }

    fn causes(&self) -> Vec<String> {
        match self {
            Self::Conflict { tables, .. } | Self::MergeConflict { tables, .. } | Self::RevertConflict { tables, .. } => {
                listed(tables)
            }
            Self::PartialRevert { commit, others, .. } => vec![format!("{commit} also changed {}", list(others.iter()))],
            Self::AmbiguousHash { candidates, .. } => candidates.iter().map(|hash| format!("`@{hash}` fits")).collect(),
            Self::Storage(error) => vec![error.source.to_string()],
            _ => Vec::new(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownRef { nearest, .. } if nearest.is_empty() => "list the branches with `forebay branch list`".into(),
            Self::Unknown { nearest, .. } if nearest.is_empty() => return None,
            Self::UnknownRef { nearest, .. } | Self::Unknown { nearest, .. } => {
                format!("did you mean {}?", list(nearest.iter()).replace(" and ", " or "))
            }
            Self::AmbiguousHash { .. } => "write more digits of the hash".into(),
            Self::Exists { .. } => "choose another name, or delete the old one first".into(),
            Self::Conflict { .. } => "run again: it will start from the new state of the branch".into(),
            Self::MergeConflict { .. } => "redo the work on a new branch made from the target, then merge that".into(),
            Self::Tainted { .. } => "fix the cause and run again; the failed run's branch is there to look at only".into(),
            Self::NotABranch { name } => format!("make a branch from it: `forebay branch create NAME --from {name}`"),
            Self::Corrupt { .. } | Self::Missing { .. } => {
                "restore the file from a backup or a copy of the lake; other commits are not affected".into()
            }
            Self::Format { .. } => "check FOREBAY_LAKE, and that this version of forebay made the lake".into(),
            Self::Storage(error) if error.is_full() => "free some space and try again; nothing was lost".into(),
            Self::Storage(error) if is_out_of_files(&error.source) => OPEN_FILES_HINT.into(),
            Self::Storage(error) if error.is_remote() => {
                "check that the object store can be reached and lets us read, write and list there; then try again".into()
            }
            Self::Storage(_) => "check the path, its permissions and the disk".into(),
            Self::NamespaceNotEmpty { .. } => "delete its tables first".into(),
            Self::Contention { .. } => "try again".into(),
            Self::InvalidName(_) => "use letters, digits and `_`".into(),
            Self::ProtectedBranch { branch, .. } => {
                format!("work on a branch of it and merge that, or let it go with `forebay branch unprotect {branch}`")
            }
            Self::RevertConflict { .. } => "revert what came after it first, or make a branch from the commit before it".into(),
            Self::PartialRevert { .. } => "revert the whole commit with `forebay revert`, or name all of its tables".into(),
            Self::RevertReplaces { .. } => "say `--replace` if that is meant".into(),
            Self::NotInHistory { branch, .. } => format!("list what is there with `forebay commit {branch}`"),
            Self::UnknownOutcome { name } => format!("look at `{name}` before you try again: it moved, or it did not"),
            Self::NoConditionalPut { .. } => {
                "use a store with conditional writes (`If-Match`, `If-None-Match`), or a newer version of this one".into()
            }
            Self::NoCollection { .. } => "leave the objects: they are small".into(),
            Self::Protected { .. } | Self::NoSuchCommit { .. } | Self::NothingToRevert { .. } => return None,
        })
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        if error.is_unconditional() {
            return Self::NoConditionalPut { place: error.place };
        }
        if error.is_foreign() {
            return Self::Corrupt { key: error.place, why: error.source.to_string() };
        }
        Self::Storage(error)
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        let mut report = Report::new(self.code(), self.fault(), self.to_string());
        report.causes = self.causes();
        report.hint = self.hint();
        report
    }
}

fn listed(tables: &[TableConflict]) -> Vec<String> {
    let mut lines: Vec<String> = tables.iter().take(LISTED_TABLES_MAX).map(ToString::to_string).collect();
    if tables.len() > LISTED_TABLES_MAX {
        lines.push(format!("and {} more", tables.len() - LISTED_TABLES_MAX));
    }
    lines
}

fn count(tables: &[TableConflict]) -> String {
    match tables {
        [only] => format!("the table `{}`", only.table),
        _ => format!("{} tables", tables.len()),
    }
}

/// `` `a`, `b` and `c` ``, at most some of them.
fn list<T: fmt::Display>(names: impl ExactSizeIterator<Item = T>) -> String {
    let total = names.len();
    let mut shown: Vec<String> = names.take(LISTED_TABLES_MAX).map(|name| format!("`{name}`")).collect();
    if total > shown.len() {
        shown.push(format!("{} more", total - shown.len()));
    }
    match shown.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nothing".to_owned(),
    }
}
