//! The command line as data: every command, option and example of `forebay`.
//!
//! Invariants: this module decides nothing and does no I/O; every example line in a help text parses (a test
//! feeds them back through clap), and so does every `$ forebay …` line of `docs/guide/cli.md`.

mod env;
mod lake;
mod serve;
mod settings;
mod tables;
mod work;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

pub use env::EnvCommand;
pub use lake::{
    BranchCommand, CommitArgs, CommitFormat, GcArgs, NamespaceCommand, RevertArgs, TableCommand, TableImportArgs,
    TableRevertArgs, TagCommand, Words,
};
pub use serve::ServeArgs;
#[cfg(test)]
pub use settings::ProjectFolder;
pub use settings::{ConfigCommand, ConfigName, DaemonCommand, InitArgs, ParameterCommand, ParameterSetArgs, ParameterType};
pub use tables::{TableApplyArgs, TableCreateArgs, TableExternalArgs, TablePlanArgs};
pub use work::{JobCommand, JobListArgs, PlanArgs, QueryArgs, RunArgs};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "forebay",
    version,
    about = "Run folders of Python and SQL functions over a lake of Iceberg tables.",
    long_about = "Run folders of Python and SQL functions over a lake of Iceberg tables.\n\n\
        A run reads tables at one commit of the lake, runs each function in a process of its own, and lands its \
        results as one commit, or not at all.",
    after_help = "Examples:\n  forebay init my-project\n  forebay run -p my-project\n  forebay query \"SELECT 1 AS one\"\n\n\
        Exit codes: 0 done, 1 the request failed (user code, data, conflict), 2 usage or settings, 3 platform.",
    max_term_width = 100,
    propagate_version = false,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Options every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Settings profile to use [default: $FOREBAY_PROFILE, else default]
    #[arg(short = 'P', long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub profile: Option<String>,
    /// What stdout is for: a person or a program
    #[arg(
        short = 'o',
        visible_short_alias = 'O',
        long,
        global = true,
        value_enum,
        default_value_t = OutputFormat::Tty,
        value_name = "FORMAT",
        help_heading = "Global options"
    )]
    pub output: OutputFormat,
    /// Say nothing on stderr but errors
    #[arg(short = 'q', long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub quiet: bool,
    /// Say more on stderr
    #[arg(short = 'v', long, global = true, action = ArgAction::Count, help_heading = "Global options")]
    pub verbose: u8,
}

/// Form of what goes to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// Text for people
    Tty,
    /// One JSON object with a `schema` version; streams print one object a line
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a small project that runs
    Init(InitArgs),
    /// Run a project: all of it lands on the branch, or nothing
    Run(RunArgs),
    /// Show what a run would do, without running it
    Plan(PlanArgs),
    /// Run one SELECT at a ref and print the result
    Query(QueryArgs),
    /// List, create, compare, merge and remove branches
    #[command(subcommand)]
    Branch(BranchCommand),
    /// List, create and remove tags
    #[command(subcommand)]
    Tag(TagCommand),
    /// Show the commits of a ref, newest first
    Commit(CommitArgs),
    /// Undo a commit, or a whole run, by a new commit
    Revert(RevertArgs),
    /// Make a branch the active one
    Checkout(CheckoutArgs),
    /// List, create and remove namespaces
    #[command(subcommand)]
    Namespace(NamespaceCommand),
    /// List, show, create, fill and remove tables
    #[command(subcommand)]
    Table(TableCommand),
    /// Serve the lake to other engines: every branch as an Iceberg REST catalog
    Serve(ServeArgs),
    /// Remove what no branch or tag leads to
    Gc(GcArgs),
    /// List, set and remove the parameters of a project
    #[command(subcommand)]
    Parameter(ParameterCommand),
    /// List, show and stop jobs, and read their logs
    #[command(subcommand)]
    Job(JobCommand),
    /// Show how the tables of a run got from function to function, and why bytes were copied
    #[command(after_help = "Examples:\n  forebay explain\n  forebay explain 0199e5\n  forebay explain 0199e5 -o json\n\n\
        referenced: born in shared memory; reshared: shared again from an input; copied: copied into shared memory; \
        inline: so small that it travels in the message.")]
    Explain {
        /// Id of the run's job, or how it begins [default: the latest run of this lake]
        job: Option<String>,
    },
    /// List, show, make, pin and remove the environments of Python functions
    #[command(subcommand)]
    Env(EnvCommand),
    /// Show and change settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Show the version, folders, lake, profile and branch in use
    #[command(after_help = "Examples:\n  forebay info\n  forebay info -o json")]
    Info,
    /// Check that everything Forebay needs is there, and say how to fix what is not
    #[command(after_help = "Examples:\n  forebay doctor\n  forebay doctor -o json\n\nExits with 3 if a check failed.")]
    Doctor,
    /// Control the background process
    #[command(subcommand)]
    Daemon(DaemonCommand),
    /// Print a completion script for a shell
    #[command(after_help = "Examples:\n  forebay completion bash > ~/.local/share/bash-completion/completions/forebay")]
    Completion {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version
    #[command(after_help = "Examples:\n  forebay version\n  forebay version -o json")]
    Version,
}

/// `checkout`, also as `branch checkout`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay checkout main\n  forebay checkout -b try-it --from-ref main")]
pub struct CheckoutArgs {
    /// Branch to make active
    pub branch: String,
    /// Create the branch first
    #[arg(short = 'b', long = "create")]
    pub create: bool,
    /// Ref the new branch starts at [default: the active branch]
    #[arg(long, value_name = "REF", requires = "create")]
    pub from_ref: Option<String>,
}

/// Reads `name=value`; the value may hold further `=`.
fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err("expected `name=value`".to_owned()),
    }
}

#[cfg(test)]
mod tests;
