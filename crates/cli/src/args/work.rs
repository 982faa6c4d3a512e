//! Arguments of what becomes a job: `run`, `plan`, `query`, and `job` itself.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::key_value;

/// What a plan and a run have in common.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  forebay plan\n  forebay plan -p examples/flights -r main --param min_delay=30\n  forebay plan -o json"
)]
pub struct PlanArgs {
    /// Folder of the project
    #[arg(short = 'p', long, value_name = "DIR", default_value = ".")]
    pub project_dir: PathBuf,
    /// Branch to run on (a plan or a dry run takes any ref) [default: the active branch]
    #[arg(short = 'r', long = "ref", value_name = "REF")]
    pub at: Option<String>,
    /// Namespace of tables named without one [default: the project's]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Value of a project parameter; may be given many times
    #[arg(long = "param", visible_alias = "parameter", value_name = "NAME=VALUE", value_parser = key_value)]
    pub parameters: Vec<(String, String)>,
    /// Treat doubts as errors: a failed expectation or a missing declared column fails the run (the default)
    #[arg(long, overrides_with = "no_strict")]
    strict: bool,
    /// Let the run succeed when an expectation fails or a declared column is missing
    #[arg(long, overrides_with = "strict")]
    no_strict: bool,
}

impl PlanArgs {
    /// Whether failed expectations fail the run.
    #[must_use]
    pub fn is_strict(&self) -> bool {
        !self.no_strict
    }
}

/// `run`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  forebay run\n  forebay run -p examples/flights -r try-it --param min_delay=30\n  \
    forebay run --dry-run --preview head\n  forebay run --memory 2GiB --cpus 2\n  forebay run --detach\n  forebay run -o json\n\n\
    Ctrl-C cancels the run; a second Ctrl-C leaves at once. A failed run leaves its branch as it was.")]
pub struct RunArgs {
    /// Project, ref, namespace, parameters, strictness.
    #[command(flatten)]
    pub plan: PlanArgs,
    /// Run every function, write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Show rows of each result
    #[arg(long, value_enum, default_value_t = Preview::Off, value_name = "ROWS")]
    pub preview: Preview,
    /// Start the run and return; follow it with `forebay job`
    #[arg(short = 'd', long)]
    pub detach: bool,
    /// Processors of each function [default: what it declares]
    #[arg(long, value_name = "N", value_parser = cpus)]
    pub cpus: Option<f64>,
    /// Memory limit of each model, for example 2GiB [default: what it declares]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
}

fn cpus(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.ok_or_else(|| "it must be a positive number of cores".to_owned())
}

fn memory(text: &str) -> Result<u64, String> {
    forebay_plan::memory_bytes(text).ok_or_else(|| "it must be like `512M` or `2GiB`, or a number of mebibytes".to_owned())
}

/// Which rows a preview shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Preview {
    /// The same as `head`
    On,
    /// None
    Off,
    /// The first ten
    Head,
    /// The last ten
    Tail,
}

impl Preview {
    /// The word of the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Head => "head",
            Self::Tail => "tail",
        }
    }
}

/// `query`
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:\n  forebay query \"SELECT carrier, count(*) FROM flights GROUP BY carrier\"\n  \
    forebay query -r main@1a2b3c -n default \"SELECT * FROM flights\" --max-rows 50 --no-trunc\n  \
    forebay query -f report.sql -o json\n  forebay query \"SELECT * FROM flights\" --to flights.parquet\n\n\
    With --to the ending of FILE decides its form: .arrow, .csv, .json, .jsonl or .parquet.")]
pub struct QueryArgs {
    /// One SELECT
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub sql: Option<String>,
    /// Read the SELECT from a file; `-` is stdin
    #[arg(short = 'f', long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Ref to read at [default: the active branch]
    #[arg(short = 'r', long = "ref", value_name = "REF")]
    pub at: Option<String>,
    /// Namespace of tables named without one [default: default]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Print at most so many rows [default: 10 for a printed table, all for JSON and files]
    #[arg(long, value_name = "N")]
    pub max_rows: Option<u64>,
    /// Print all rows
    #[arg(long, conflicts_with = "max_rows")]
    pub all_rows: bool,
    /// Print cells whole [default: cut after 32 characters]
    #[arg(long)]
    pub no_trunc: bool,
    /// Write the result to a file instead of printing it
    #[arg(long, value_name = "FILE")]
    pub to: Option<PathBuf>,
    /// Memory of the query's operators (`512M`, `2GiB`); what needs more spills to disk [default: of the configuration]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    pub memory: Option<u64>,
}

/// `job …`
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// List jobs, newest first
    Ls(JobListArgs),
    /// Show one job
    #[command(after_help = "Examples:\n  forebay job get 0199e5\n  forebay job get 0199e5 -o json")]
    Get {
        /// Id of the job, or how it begins
        id: String,
    },
    /// Print what a job's functions printed
    #[command(after_help = "Examples:\n  forebay job logs 0199e5\n  forebay job logs 0199e5 -o json")]
    Logs {
        /// Id of the job, or how it begins
        id: String,
    },
    /// Cancel a job and wait until it has ended
    #[command(after_help = "Examples:\n  forebay job stop 0199e5")]
    Stop {
        /// Id of the job, or how it begins
        id: String,
    },
}

/// `job ls`
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = "Examples:\n  forebay job ls\n  forebay job ls -k run -s failed -n 50")]
pub struct JobListArgs {
    /// Only jobs whose id begins so; may be given many times
    #[arg(short = 'i', long = "id", value_name = "ID")]
    pub ids: Vec<String>,
    /// Only jobs of this kind; may be given many times
    #[arg(short = 'k', long = "kind", value_enum)]
    pub kinds: Vec<JobKind>,
    /// Only jobs in this state; may be given many times
    #[arg(short = 's', long = "status", value_enum)]
    pub statuses: Vec<JobStatus>,
    /// At most so many
    #[arg(short = 'n', long, visible_alias = "limit", value_name = "N", default_value_t = 10)]
    pub max_count: u64,
    /// Show times in UTC
    #[arg(short = 'z', long)]
    pub utc: bool,
}

/// Kinds of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JobKind {
    /// A run of a project
    Run,
    /// A query
    Query,
    /// The creation of a table from files
    TableCreate,
    /// A plan of a table
    TablePlanCreate,
    /// The creation of a planned table
    TablePlanApply,
    /// The registration of another engine's table
    ExternalTableCreate,
    /// An import of files
    TableImport,
}

impl JobKind {
    /// The word of the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Query => "query",
            Self::TableCreate => "table-create",
            Self::TablePlanCreate => "table-plan-create",
            Self::TablePlanApply => "table-plan-apply",
            Self::ExternalTableCreate => "external-table-create",
            Self::TableImport => "table-import",
        }
    }
}

/// States of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JobStatus {
    /// Under way
    Running,
    /// Done
    #[value(alias = "complete", alias = "done")]
    Success,
    /// Failed
    #[value(alias = "fail")]
    Failed,
    /// Cancelled by a user
    #[value(alias = "abort")]
    Cancelled,
}

impl JobStatus {
    /// The word of the protocol.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Success => "SUCCESS",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}
