//! Arguments of `table create` and its kin.

use std::path::PathBuf;

use clap::Args;

/// `table create`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay table create flights --search-uri data/flights.csv\n  \
    forebay table create trips --search-uri 'data/2023-*.parquet' --partitioned-by \"day(pickup), zone\" --replace\n  \
    forebay table create events --search-uri 's3://bucket/events/*.parquet'\n\n\
    The table is empty; fill it with `forebay table import`.")]
pub struct TableCreateArgs {
    /// Name of the table, `name` or `namespace.name`
    pub name: String,
    /// Path, folder, glob or URI (file://, s3://, gs://, az://) of the files
    #[arg(long, visible_alias = "from", value_name = "FILES")]
    pub search_uri: String,
    /// Branch to create it on [default: the active branch]
    #[arg(short = 'b', long)]
    pub branch: Option<String>,
    /// Namespace, if the name has none [default: default]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Columns, year(column), month, day, hour, bucket(n, column), truncate(n, column), by commas
    #[arg(long, value_name = "FIELDS")]
    pub partitioned_by: Option<String>,
    /// Order of the rows of each file: `country, ts desc`
    #[arg(long, value_name = "FIELDS")]
    pub sorted_by: Option<String>,
    /// Replace the table if it exists
    #[arg(short = 'r', long)]
    pub replace: bool,
}

/// `table create-plan`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay table create-plan trips --search-uri 'data/*.csv' --save-plan trips.yml\n  \
    forebay table create-plan trips --search-uri data -o json\n\n\
    Where files disagree about a column, the plan names the types; leave one, and empty `conflicts`.")]
pub struct TablePlanArgs {
    /// Name of the table, `name` or `namespace.name`
    pub name: String,
    /// Path, folder, glob or URI (file://, s3://, gs://, az://) of the files
    #[arg(long, visible_alias = "from", value_name = "FILES")]
    pub search_uri: String,
    /// Branch to create it on [default: the active branch]
    #[arg(short = 'b', long)]
    pub branch: Option<String>,
    /// Namespace, if the name has none [default: default]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Columns, year(column), month, day, hour, bucket(n, column), truncate(n, column), by commas
    #[arg(long, value_name = "FIELDS")]
    pub partitioned_by: Option<String>,
    /// Order of the rows of each file: `country, ts desc`
    #[arg(long, value_name = "FIELDS")]
    pub sorted_by: Option<String>,
    /// Replace the table if it exists
    #[arg(short = 'r', long)]
    pub replace: bool,
    /// Write the plan to this file instead of the terminal
    #[arg(short = 'p', long, value_name = "FILE")]
    pub save_plan: Option<PathBuf>,
}

/// `table create-plan-apply`
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  forebay table create-plan-apply --plan trips.yml\n\n\
    The table is empty; fill it with `forebay table import`.")]
pub struct TableApplyArgs {
    /// The plan [default: standard input]
    #[arg(long, value_name = "FILE")]
    pub plan: Option<PathBuf>,
}

/// `table create-external`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  forebay table create-external orders --metadata-json-uri /warehouse/orders/metadata/v3.metadata.json\n  \
    forebay table create-external trips --search-pattern 's3://bucket/trips/*/*.parquet' --search-pattern /data/new\n\n\
    The table is read where it lies, as it is now; nothing writes to it, nothing is copied."
)]
pub struct TableExternalArgs {
    /// Name of the table, `name` or `namespace.name`
    pub name: String,
    /// Path or URI of the table's Iceberg metadata file
    #[arg(long, value_name = "FILE", required_unless_present = "search_pattern", conflicts_with = "search_pattern")]
    pub metadata_json_uri: Option<String>,
    /// Path, folder, glob or URI of Parquet files that make the table; may be given several times
    #[arg(long, value_name = "FILES")]
    pub search_pattern: Vec<String>,
    /// Branch to put it on [default: the active branch]
    #[arg(short = 'b', long)]
    pub branch: Option<String>,
    /// Namespace, if the name has none [default: default]
    #[arg(short = 'n', long)]
    pub namespace: Option<String>,
    /// Replace the table if it exists, also to move it on to newer metadata or files
    #[arg(long)]
    pub overwrite: bool,
}
