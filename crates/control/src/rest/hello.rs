//! What the server prints when it is up: addresses, and what to paste into a client.

/// The text for people. `url` is the server's, `at` the ref of the examples; without a `token` it is open.
#[must_use]
pub fn hello(url: &str, at: &str, token: Option<&str>) -> String {
    let base = format!("{url}/iceberg/{at}");
    let (python, duck) = match token {
        Some(token) => (format!(", token=\"{token}\""), format!(", TOKEN '{token}'")),
        None => (String::new(), ", AUTHORIZATION_TYPE 'none'".to_owned()),
    };
    format!(
        "Iceberg REST catalog of `{at}`: {base}\n\
         Other branches, tags and commits: {url}/iceberg/<ref>\n\n\
         PyIceberg:\n\n    \
         from pyiceberg.catalog.rest import RestCatalog\n    \
         catalog = RestCatalog(\"forebay\", uri=\"{base}\"{python})\n\n\
         DuckDB:\n\n    \
         INSTALL iceberg; LOAD iceberg;\n    \
         ATTACH '' AS lake (TYPE iceberg, ENDPOINT '{base}'{duck});\n"
    )
}

#[cfg(test)]
mod tests {
    use super::hello;

    #[test]
    fn what_to_paste() {
        let text = hello("http://127.0.0.1:8181", "main", Some("abc"));
        assert!(text.contains(r#"RestCatalog("forebay", uri="http://127.0.0.1:8181/iceberg/main", token="abc")"#), "{text}");
        assert!(text.contains("ENDPOINT 'http://127.0.0.1:8181/iceberg/main', TOKEN 'abc');"), "{text}");
        assert!(hello("http://[::1]:1", "b", None).contains("/iceberg/b', AUTHORIZATION_TYPE 'none');"));
    }
}
