//! Arguments of the lake's own objects: branches, tags, commits, namespaces, tables.

use std::collections::BTreeMap;

use clap::{Args, Subcommand, ValueEnum};

use super::tables::{TableApplyArgs, TableCreateArgs, TableExternalArgs, TablePlanArgs};

use super::{CheckoutArgs, key_value};

/// `branch …`
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// List branches
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  forebay branch ls\n  forebay branch ls '^ann\\.'\n  forebay branch ls --user '~' --limit 5"
    )]
    Ls {
        /// Only this branch, or the ones that match `^regex$`
        #[arg(conflicts_with = "name")]
        pattern: Option<String>,
        /// The same as the argument
        #[arg(short = 'n', long)]
        name: Option<String>,
        /// Only branches called `USER.…`; `~` is you
        #[arg(short = 'u', long)]
        user: Option<String>,
        /// Branches of everybody, which is what is listed anyway
        #[arg(short = 'a', long, hide = true)]
        all_zones: bool,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Create a branch; it shares all tables with the ref it starts at
    #[command(after_help = "Examples:\n  forebay branch create try-it\n  forebay branch create fix --from-ref main@1a2b3c")]
    Create {
        /// Name of the branch
        name: String,
        /// Ref to start at [default: the active branch]
        #[arg(long, value_name = "REF")]
        from_ref: Option<String>,
        /// Do nothing if it exists
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Remove a branch
    #[command(
        visible_alias = "delete",
        after_help = "Examples:\n  forebay branch rm try-it\n  forebay branch rm try-it --if-exists"
    )]
    Rm {
        /// Name of the branch
        name: String,
        /// Do nothing if it does not exist
        #[arg(long)]
        if_exists: bool,
    },
    /// Show where a branch is and list its tables
    #[command(after_help = "Examples:\n  forebay branch get main\n  forebay branch get main -n default")]
    Get {
        /// Name of the branch
        name: String,
        /// Only tables of this namespace
        #[arg(short = 'n', long)]
        namespace: Option<String>,
    },
    /// Make a branch the active one
    Checkout(CheckoutArgs),
    /// Show what differs between two refs: tables, their columns, rows and statistics
    #[command(after_help = "Examples:\n  forebay branch diff main try-it\n  forebay branch diff try-it --name-only\n  \
            forebay branch diff main~1 main\n\n\
            Only metadata is read. Smallest and largest values are bounds: long texts are cut, and rows that other\n\
            engines deleted may still count.")]
    Diff {
        /// Ref to compare from
        a: String,
        /// Ref to compare with [default: the active branch]
        b: Option<String>,
        /// Only tables of this namespace
        #[arg(short = 'n', long)]
        namespace: Option<String>,
        /// Only which tables; no metadata is read
        #[arg(long)]
        name_only: bool,
    },
    /// Merge a ref into a branch: all its tables at once
    #[command(
        after_help = "Examples:\n  forebay branch merge try-it\n  forebay branch merge try-it --into main --commit-message \"New delays\"\n\n\
            Where the branch is an ancestor of the ref it just moves there, without a commit that could hold a message."
    )]
    Merge {
        /// Ref whose changes to take
        source: String,
        /// Branch to merge into [default: the active branch]
        #[arg(long, value_name = "BRANCH")]
        into: Option<String>,
        /// First line of the commit message
        #[arg(short = 'm', long, value_name = "TEXT")]
        commit_message: Option<String>,
        /// Make a commit also where the branch could just move, which keeps message, body and properties
        #[arg(long, visible_alias = "no-ff")]
        no_fast_forward: bool,
        /// What to record with the commit.
        #[command(flatten)]
        words: Words,
    },
    /// Let only merges move a branch, and keep it from being removed or renamed
    #[command(after_help = "Examples:\n  forebay branch protect main")]
    Protect {
        /// Name of the branch
        name: String,
    },
    /// Let a protected branch go
    #[command(after_help = "Examples:\n  forebay branch unprotect main")]
    Unprotect {
        /// Name of the branch
        name: String,
    },
    /// Rename a branch
    #[command(after_help = "Examples:\n  forebay branch rename try-it delays")]
    Rename {
        /// Its name
        name: String,
        /// Its new name
        new_name: String,
    },
}

/// What a write records with its commit.
#[derive(Debug, Clone, Default, Args)]
pub struct Words {
    /// Rest of the commit message
    #[arg(long, value_name = "TEXT")]
    pub commit_body: Option<String>,
    /// Property of the commit; may be given many times
    #[arg(long = "commit-property", value_name = "NAME=VALUE", value_parser = key_value)]
    pub commit_properties: Vec<(String, String)>,
}

impl Words {
    /// The properties by name; of equal names the last wins.
    #[must_use]
    pub fn properties(&self) -> BTreeMap<String, String> {
        self.commit_properties.iter().cloned().collect()
    }
}

/// `tag …`
#[derive(Debug, Subcommand)]
pub enum TagCommand {
    /// List tags
    #[command(visible_alias = "list", after_help = "Examples:\n  forebay tag ls\n  forebay tag ls --name '^v1'")]
    Ls {
        /// Only this tag, or the ones that match `^regex$`
        #[arg(short = 'n', long)]
        name: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Show which commit a tag names
    #[command(after_help = "Examples:\n  forebay tag get v1")]
    Get {
        /// Name of the tag
        name: String,
    },
    /// Name a commit
    #[command(after_help = "Examples:\n  forebay tag create v1\n  forebay tag create v1 --from-ref main@1a2b3c")]
    Create {
        /// Name of the tag
        name: String,
        /// Ref whose commit to name [default: the active branch]
        #[arg(long, value_name = "REF")]
        from_ref: Option<String>,
        /// Do nothing if it exists
        #[arg(long)]
        if_not_exists: bool,
    },
    /// Remove a tag
    #[command(visible_alias = "delete", after_help = "Examples:\n  forebay tag rm v1")]
    Rm {
        /// Name of the tag
        name: String,
        /// Do nothing if it does not exist
        #[arg(long)]
        if_exists: bool,
    },
    /// Rename a tag
    #[command(after_help = "Examples:\n  forebay tag rename v1 v1.0")]
    Rename {
        /// Its name
        name: String,
        /// Its new name
        new_name: String,
    },
}

/// `commit`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay commit\n  forebay commit main -n 3 --format full\n  \
    forebay commit --author-name ann --property team=delays --message '^Run '\n  \
    forebay commit --since 2026-11-01 --until 2026-11-02T12:00+01:00\n\n\
    Text filters match the whole text, or are a regular expression if they begin with `^`.\n\
    Times without a zone are UTC, as the times shown.")]
pub struct CommitArgs {
    /// Ref whose history to show [default: the active branch]
    #[arg(value_name = "REF")]
    pub at: Option<String>,
    /// Only commits with this message
    #[arg(long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Only commits of this author
    #[arg(long, visible_alias = "author-username", value_name = "TEXT")]
    pub author_name: Option<String>,
    /// Only commits of the author with this mail address
    #[arg(long, value_name = "TEXT")]
    pub author_email: Option<String>,
    /// Only commits with this property; may be given many times
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = key_value)]
    pub properties: Vec<(String, String)>,
    /// Only commits of this time or later
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only commits of this time or earlier
    #[arg(long, value_name = "TIME")]
    pub until: Option<String>,
    /// Only commits made upon this one; a hash, or how it begins
    #[arg(long, value_name = "HASH")]
    pub parent: Option<String>,
    /// At most so many
    #[arg(short = 'n', long, visible_alias = "limit", value_name = "N", default_value_t = 10)]
    pub max_count: u64,
    /// How much of each commit to show
    #[arg(long, visible_alias = "pretty", value_enum, default_value_t = CommitFormat::Oneline)]
    pub format: CommitFormat,
}

/// `revert`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay revert main~1\n  forebay revert @1a2b3c4d -b fix\n  \
    forebay revert --job 0199e5 -m \"The feed was broken\"\n\n\
    What the commit did is undone by a new commit; history stays. Tables that changed since are conflicts.\n\
    Of a merge, all that it brought is undone.")]
pub struct RevertArgs {
    /// Commit to undo, as any ref
    #[arg(value_name = "REF", required_unless_present = "job", conflicts_with = "job")]
    pub at: Option<String>,
    /// Undo all that this job committed; its id, or how it begins
    #[arg(short = 'j', long, value_name = "ID")]
    pub job: Option<String>,
    /// Branch to undo it on [default: the active branch]
    #[arg(short = 'b', long)]
    pub branch: Option<String>,
    /// First line of the commit message
    #[arg(short = 'm', long, value_name = "TEXT")]
    pub commit_message: Option<String>,
    /// What to record with the commit.
    #[command(flatten)]
    pub words: Words,
}

/// `gc`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay gc --dry-run\n  forebay gc --grace 12h\n\n\
    What deleted branches, failed runs and aborted writes leave: commits that no branch or tag leads to, and files\n\
    that no table of any commit needs. Others may work meanwhile, as long as none takes longer than the grace time.")]
pub struct GcArgs {
    /// Keep what was written or needed within this time: 90s, 30m, 12h, 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
    pub grace: u64,
    /// Only count
    #[arg(long)]
    pub dry_run: bool,
}

/// Reads `90s`, `30m`, `12h`, `7d`.
fn seconds(text: &str) -> Result<u64, String> {
    let expected = || "expected a number and s, m, h or d, such as `12h`".to_owned();
    let (number, unit) = text.split_at(text.len() - text.chars().next_back().map_or(0, char::len_utf8));
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(expected)
}

/// How much of a commit is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum CommitFormat {
    /// Short hash, date, author, first line
    Oneline,
    /// Hash, author, first line
    Short,
    /// And the date
    Medium,
    /// And the whole message
    Full,
    /// And the parents and properties
    Fuller,
}

/// `namespace …`
#[derive(Debug, Subcommand)]
pub enum NamespaceCommand {
    /// List namespaces
    #[command(visible_alias = "list", after_help = "Examples:\n  forebay namespace ls\n  forebay namespace ls -r main")]
    Ls {
        /// Only this namespace, or the ones that match `^regex$`
        name: Option<String>,
        /// Ref to look at [default: the active branch]
        #[arg(short = 'r', long = "ref", value_name = "REF")]
        at: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Create a namespace
    #[command(after_help = "Examples:\n  forebay namespace create staging -b try-it")]
    Create {
        /// Its name
        name: String,
        /// Branch to create it on [default: the active branch]
        #[arg(short = 'b', long)]
        branch: Option<String>,
        /// Do nothing if it exists
        #[arg(long)]
        if_not_exists: bool,
        /// What to record with the commit.
        #[command(flatten)]
        words: Words,
    },
    /// Remove an empty namespace
    #[command(
        visible_alias = "delete",
        visible_alias = "drop",
        after_help = "Examples:\n  forebay namespace rm staging -b try-it"
    )]
    Rm {
        /// Its name
        name: String,
        /// Branch to remove it from [default: the active branch]
        #[arg(short = 'b', long)]
        branch: Option<String>,
        /// Do nothing if it does not exist
        #[arg(long)]
        if_exists: bool,
        /// What to record with the commit.
        #[command(flatten)]
        words: Words,
    },
}

/// `table …`
#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// List tables
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  forebay table ls\n  forebay table ls -n default -r main --name '^fl'"
    )]
    Ls {
        /// Only this table, or the ones that match `^regex$`
        #[arg(long)]
        name: Option<String>,
        /// Only tables of this namespace, or of the ones that match `^regex$`
        #[arg(short = 'n', long)]
        namespace: Option<String>,
        /// Ref to look at [default: the active branch]
        #[arg(short = 'r', long = "ref", value_name = "REF")]
        at: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Show a table's columns and what is known of it
    #[command(after_help = "Examples:\n  forebay table get flights\n  forebay table get default.flights -r main@1a2b3c")]
    Get {
        /// Name of the table, `name` or `namespace.name`
        name: String,
        /// Ref to look at [default: the active branch]
        #[arg(short = 'r', long = "ref", value_name = "REF")]
        at: Option<String>,
        /// Namespace, if the name has none [default: default]
        #[arg(short = 'n', long)]
        namespace: Option<String>,
    },
    /// Create an empty table with the columns of Parquet, CSV or JSON lines files
    Create(TableCreateArgs),
    /// Say which table would be created, as YAML that can be edited
    CreatePlan(TablePlanArgs),
    /// Create the table of a plan
    CreatePlanApply(TableApplyArgs),
    /// Register an Iceberg table of another engine, to be read
    CreateExternal(TableExternalArgs),
    /// Show what commits did to a table, newest first
    #[command(after_help = "Examples:\n  forebay table history flights\n  forebay table history flights -r v1 --limit 3 -o json")]
    History {
        /// Name of the table, `name` or `namespace.name`
        name: String,
        /// Ref to look back from [default: the active branch]
        #[arg(short = 'r', long = "ref", value_name = "REF")]
        at: Option<String>,
        /// Namespace, if the name has none [default: default]
        #[arg(short = 'n', long)]
        namespace: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 10)]
        limit: u64,
    },
    /// Append Parquet, CSV or JSON lines files to a table
    Import(TableImportArgs),
    /// Put tables back as they are at another ref
    #[command(after_help = "Examples:\n  forebay table revert flights --source-ref main~1 --replace\n  \
        forebay table revert flights delays -s v1 -i fix --replace\n\n\
        What one commit changed together is reverted together: name all of its tables, or use `forebay revert`.")]
    Revert(TableRevertArgs),
    /// Make few large files of the small ones of a table; its rows stay the same
    #[command(
        after_help = "Examples:\n  forebay table compact flights\n  forebay table compact flights -b try-it --small-files 16\n\n\
        Rows that other engines have deleted in files of their own are taken out of the data files for good."
    )]
    Compact {
        /// Name of the table, `name` or `namespace.name`
        name: String,
        /// Branch to change it on [default: the active branch]
        #[arg(short = 'b', long)]
        branch: Option<String>,
        /// Namespace, if the name has none [default: default]
        #[arg(short = 'n', long)]
        namespace: Option<String>,
        /// Files below so many megabytes are small
        #[arg(long, value_name = "MB", default_value_t = 96)]
        small_files: u64,
    },
    /// Let a table forget old snapshots
    #[command(
        after_help = "Examples:\n  forebay table expire flights\n  forebay table expire flights --older-than 30d --keep 10\n\n\
        The current snapshot always stays. Older commits of the branch still have all of theirs; files go with `forebay gc`\n\
        when no commit leads to them."
    )]
    Expire {
        /// Name of the table, `name` or `namespace.name`
        name: String,
        /// Branch to change it on [default: the active branch]
        #[arg(short = 'b', long)]
        branch: Option<String>,
        /// Namespace, if the name has none [default: default]
        #[arg(short = 'n', long)]
        namespace: Option<String>,
        /// Keep snapshots made within this time: 90s, 30m, 12h, 7d
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
        older_than: u64,
        /// Keep at least so many of the newest
        #[arg(long, value_name = "N", default_value_t = 1)]
        keep: u64,
    },
    /// Remove a table from a branch; older commits keep it
    #[command(visible_alias = "delete", visible_alias = "drop", after_help = "Examples:\n  forebay table rm flights -b try-it")]
    Rm {
        /// Name of the table, `name` or `namespace.name`
        name: String,
        /// Branch to remove it from [default: the active branch]
        #[arg(short = 'b', long)]
        branch: Option<String>,
        /// Namespace, if the name has none [default: default]
        #[arg(short = 'n', long)]
        namespace: Option<String>,
        /// Do nothing if it does not exist
        #[arg(long)]
        if_exists: bool,
        /// What to record with the commit.
        #[command(flatten)]
        words: Words,
    },
}

/// `table revert`
#[derive(Debug, Args)]
pub struct TableRevertArgs {
    /// Names of the tables, `name` or `namespace.name`
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Ref at which they are as they should be
    #[arg(short = 's', long, value_name = "REF")]
    pub source_ref: String,
    /// Branch to put them on [default: the active branch]
    #[arg(short = 'i', long, value_name = "BRANCH")]
    pub into_branch: Option<String>,
    /// Namespace, if a name has none [default: default]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Replace tables that are there
    #[arg(long)]
    pub replace: bool,
    /// What to record with the commit.
    #[command(flatten)]
    pub words: Words,
}

/// `table import`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay table import flights --search-uri data/flights.csv\n  \
    forebay table import trips --search-uri 'data/2023-*.parquet' -b try-it --continue-on-error\n\n\
    Files that were imported into the table before are left out. Folders called `name=value` give a column.")]
pub struct TableImportArgs {
    /// Name of the table, `name` or `namespace.name`
    pub name: String,
    /// Path, folder, glob or URI (file://, s3://, gs://, az://) of the files
    #[arg(long, visible_alias = "from", value_name = "FILES")]
    pub search_uri: String,
    /// Branch to import on [default: the active branch]
    #[arg(short = 'b', long)]
    pub branch: Option<String>,
    /// Namespace, if the name has none [default: default]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Leave out files that cannot be read, and say which
    #[arg(long)]
    pub continue_on_error: bool,
    /// Import files again that were imported before
    #[arg(long)]
    pub import_duplicate_files: bool,
    /// Leave out columns the table does not have
    #[arg(long)]
    pub best_effort: bool,
}
