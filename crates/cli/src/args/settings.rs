//! Arguments of projects, settings and the background process.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// `init`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay init\n  forebay init my-project --name delays\n\n\
    Files that are there already are left alone.")]
pub struct InitArgs {
    /// Folder of the project; made if it is not there
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Name of the project [default: the folder's]
    #[arg(long)]
    pub name: Option<String>,
}

/// Where the project is.
#[derive(Debug, Clone, Args)]
pub struct ProjectFolder {
    /// Folder of the project
    #[arg(short = 'p', long, value_name = "DIR", default_value = ".")]
    pub project_dir: PathBuf,
}

/// `parameter …`
#[derive(Debug, Subcommand)]
pub enum ParameterCommand {
    /// List the parameters of a project
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  forebay parameter ls\n  forebay parameter ls -p examples/flights -o json"
    )]
    Ls(ProjectFolder),
    /// Add a parameter, or change one
    Set(ParameterSetArgs),
    /// The parameters of a run (JSON on stdin) as a client sends them, secrets sealed: for the Python client
    #[command(hide = true, after_help = "Examples:\n  forebay parameter seal -p examples/flights -o json")]
    Seal(ParameterSealArgs),
    /// Remove a parameter
    #[command(visible_alias = "delete", after_help = "Examples:\n  forebay parameter rm min_delay")]
    Rm {
        /// Its name
        name: String,
        /// Where the project is.
        #[command(flatten)]
        project: ProjectFolder,
    },
}

/// `parameter set`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay parameter set min_delay 30\n  \
    forebay parameter set min_delay 30 --type int --description \"Minutes a flight must be late\"\n  \
    forebay parameter set airport --type str --required\n  forebay parameter set query --file default.sql\n  \
    forebay parameter set token --type secret --from env:API_TOKEN\n\n\
    A new parameter without --type gets the type its value looks like.")]
pub struct ParameterSetArgs {
    /// Its name
    pub name: String,
    /// Its default value
    #[arg(allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Where the project is.
    #[command(flatten)]
    pub project: ProjectFolder,
    /// Its type; changing it needs a new value
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    pub kind: Option<ParameterType>,
    /// What it means
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
    /// A run without it is an error
    #[arg(long, conflicts_with = "optional")]
    pub required: bool,
    /// A run may leave it out
    #[arg(long)]
    pub optional: bool,
    /// Read the value from a file; `-` is stdin
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// Where the value of a secret is: `env:NAME`, `file:PATH` or `keyring:SERVICE/USER`
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["value", "file"])]
    pub from: Option<String>,
}

/// `parameter seal`
#[derive(Debug, Args)]
pub struct ParameterSealArgs {
    /// Where the project is.
    #[command(flatten)]
    pub project: ProjectFolder,
}

/// Types of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ParameterType {
    /// A whole number
    Int,
    /// A number
    Float,
    /// `true` or `false`
    Bool,
    /// Text
    Str,
    /// Text that only the function sees
    Secret,
}

impl ParameterType {
    /// The word of the project file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Str => "str",
            Self::Secret => "secret",
        }
    }

    /// The type of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Int, Self::Float, Self::Bool, Self::Str, Self::Secret].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// `config …`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show the settings of the profile in use
    #[command(after_help = "Examples:\n  forebay config get\n  forebay config get lake\n  forebay config get --all -o json")]
    Get {
        /// Only this setting
        #[arg(value_enum)]
        name: Option<ConfigName>,
        /// The settings of all profiles
        #[arg(short = 'a', long, conflicts_with = "name")]
        all: bool,
    },
    /// Change a setting of the profile in use
    #[command(after_help = "Examples:\n  forebay config set lake /data/lake\n  forebay config set author_name ann -P work")]
    Set {
        /// The setting
        #[arg(value_enum)]
        name: ConfigName,
        /// Its value; empty takes the setting away
        value: String,
    },
}

/// Settings of a profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum ConfigName {
    /// Folder or URI of the lake
    Lake,
    /// Branch commands work on when none is named
    ActiveBranch,
    /// Name in commits
    AuthorName,
    /// Mail address in commits
    AuthorEmail,
}

impl ConfigName {
    /// All settings, in the order they are shown.
    pub const ALL: [Self; 4] = [Self::Lake, Self::ActiveBranch, Self::AuthorName, Self::AuthorEmail];

    /// The key in the settings file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lake => "lake",
            Self::ActiveBranch => "active_branch",
            Self::AuthorName => "author_name",
            Self::AuthorEmail => "author_email",
        }
    }
}

/// `daemon …`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum DaemonCommand {
    /// Start the background process, if it is not running
    #[command(
        after_help = "Examples:\n  forebay daemon start\n  forebay daemon start -o json\n\nOther commands start it themselves."
    )]
    Start,
    /// Be the background process, in the foreground
    #[command(after_help = "Examples:\n  forebay daemon serve")]
    Serve,
    /// Stop the background process, cancelling what runs
    #[command(after_help = "Examples:\n  forebay daemon stop")]
    Stop,
    /// Say whether the background process runs
    #[command(after_help = "Examples:\n  forebay daemon status\n  forebay daemon status -o json")]
    Status,
    /// Print the log of the background process
    #[command(after_help = "Examples:\n  forebay daemon logs")]
    Logs,
}
