//! Errors of the REST catalog, each with its code, its status and the type that clients tell errors by.

use std::net::SocketAddr;

use forebay_catalog::Error as CatalogError;
use forebay_lake::Refusal;
use forebay_types::{Coded, Fault, InvalidName, Report};
use serde_json::json;

use crate::error::Error as ControlError;
use crate::limits::REST_BODY_BYTES_MAX;

/// What can go wrong while a request is answered, or the server starts.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request that cannot be understood.
    #[error("could not understand the request")]
    BadRequest { why: String },
    /// No token, or a wrong one.
    #[error("could not let the client in: its token is missing or wrong")]
    Unauthorized,
    /// Nothing is served there.
    #[error("could not find what `{method} {path}` asks for")]
    NoEndpoint { method: String, path: String },
    /// A table changed since the client looked.
    #[error("could not commit to `{table}`: it changed since the client looked")]
    Outdated { table: String, why: String },
    /// A change of a table that is not possible.
    #[error("could not change `{table}` so")]
    Refused { table: String, why: String },
    /// A write to a tag or a commit.
    #[error("could not write to `{at}`: only branches can be written to")]
    ReadOnly { at: String },
    /// A body that is too large.
    #[error("could not take the request: its body is larger than {REST_BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// A body that does not come.
    #[error("could not take the request: it did not come in time")]
    TooSlow,
    /// Views, properties of namespaces, ….
    #[error("could not do this over Iceberg REST: {what}")]
    Unsupported { what: &'static str },
    /// A browser at a server without a token.
    #[error("could not let the request in: without a token only programs on this machine are served")]
    Foreign { why: &'static str },
    /// A server without a token that others could reach.
    #[error("could not serve on `{host}` without a token: other machines would reach it")]
    OpenToAll { host: String },
    /// The address cannot be used.
    #[error("could not listen on `{address}`")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    /// Other writers were first too often.
    #[error("could not commit to `{branch}`: other writers were first every time")]
    Busy { branch: String },
    /// The catalog's.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The lake's.
    #[error(transparent)]
    Lake(#[from] forebay_lake::Error),
    /// The control plane's.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl From<InvalidName> for Error {
    fn from(error: InvalidName) -> Self {
        Self::Control(error.into())
    }
}

impl Error {
    /// A request that cannot be understood.
    pub(crate) fn bad(why: impl Into<String>) -> Self {
        Self::BadRequest { why: why.into() }
    }

    /// What the lake says to a change of `table`.
    pub(crate) fn refused(table: impl ToString) -> impl FnOnce(Refusal) -> Self {
        let table = table.to_string();
        move |refusal| match refusal {
            Refusal::Outdated(why) => Self::Outdated { table, why },
            Refusal::Invalid(why) | Refusal::Unsupported(why) => Self::Refused { table, why },
        }
    }

    /// The HTTP status, and the type in the body. A client that gets 409 for a commit looks again and retries; 500 means
    /// that it cannot know whether the commit was made.
    pub(crate) fn status(&self) -> (u16, &'static str) {
        match self {
            Self::BadRequest { .. } | Self::Refused { .. } => (400, "BadRequestException"),
            Self::Unauthorized => (401, "NotAuthorizedException"),
            Self::ReadOnly { .. } | Self::Foreign { .. } => (403, "ForbiddenException"),
            Self::NoEndpoint { .. } => (404, "NoSuchEndpointException"),
            Self::Unsupported { .. } => (406, "UnsupportedOperationException"),
            Self::TooSlow => (408, "RequestTimeoutException"),
            Self::Outdated { .. } => (409, "CommitFailedException"),
            Self::TooLarge => (413, "BadRequestException"),
            Self::Busy { .. } => (503, "ServiceUnavailableException"),
            Self::Catalog(error) => catalog_status(error),
            Self::Control(error) => control_status(error),
            Self::Lake(_) | Self::OpenToAll { .. } | Self::Listen { .. } => (500, "InternalServerError"),
        }
    }

    /// The body: `{"error": {"message", "type", "code"}}`, where `code` is the status.
    pub(crate) fn body(&self) -> String {
        let (code, kind) = self.status();
        let report = self.report();
        let mut message = format!("{} [{}]", report.message, report.code);
        for cause in &report.causes {
            message.push_str(": ");
            message.push_str(cause);
        }
        if let Some(hint) = &report.hint {
            message.push_str(" (hint: ");
            message.push_str(hint);
            message.push(')');
        }
        json!({ "error": { "message": message, "type": kind, "code": code } }).to_string()
    }

    fn code(&self) -> &'static str {
        match self {
            Self::BadRequest { .. } => "RST0001",
            Self::Unauthorized => "RST0002",
            Self::NoEndpoint { .. } => "RST0003",
            Self::Outdated { .. } => "RST0004",
            Self::Refused { .. } => "RST0005",
            Self::ReadOnly { .. } => "RST0006",
            Self::TooLarge | Self::TooSlow => "RST0007",
            Self::Unsupported { .. } => "RST0008",
            Self::Foreign { .. } => "RST0009",
            Self::OpenToAll { .. } => "RST0010",
            Self::Listen { .. } => "RST0011",
            Self::Busy { .. } => "RST0012",
            Self::Catalog(_) | Self::Lake(_) | Self::Control(_) => "",
        }
    }

    fn cause(&self) -> Option<String> {
        match self {
            Self::BadRequest { why } | Self::Outdated { why, .. } | Self::Refused { why, .. } => Some(why.clone()),
            Self::Foreign { why } => Some((*why).to_owned()),
            Self::Listen { source, .. } => Some(source.to_string()),
            _ => None,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Unauthorized => "`forebay serve` prints the token; send it as `Authorization: Bearer …`",
            Self::NoEndpoint { .. } => "the catalog of a branch is at `/iceberg/<branch>`, without anything behind it",
            Self::Outdated { .. } => "read the table again and repeat the change",
            Self::ReadOnly { .. } => "make a branch there with `forebay branch create NAME --from-ref REF`",
            Self::Foreign { .. } => "serve with a token",
            Self::OpenToAll { .. } => "leave `--no-token` out, or serve on 127.0.0.1",
            Self::Listen { .. } => "choose another `--port`, or 0 for any",
            Self::Busy { .. } => "try again",
            _ => return None,
        })
    }
}

fn catalog_status(error: &CatalogError) -> (u16, &'static str) {
    match error {
        CatalogError::UnknownRef { .. } | CatalogError::NoSuchCommit { .. } | CatalogError::AmbiguousHash { .. } => {
            (404, "NoSuchReferenceException")
        }
        CatalogError::Unknown { what: "namespace", .. } => (404, "NoSuchNamespaceException"),
        CatalogError::Unknown { .. } => (404, "NoSuchTableException"),
        CatalogError::Exists { .. } => (409, "AlreadyExistsException"),
        CatalogError::NamespaceNotEmpty { .. } => (409, "NamespaceNotEmptyException"),
        CatalogError::Conflict { .. } => (409, "CommitFailedException"),
        CatalogError::InvalidName(_) => (400, "BadRequestException"),
        CatalogError::Tainted { .. }
        | CatalogError::ProtectedBranch { .. }
        | CatalogError::NotABranch { .. }
        | CatalogError::Protected { .. } => (403, "ForbiddenException"),
        CatalogError::Contention { .. } => (503, "ServiceUnavailableException"),
        CatalogError::UnknownOutcome { .. } => (500, "CommitStateUnknownException"),
        _ => (500, "InternalServerError"),
    }
}

fn control_status(error: &ControlError) -> (u16, &'static str) {
    match error {
        ControlError::NoTable { .. } => (404, "NoSuchTableException"),
        ControlError::TableExists { .. } => (409, "AlreadyExistsException"),
        ControlError::BadName(_) => (400, "BadRequestException"),
        _ => (500, "InternalServerError"),
    }
}

impl Coded for Error {
    fn report(&self) -> Report {
        match self {
            Self::Catalog(error) => return error.report(),
            Self::Lake(error) => return error.report(),
            Self::Control(error) => return error.report(),
            _ => {}
        }
        let fault = match self {
            Self::OpenToAll { .. } => Fault::Usage,
            Self::Listen { .. } | Self::Busy { .. } => Fault::Platform,
            _ => Fault::Request,
        };
        let mut report = Report::new(self.code(), fault, self.to_string());
        report.causes.extend(self.cause());
        report.hint = self.hint().map(str::to_owned);
        report
    }
}
