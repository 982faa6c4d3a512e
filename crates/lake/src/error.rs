//! Everything that can go wrong between Arrow and an Iceberg table, with its code and its hint.
//!
//! Variants are shaped by what the caller can do: fix the model's output, fix the filter, fix the files to import,
//! or look at the disk. Each code has a page in `docs/errors/`.

use forebay_types::{Coded, Fault, Report};

use crate::storage::{Failure, Location, Trouble};

/// An error of another library, kept as the cause.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the lake.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A metadata file, manifest list or manifest is missing or damaged.
    #[error("could not read the table metadata `{path}`")]
    Metadata {
        path: String,
        #[source]
        cause: Cause,
    },
    /// A data or delete file is missing or damaged.
    #[error("could not read the data file `{path}`")]
    DataFile {
        path: String,
        #[source]
        cause: Cause,
    },
    /// The table uses a part of Iceberg that is not built.
    #[error("could not use the table `{table}`: {feature} is not supported")]
    Unsupported { table: String, feature: String },
    /// Iceberg has no place for this Arrow type.
    #[error("could not store column `{column}`: the type {kind} has no place in an Iceberg table")]
    Type { column: String, kind: String, hint: &'static str },
    /// A value would change when stored.
    #[error("could not store column `{column}` exactly: {why}")]
    Value { column: String, why: String, hint: &'static str },
    /// A table without columns.
    #[error("could not store a table without columns")]
    NoColumns,
    /// A column name that occurs twice or is empty.
    #[error("could not store the table: {why}")]
    ColumnName { why: String },
    /// A partition field over a column that does not exist.
    #[error("could not partition by `{field}`: there is no column `{column}`")]
    PartitionColumn { field: String, column: String, near: Option<String> },
    /// A partition transform that does not fit the column's type.
    #[error("could not partition by `{field}`: column `{column}` is {kind}")]
    PartitionType { field: String, column: String, kind: String, hint: String },
    /// Too many partitions in one write.
    #[error("could not write {partitions} partitions at once: the limit is {limit}")]
    TooManyPartitions { partitions: usize, limit: usize },
    /// An append that asks for another partitioning than the table has.
    #[error("could not append: the table is partitioned by `{table}`, not by `{asked}`")]
    PartitionMismatch { table: String, asked: String },
    /// Columns that cannot be added to the table.
    #[error("could not change the table's columns: {changes}")]
    NewColumn {
        changes: String,
        #[source]
        cause: Cause,
    },
    /// An append whose column has a type that neither fits the table's nor widens it.
    #[error("could not append column `{column}`: {from} does not widen to the table's {to}, nor can the table's become {from}")]
    AppendType { column: String, from: String, to: String },
    /// Nulls, or no column at all, where the table requires values.
    #[error("could not write the required column `{column}`: {why}")]
    Required { column: String, why: String },
    /// A projection names a column the table lacks.
    #[error("could not find the column `{column}` in the table")]
    Column { column: String, near: Option<String> },
    /// A filter that does not parse or type-check.
    #[error("could not use the filter `{filter}`")]
    Filter {
        filter: String,
        near: Option<String>,
        #[source]
        cause: Cause,
    },
    /// An overwrite filter over columns the table is not partitioned by.
    #[error("could not overwrite where `{filter}`: {why}")]
    OverwriteFilter { filter: String, why: String },
    /// A sort order that does not fit the columns.
    #[error("could not sort by `{field}`: {why}")]
    SortColumn { field: String, why: String, near: Option<String> },
    /// Key columns that do not fit the rows or the table.
    #[error("could not merge on `{keys}`: {why}")]
    MergeKey { keys: String, why: String },
    /// Rows to merge that do not say what to do.
    #[error("could not merge: {why}")]
    MergeRows { why: String },
    /// Nothing to import.
    #[error("could not find files to import at `{uri}`: {why}")]
    NoSources { uri: String, why: String },
    /// A file that is neither Parquet nor CSV.
    #[error("could not import `{path}`: only Parquet, CSV and JSON lines files can be imported")]
    SourceFormat { path: String },
    /// A file to import that is damaged.
    #[error("could not read `{path}`")]
    Source {
        path: String,
        #[source]
        cause: Cause,
    },
    /// Files to import that do not share a schema.
    #[error("could not find one schema for all files: {conflicts}")]
    SourceConflict { conflicts: String },
    /// A file with a column the target lacks.
    #[error("could not import `{path}`: the table has no column `{column}`")]
    SourceColumn { path: String, column: String, near: Option<String> },
    /// A file whose value does not fit the target's type.
    #[error("could not import `{path}`: column `{column}`, {why}")]
    SourceValue { path: String, column: String, why: String },
    /// A file that cannot be read as part of a table.
    #[error("could not make `{path}` part of a table: {why}")]
    Foreign { path: String, why: String },
    /// A pinned snapshot that the table does not have.
    #[error("could not find the snapshot {snapshot} in `{table}`")]
    Snapshot { snapshot: i64, table: String },
    /// The disk refused.
    #[error("could not {verb} `{path}`")]
    Storage {
        verb: &'static str,
        path: String,
        #[source]
        cause: std::io::Error,
    },
    /// A location that is neither a local path nor in an object store we know.
    #[error(
        "could not use the location `{location}`: it is neither an absolute path nor a URI `file://`, `s3://`, `gs://` or `az://`"
    )]
    Location { location: String },
    /// Stored values do not fit the Arrow type recorded for the column.
    #[error("could not read column `{column}` as {kind}: {why}")]
    Recorded { column: String, kind: String, why: String },
    /// An object store did not do what it was asked to.
    #[error(transparent)]
    Remote(#[from] Failure),
    /// Iceberg or Parquet refused what we made.
    #[error("could not {verb}")]
    Internal {
        verb: &'static str,
        #[source]
        cause: Cause,
    },
}

impl Error {
    /// An [`Error::Internal`] maker for `map_err`. An object store's failure inside it is told as what it is.
    pub(crate) fn internal<E: Into<Cause>>(verb: &'static str) -> impl FnOnce(E) -> Self {
        move |cause| or_remote(cause.into(), |cause| Self::Internal { verb, cause })
    }

    /// An [`Error::Metadata`] maker for `map_err`.
    pub(crate) fn metadata<E: Into<Cause>>(path: &str) -> impl FnOnce(E) -> Self + '_ {
        move |cause| or_remote(cause.into(), |cause| Self::Metadata { path: path.to_owned(), cause })
    }

    /// An [`Error::DataFile`] maker for `map_err`.
    pub(crate) fn data_file<E: Into<Cause>>(path: &str) -> impl FnOnce(E) -> Self + '_ {
        move |cause| or_remote(cause.into(), |cause| Self::DataFile { path: path.to_owned(), cause })
    }

    /// An [`Error::Storage`] maker for `map_err`.
    pub(crate) fn storage<'a>(verb: &'static str, path: &'a std::path::Path) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |cause| Self::Storage { verb, path: path.display().to_string(), cause }
    }

    /// An [`Error::Storage`], or [`Error::Remote`], maker for `map_err`.
    pub(crate) fn file<'a>(verb: &'static str, location: &'a Location) -> impl FnOnce(std::io::Error) -> Self + 'a {
        move |cause| match Failure::within(&cause) {
            Some(failure) => Self::Remote(failure.clone()),
            None => Self::Storage { verb, path: location.to_string(), cause },
        }
    }

    /// The stable code and whose turn it is.
    fn code(&self) -> (&'static str, Fault) {
        use Fault::{Platform, Request};
        match self {
            Self::Metadata { .. } => ("LAK0001", Platform),
            Self::DataFile { .. } => ("LAK0002", Platform),
            Self::Unsupported { .. } => ("LAK0003", Request),
            Self::Type { .. } => ("LAK0004", Request),
            Self::Value { .. } => ("LAK0005", Request),
            Self::NoColumns => ("LAK0006", Request),
            Self::ColumnName { .. } => ("LAK0007", Request),
            Self::PartitionColumn { .. } => ("LAK0008", Request),
            Self::PartitionType { .. } => ("LAK0009", Request),
            Self::TooManyPartitions { .. } => ("LAK0010", Request),
            Self::PartitionMismatch { .. } => ("LAK0011", Request),
            Self::NewColumn { .. } => ("LAK0012", Request),
            Self::AppendType { .. } => ("LAK0013", Request),
            Self::Required { .. } => ("LAK0014", Request),
            Self::Column { .. } => ("LAK0015", Request),
            Self::Filter { .. } => ("LAK0016", Request),
            Self::OverwriteFilter { .. } => ("LAK0017", Request),
            Self::NoSources { .. } => ("LAK0018", Request),
            Self::SourceFormat { .. } => ("LAK0019", Request),
            Self::Source { .. } => ("LAK0020", Request),
            Self::SourceConflict { .. } => ("LAK0021", Request),
            Self::SourceColumn { .. } => ("LAK0022", Request),
            Self::SourceValue { .. } => ("LAK0023", Request),
            Self::Snapshot { .. } => ("LAK0024", Request),
            Self::Storage { .. } => ("LAK0025", Platform),
            Self::Location { .. } => ("LAK0026", Fault::Usage),
            Self::Recorded { .. } => ("LAK0027", Request),
            Self::Internal { .. } => ("LAK0028", Platform),
            Self::Remote(failure) => match failure.trouble {
                Trouble::Credentials => ("LAK0080", Fault::Usage),
                Trouble::Bucket => ("LAK0081", Fault::Usage),
                Trouble::Refused => ("LAK0082", Fault::Usage),
                Trouble::Unreachable => ("LAK0083", Platform),
                Trouble::Missing | Trouble::Other => ("LAK0025", Platform),
            },
            Self::Foreign { .. } => ("LAK0050", Request),
            Self::SortColumn { .. } => ("LAK0041", Request),
            Self::MergeKey { .. } => ("LAK0042", Request),
            Self::MergeRows { .. } => ("LAK0043", Request),
        }
    }

    fn hint(&self) -> Option<String> {
        let near = |near: &Option<String>| near.as_ref().map(|name| format!("did you mean `{name}`?"));
        match self {
            Self::Metadata { .. } | Self::DataFile { .. } => {
                Some("restore the file from a backup, or read an older commit of the table".into())
            }
            Self::Type { hint, .. } | Self::Value { hint, .. } => Some((*hint).into()),
            Self::NoColumns => Some("return at least one column".into()),
            Self::ColumnName { .. } => Some("give every column a name of its own".into()),
            Self::PartitionColumn { near: name, .. } | Self::Column { near: name, .. } | Self::Filter { near: name, .. } => {
                near(name)
            }
            Self::PartitionType { hint, .. } => Some(hint.clone()),
            Self::TooManyPartitions { .. } => {
                Some("use a coarser partitioning, for example `month(…)` instead of `day(…)`".into())
            }
            Self::PartitionMismatch { .. } => {
                Some("leave `partitioned_by` out, or replace the table to partition it anew".into())
            }
            Self::NewColumn { .. } => Some("give the column another name, or replace the table".into()),
            Self::SortColumn { near: name, .. } => near(name),
            Self::MergeKey { .. } => {
                Some("name columns that identify a row, of types such as integers, strings and dates".into())
            }
            Self::MergeRows { .. } => Some("give each key once, and none that is null".into()),
            Self::AppendType { to, .. } => Some(format!("cast the column to {to}, or replace the table to change its type")),
            Self::Required { .. } => Some("fill the column, or replace the table with a nullable one".into()),
            Self::OverwriteFilter { .. } => Some("use only columns the table is partitioned by".into()),
            Self::NoSources { .. } => {
                Some("give a file, a folder or a glob such as `/data/*.parquet` or `s3://bucket/data/*.parquet`".into())
            }
            Self::SourceFormat { .. } => Some("files must end in `.parquet`, `.csv` or `.jsonl`".into()),
            Self::SourceConflict { .. } => {
                Some("choose the types in a plan: `forebay table create-plan`, then `forebay table create-plan-apply`".into())
            }
            Self::SourceColumn { near: name, .. } => {
                Some(near(name).unwrap_or_else(|| "use `best_effort` to leave unknown columns out".into()))
            }
            Self::SourceValue { .. } => Some("correct the file, or create the table with a wider type".into()),
            Self::Foreign { .. } => {
                Some("leave the file out, or import the files: `forebay table create`, then `forebay table import`".into())
            }
            Self::Remote(failure) => remote_hint(failure).map(str::to_owned),
            Self::Recorded { .. } => Some(format!("remove the table property `{}`", crate::schema::TYPES_PROPERTY)),
            _ => None,
        }
    }
}

/// What to do about a failure of an object store.
fn remote_hint(failure: &Failure) -> Option<&'static str> {
    let scheme = failure.place.split("://").next().unwrap_or_default();
    match (failure.trouble, scheme) {
        (Trouble::Credentials, "gs") => Some(
            "set GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS to the path of a key file, or \
             `[profiles.<name>.storage]` in the configuration",
        ),
        (Trouble::Credentials, "az") => Some(
            "set AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_KEY or AZURE_CLIENT_ID with \
             AZURE_CLIENT_SECRET and AZURE_TENANT_ID, or `[profiles.<name>.storage]` in the configuration",
        ),
        (Trouble::Credentials, _) => Some(
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or `[profiles.<name>.storage]` in the configuration",
        ),
        (Trouble::Bucket, "s3") => Some("create the bucket first, and check its name, AWS_ENDPOINT_URL and AWS_REGION"),
        (trouble, _) => any_hint(trouble),
    }
}

/// The same for any store.
fn any_hint(trouble: Trouble) -> Option<&'static str> {
    match trouble {
        Trouble::Bucket => Some("create it first, and check its name and the account"),
        Trouble::Refused => Some("check the credentials, their region, and what they are allowed to do in this bucket"),
        Trouble::Unreachable => Some("check the network, AWS_ENDPOINT_URL, and that the server runs; then try again"),
        Trouble::Credentials | Trouble::Missing | Trouble::Other => None,
    }
}

/// A failure of an object store that an error was made of, unless it only says that the file is missing; else `other`.
pub(crate) fn or_remote(cause: Cause, other: impl FnOnce(Cause) -> Error) -> Error {
    match Failure::within(cause.as_ref()).filter(|failure| failure.trouble != Trouble::Missing) {
        Some(failure) => Error::Remote(failure.clone()),
        None => other(cause),
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        let (code, fault) = self.code();
        let mut report = Report::new(code, fault, self.to_string());
        if let Some(source) = std::error::Error::source(self) {
            report = report.with_chain(source);
        }
        match self.hint() {
            Some(hint) => report.with_hint(hint),
            None => report,
        }
    }
}

/// The name in `names` most like `name`, if any is close enough to be a slip.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    names
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}
