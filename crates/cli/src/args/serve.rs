//! Arguments of the Iceberg REST catalog.

use clap::Args;

/// `serve`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay serve\n  forebay serve --port 9000 -r try-it\n  forebay serve --no-token\n\n\
    Prints what to paste into PyIceberg and DuckDB, and serves until Ctrl-C. Writes of clients are commits of the branch.\n\
    Clients need the token, which stays the same for this home: programs that hold it may read and change the whole lake.")]
pub struct ServeArgs {
    /// Address to listen on; `0.0.0.0` is reached by other machines, in plain text unless a proxy adds TLS
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 is any that is free
    #[arg(long, default_value_t = 8181)]
    pub port: u16,
    /// Token clients must send [default: the token of this home]
    #[arg(long, env = "FOREBAY_SERVE_TOKEN", hide_env_values = true, value_name = "TEXT")]
    pub token: Option<String>,
    /// Let in every program on this machine without a token
    #[arg(long, conflicts_with = "token")]
    pub no_token: bool,
    /// Ref of the printed examples [default: the active branch]
    #[arg(short = 'r', long = "ref", value_name = "REF")]
    pub at: Option<String>,
}
