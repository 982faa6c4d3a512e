//! Arguments of `env`.

use clap::{Args, Subcommand};

use super::settings::ProjectFolder;

/// `env …`
#[derive(Debug, Subcommand)]
pub enum EnvCommand {
    /// List the environments that are there, the one used last first
    #[command(visible_alias = "list", after_help = "Examples:\n  forebay env ls\n  forebay env ls -o json")]
    Ls,
    /// Show one environment: interpreter, packages, sizes
    #[command(
        visible_alias = "get",
        after_help = "Examples:\n  forebay env show 3f9c\n  forebay env show 3f9c --lock > requirements.lock"
    )]
    Show {
        /// Its hash, or how it begins
        hash: String,
        /// Print the lock it was made from: versions and hashes, as pip and uv take them
        #[arg(long)]
        lock: bool,
    },
    /// Make the environments of a project before it runs
    #[command(
        after_help = "Examples:\n  forebay env build\n  forebay env build -p examples/flights\n  forebay env build --offline -o json"
    )]
    Build(EnvProject),
    /// Pin the packages of a project: resolve them and write forebay.lock
    #[command(after_help = "Examples:\n  forebay env lock\n  forebay env lock --upgrade\n  forebay env lock --check\n\n\
        Versions of the lock that is there are kept where they fit. Runs take exactly the versions of the lock.")]
    Lock {
        /// The project, and how.
        #[command(flatten)]
        project: EnvProject,
        /// Take the newest versions that fit
        #[arg(long)]
        upgrade: bool,
        /// Write nothing; fail if the lock is missing or stale
        #[arg(long, conflicts_with = "upgrade")]
        check: bool,
    },
    /// Remove the environments that were not used for longest
    #[command(
        after_help = "Examples:\n  forebay env gc\n  forebay env gc --max-size 5G\n  forebay env gc --max-size 0 --dry-run\n\n\
        What a run uses stays. The size is that of unpacked packages; environments share them."
    )]
    Gc {
        /// What may stay, like 5G [default: $FOREBAY_ENVIRONMENTS_MAX, else 20G]
        #[arg(long, value_name = "SIZE", value_parser = size)]
        max_size: Option<u64>,
        /// Only tell what would be removed
        #[arg(long)]
        dry_run: bool,
    },
}

/// A project, and where packages may come from.
#[derive(Debug, Clone, Args)]
pub struct EnvProject {
    /// Where the project is.
    #[command(flatten)]
    pub project: ProjectFolder,
    /// Never use the network: what is not there is an error
    #[arg(long)]
    pub offline: bool,
}

fn size(text: &str) -> Result<u64, String> {
    forebay_envs::parse_bytes(text).ok_or_else(|| "expected a size like `5G`, `512M` or `0`".to_owned())
}
