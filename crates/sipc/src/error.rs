//! What can be wrong with a table or a message.

use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use forebay_types::{Coded, Fault, Report};

/// Errors of describing, decoding and rebuilding tables.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not a message, or contradict themselves.
    #[error("the message is damaged: {0}")]
    Damaged(String),
    /// A message of a version this build does not read.
    #[error("the message has version {found}, this build reads version {known}")]
    Version {
        /// Its version.
        found: u16,
        /// Ours.
        known: u16,
    },
    /// More of something than [`crate::Limits`] allows.
    #[error("{what}: {found} is more than the {max} allowed")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// A batch whose columns differ from the schema it should have.
    #[error("column `{column}` of a batch is {found}, the table's schema says {expected}")]
    Mismatch {
        /// Name of the column.
        column: String,
        /// Type in the schema.
        expected: DataType,
        /// Type in the batch.
        found: DataType,
    },
    /// A batch with another number of columns than its schema.
    #[error("a batch has {found} columns, the table's schema has {expected}")]
    Width {
        /// Columns of the schema.
        expected: usize,
        /// Columns of the batch.
        found: usize,
    },
    /// A segment the message refers to is not at hand, or shorter than the message says.
    #[error("segment {id} is {what}")]
    Segment {
        /// Identity.
        id: u64,
        /// `missing`, …
        what: String,
    },
    /// A projection names a column that is not there.
    #[error("there is no column `{name}`; the columns are {}", list(.columns))]
    Column {
        /// The name.
        name: String,
        /// What is there.
        columns: Vec<String>,
    },
    /// A column that is wanted as a dictionary of strings holds none.
    #[error("the column `{column}` is wanted as a dictionary of text, and it is {kind}")]
    NotText {
        /// Its name.
        column: String,
        /// Its type.
        kind: DataType,
    },
    /// The buffers do not form arrays of the declared types.
    #[error("the table's buffers do not form valid arrays: {0}")]
    Invalid(#[from] ArrowError),
    /// A buffer could not be stored.
    #[error("could not store a buffer of {bytes} bytes")]
    Place {
        /// Its length.
        bytes: usize,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Names in backticks, the first 20 of them.
fn list(names: &[String]) -> String {
    let mut text = names.iter().take(20).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if names.len() > 20 {
        text.push_str(&format!(" and {} more", names.len() - 20));
    }
    text
}

impl Coded for Error {
    fn report(&self) -> Report {
        let platform = |code, message: &str| Report::new(code, Fault::Platform, message).with_chain(self);
        match self {
            Self::Damaged(_) => platform("IPC0001", "could not read a table message"),
            Self::Version { .. } => platform("IPC0002", "could not read a table message")
                .with_hint("restart the background process: `forebay daemon stop`"),
            Self::Limit { .. } => Report::new("IPC0003", Fault::Request, "could not pass a table on")
                .with_chain(self)
                .with_hint("hand over fewer, larger batches, or fewer columns"),
            Self::Mismatch { .. } | Self::Width { .. } => {
                Report::new("IPC0004", Fault::Request, "could not describe a table").with_chain(self)
            }
            Self::Segment { .. } => platform("IPC0005", "could not open a table's memory"),
            Self::Column { name, .. } => {
                Report::new("IPC0006", Fault::Request, format!("could not find the column `{name}`")).with_cause(self)
            }
            Self::NotText { column, .. } => {
                Report::new("IPC0009", Fault::Request, format!("could not hand over the column `{column}` as a dictionary"))
                    .with_cause(self)
                    .with_hint("leave it out of `dictionary=`, or return it as text")
            }
            Self::Invalid(_) => Report::new("IPC0007", Fault::Request, "could not read a table").with_chain(self),
            Self::Place { .. } => platform("IPC0008", "could not write a table into shared memory"),
        }
    }
}
