//! What a method and a path ask for. Pure: paths come in as they were sent, and are decoded piece by piece, so that a `/`
//! or `@` inside a name is part of the name.

use std::collections::HashMap;

use super::error::Error;

/// What clients join the levels of a namespace with.
pub(crate) const LEVELS: char = '\u{1f}';

/// A request's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The ref, as text.
    pub(crate) at: String,
    /// What is asked for there.
    pub(crate) endpoint: Endpoint,
}

/// A table by the names in a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Config,
    Token,
    Namespaces { parent: Option<String> },
    CreateNamespace,
    Namespace(String),
    DropNamespace(String),
    NamespaceProperties(String),
    Tables(String),
    CreateTable(String),
    Register(String),
    Table(Named),
    CommitTable(Named),
    DropTable(Named),
    Metrics(Named),
    Rename,
    Transaction,
    Views,
}

/// What `config` says is served: PyIceberg refuses by itself what is not listed. A ref that is only read lists reads only.
pub(crate) fn endpoints(writable: bool) -> Vec<&'static str> {
    let reads = [
        "GET /v1/{prefix}/namespaces",
        "GET /v1/{prefix}/namespaces/{namespace}",
        "HEAD /v1/{prefix}/namespaces/{namespace}",
        "GET /v1/{prefix}/namespaces/{namespace}/tables",
        "GET /v1/{prefix}/namespaces/{namespace}/tables/{table}",
        "HEAD /v1/{prefix}/namespaces/{namespace}/tables/{table}",
        "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}/metrics",
    ];
    let writes = [
        "POST /v1/{prefix}/namespaces",
        "DELETE /v1/{prefix}/namespaces/{namespace}",
        "POST /v1/{prefix}/namespaces/{namespace}/tables",
        "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}",
        "DELETE /v1/{prefix}/namespaces/{namespace}/tables/{table}",
        "POST /v1/{prefix}/namespaces/{namespace}/register",
        "POST /v1/{prefix}/tables/rename",
        "POST /v1/{prefix}/transactions/commit",
    ];
    reads.into_iter().chain(writes.into_iter().filter(|_| writable)).collect()
}

/// Reads a request's address: `/iceberg/{ref}/v1/…`. HEAD is GET without an answer.
pub(crate) fn route(method: &str, path: &str, query: Option<&str>) -> Result<Route, Error> {
    let nothing = || Error::NoEndpoint { method: method.to_owned(), path: path.to_owned() };
    // A base with a slash at its end gives paths with two in a row.
    let pieces: Vec<String> =
        path.split('/').filter(|piece| !piece.is_empty()).map(|piece| decode(piece, false)).collect::<Result<_, _>>()?;
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let ["iceberg", at, "v1", rest @ ..] = pieces.as_slice() else { return Err(nothing()) };
    let method = if method == "HEAD" { "GET" } else { method };
    let named = |namespace: &str, name: &str| Named { namespace: namespace.to_owned(), name: name.to_owned() };
    let endpoint = match (method, rest) {
        ("GET", ["config"]) => Endpoint::Config,
        ("POST", ["oauth", "tokens"]) => Endpoint::Token,
        ("GET", ["namespaces"]) => {
            let parent = fields(query.unwrap_or_default())?.remove("parent").filter(|parent| !parent.is_empty());
            Endpoint::Namespaces { parent }
        }
        ("POST", ["namespaces"]) => Endpoint::CreateNamespace,
        ("GET", ["namespaces", namespace]) => Endpoint::Namespace((*namespace).to_owned()),
        ("DELETE", ["namespaces", namespace]) => Endpoint::DropNamespace((*namespace).to_owned()),
        ("POST", ["namespaces", namespace, "properties"]) => Endpoint::NamespaceProperties((*namespace).to_owned()),
        ("GET", ["namespaces", namespace, "tables"]) => Endpoint::Tables((*namespace).to_owned()),
        ("POST", ["namespaces", namespace, "tables"]) => Endpoint::CreateTable((*namespace).to_owned()),
        ("POST", ["namespaces", namespace, "register"]) => Endpoint::Register((*namespace).to_owned()),
        ("GET", ["namespaces", namespace, "tables", name]) => Endpoint::Table(named(namespace, name)),
        ("POST", ["namespaces", namespace, "tables", name]) => Endpoint::CommitTable(named(namespace, name)),
        ("DELETE", ["namespaces", namespace, "tables", name]) => Endpoint::DropTable(named(namespace, name)),
        ("POST", ["namespaces", namespace, "tables", name, "metrics"]) => Endpoint::Metrics(named(namespace, name)),
        ("POST", ["tables", "rename"]) => Endpoint::Rename,
        ("POST", ["transactions", "commit"]) => Endpoint::Transaction,
        (_, ["views", ..] | ["namespaces", _, "views", ..] | ["namespaces", _, "register-view"]) => Endpoint::Views,
        _ => return Err(nothing()),
    };
    Ok(Route { at: (*at).to_owned(), endpoint })
}

/// The fields of a query or of a form.
pub(crate) fn fields(text: &str) -> Result<HashMap<String, String>, Error> {
    text.split('&')
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            Ok((decode(key, true)?, decode(value, true)?))
        })
        .collect()
}

/// Undoes percent-encoding; in forms `+` is a blank.
fn decode(text: &str, form: bool) -> Result<String, Error> {
    let bad = || Error::bad(format!("`{text}` is not percent-encoded text"));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' if form => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(bad);
                let value = digit()? * 16 + digit()?;
                u8::try_from(value).expect("two hex digits are a byte")
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(method: &str, path: &str) -> (String, Endpoint) {
        let route = route(method, path, None).unwrap();
        (route.at, route.endpoint)
    }

    #[test]
    fn addresses_of_clients() {
        assert_eq!(at("GET", "/iceberg/main/v1/config"), ("main".into(), Endpoint::Config));
        assert_eq!(at("GET", "/iceberg/main//v1/config"), ("main".into(), Endpoint::Config), "a base with a slash");
        assert_eq!(at("GET", "/iceberg/user%2Fbob/v1/config").0, "user/bob");
        assert_eq!(at("GET", "/iceberg/main%40abcd1234/v1/config").0, "main@abcd1234");
        let table = Named { namespace: "ns".into(), name: "größe".into() };
        assert_eq!(at("HEAD", "/iceberg/b/v1/namespaces/ns/tables/gr%C3%B6%C3%9Fe").1, Endpoint::Table(table));
        assert_eq!(at("GET", "/iceberg/b/v1/namespaces/a%1Fb").1, Endpoint::Namespace("a\u{1f}b".into()));
        assert_eq!(at("GET", "/iceberg/b/v1/namespaces/a/views").1, Endpoint::Views);
        let parent = route("GET", "/iceberg/b/v1/namespaces", Some("pageSize=3&parent=x+y%1Fz")).unwrap();
        assert_eq!(parent.endpoint, Endpoint::Namespaces { parent: Some("x y\u{1f}z".into()) });
    }

    #[test]
    fn addresses_of_nothing() {
        for (method, path) in [
            ("GET", "/"),
            ("GET", "/iceberg/main"),
            ("GET", "/iceberg/v1/config"),
            ("PUT", "/iceberg/main/v1/namespaces"),
            ("DELETE", "/iceberg/main/v1/config"),
            ("GET", "/iceberg/main/v2/config"),
            ("GET", "/iceberg/main/v1/namespaces/a/tables/b/c"),
        ] {
            assert_eq!(route(method, path, None).unwrap_err().status().0, 404, "{method} {path}");
        }
        for path in ["/iceberg/%zz/v1/config", "/iceberg/%f/v1/config", "/iceberg/%ff/v1/config"] {
            assert_eq!(route("GET", path, None).unwrap_err().status().0, 400, "{path}");
        }
    }

    #[test]
    fn every_listed_endpoint_is_served() {
        for line in endpoints(true) {
            let (method, path) = line.split_once(' ').unwrap();
            let path = path.replace("/{prefix}", "").replace(['{', '}'], "");
            route(method, &format!("/iceberg/main{path}"), None).unwrap();
        }
        assert!(endpoints(false).iter().all(|line| !line.starts_with("DELETE")));
    }
}
