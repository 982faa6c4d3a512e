//! What clients must know to reach the lake's files: properties that PyIceberg and DuckDB read, from the settings of the
//! object store. Pure. Of a lake on a disk there is nothing to say.
//!
//! Where the store is goes to everybody who is let in; keys only to those who sent the token. Keys are those the server itself
//! works with, static or of a session, and are not narrowed: who holds the token may do all anyway. A server that
//! gets its own keys in another way (from the machine it runs on, say) has none to give, and clients bring theirs.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Settings of an S3 store and what clients call them; the first that is there counts.
const PLACES: [(&str, &[&str]); 2] = [
    ("s3.endpoint", &["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"]),
    ("s3.region", &["aws_region", "aws_default_region"]),
];

const KEYS: [(&str, &[&str]); 3] = [
    ("s3.access-key-id", &["aws_access_key_id"]),
    ("s3.secret-access-key", &["aws_secret_access_key"]),
    ("s3.session-token", &["aws_session_token", "aws_token"]),
];

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// Clients that sent the token.
    Keys,
    /// Clients of an open server.
    Places,
}

/// The `config` of each table, and its `storage-credentials`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vended {
    pub(crate) config: Value,
    pub(crate) credentials: Vec<Value>,
}

/// What to tell of the store below `tables_root`.
pub(crate) fn vended(tables_root: &str, settings: &BTreeMap<String, String>, told: Told) -> Vended {
    if !tables_root.starts_with("s3://") {
        return Vended { config: json!({}), credentials: Vec::new() };
    }
    let value = |names: &[&str]| names.iter().find_map(|name| settings.get(*name)).filter(|value| !value.is_empty());
    let found = |wanted: &[(&str, &[&str])]| {
        let pairs = wanted.iter().filter_map(|(name, names)| Some(((*name).to_owned(), value(names)?.clone())));
        pairs.collect::<BTreeMap<String, String>>()
    };
    let mut config = found(&PLACES);
    if let Some(region) = config.get("s3.region").cloned() {
        config.insert("client.region".to_owned(), region);
    }
    let is_virtual = settings.get("aws_virtual_hosted_style_request").is_some_and(|value| value == "true");
    if config.contains_key("s3.endpoint") && !is_virtual {
        config.insert("s3.path-style-access".to_owned(), "true".to_owned());
    }
    let keys = if told == Told::Keys { found(&KEYS) } else { BTreeMap::new() };
    if keys.is_empty() {
        return Vended { config: json!(config), credentials: Vec::new() };
    }
    config.extend(keys);
    let credentials = vec![json!({ "prefix": tables_root, "config": config })];
    Vended { config: json!(config), credentials }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> BTreeMap<String, String> {
        let pairs = [
            ("aws_endpoint_url", "http://localhost:9000"),
            ("aws_region", "eu-south-1"),
            ("aws_access_key_id", "id"),
            ("aws_secret_access_key", "hidden"),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn a_disk_needs_no_words() {
        assert_eq!(vended("/lake/tables", &settings(), Told::Keys), Vended { config: json!({}), credentials: Vec::new() });
    }

    #[test]
    fn keys_go_to_those_with_the_token() {
        let told = vended("s3://b/wh/tables", &settings(), Told::Keys);
        assert_eq!(told.config["s3.secret-access-key"], "hidden");
        assert_eq!(told.config["s3.path-style-access"], "true");
        assert_eq!(told.credentials[0]["prefix"], "s3://b/wh/tables");
        assert_eq!(told.credentials[0]["config"], told.config);
        let told = vended("s3://b/wh/tables", &settings(), Told::Places);
        assert_eq!((told.config["s3.endpoint"].as_str(), told.credentials), (Some("http://localhost:9000"), Vec::new()));
        assert!(!told.config.to_string().contains("hidden"));
    }

    #[test]
    fn a_server_without_keys_of_its_own_has_none_to_give() {
        let mut settings = settings();
        settings.retain(|name, _| name == "aws_region");
        let told = vended("s3://b/wh/tables", &settings, Told::Keys);
        assert_eq!(told.config, json!({ "s3.region": "eu-south-1", "client.region": "eu-south-1" }));
        assert!(told.credentials.is_empty());
    }
}
