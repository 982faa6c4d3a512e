//! How object stores are reached: settings from the usual places, put together for each request.
//!
//! ```text
//! AWS's own files, by AWS_PROFILE  <  [profiles.<name>.storage] of the configuration  <  variables of the client
//! ```
//!
//! The client sends its variables (`AWS_…`, `GOOGLE_…`, `AZURE_…`) along, because the daemon was started some time ago, by
//! somebody with other variables. They go no further than to the processes of our own functions that need them, and are
//! never written down.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use forebay_catalog::{BucketStore, Catalog, SystemClock};
use forebay_lake::StorageOptions;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::home::Home;

/// Beginnings of the variables that say how an object store is reached.
const PREFIXES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];

/// Settings of one identity; whoever gives the first of them gives all.
const IDENTITY: [&str; 3] = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];

/// Settings in a profile of AWS's files that lead to credentials in ways that are not followed here.
const NOT_FOLLOWED: [&str; 5] = ["sso_session", "sso_start_url", "credential_process", "source_profile", "credential_source"];

/// The variables of this process that a request takes along.
#[must_use]
pub fn variables() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| PREFIXES.iter().any(|prefix| name.starts_with(prefix))).collect()
}

/// The settings of a request.
pub fn options(home: &Home, profile: &str, variables: &BTreeMap<String, String>) -> Result<StorageOptions> {
    let mut options = from_files(variables)?;
    overlay(&mut options, Config::load(home)?.storage(profile));
    let given = variables
        .iter()
        .filter(|(name, value)| !value.is_empty() && name.len() < 128 && PREFIXES.iter().any(|prefix| name.starts_with(prefix)));
    overlay(&mut options, given.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect());
    Ok(StorageOptions(options))
}

/// The catalog of a lake. What is missing for one in an object store (credentials, bucket, network) is told before anything is done.
pub(crate) fn open_catalog(uri: &str, storage: &StorageOptions) -> std::result::Result<Catalog, crate::rest::Error> {
    forebay_lake::use_storage(uri, storage);
    if let Some(root) = uri.strip_prefix("file://") {
        return Ok(Catalog::open(&Path::new(root).join("catalog"))?);
    }
    forebay_lake::check_storage(uri, storage)?;
    let (store, prefix) = forebay_lake::object_store(uri, storage, forebay_lake::Repeat::Never)?;
    let store = BucketStore::new(store, &format!("{prefix}/catalog")).map_err(Error::storage("start the threads of", uri))?;
    Ok(Catalog::with(Arc::new(store.named(&format!("{uri}/catalog"))), Arc::new(SystemClock))?)
}

/// Puts settings above others. Half an identity of each would be nobody's.
fn overlay(options: &mut BTreeMap<String, String>, above: BTreeMap<String, String>) {
    if above.contains_key(IDENTITY[0]) {
        options.retain(|name, _| !IDENTITY.contains(&name.as_str()));
    }
    options.extend(above);
}

/// The profile in AWS's own files. Without files, and without a profile by name, there is nothing to say.
fn from_files(variables: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
    let variable = |name: &str| variables.get(name).filter(|value| !value.is_empty()).cloned();
    let file = |name: &str, usual: &str| {
        let named = variable(name).map(PathBuf::from);
        named.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".aws").join(usual)))
    };
    let asked = variable("AWS_PROFILE").or_else(|| variable("AWS_DEFAULT_PROFILE"));
    let profile = asked.clone().unwrap_or_else(|| "default".to_owned());
    let read = |path: Option<PathBuf>| path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let mut found = section(&read(file("AWS_CONFIG_FILE", "config")), &["profile", &profile]);
    if found.is_none() || profile == "default" {
        let plain = section(&read(file("AWS_CONFIG_FILE", "config")), &[&profile]).filter(|_| profile == "default");
        found = plain.or(found);
    }
    let keys = section(&read(file("AWS_SHARED_CREDENTIALS_FILE", "credentials")), &[&profile]);
    if found.is_none() && keys.is_none() {
        return match asked {
            Some(_) if variable("AWS_ACCESS_KEY_ID").is_none() => Err(Error::BadValue {
                what: "the AWS profile",
                value: profile,
                why: "neither `~/.aws/config` nor `~/.aws/credentials` has it".to_owned(),
            }),
            _ => Ok(BTreeMap::new()),
        };
    }
    let mut said = found.unwrap_or_default();
    said.extend(keys.unwrap_or_default());
    let other = NOT_FOLLOWED.iter().find(|name| said.contains_key(**name));
    if let (Some(other), None, None) = (other, said.get(IDENTITY[0]), variable("AWS_ACCESS_KEY_ID")) {
        if asked.is_none() {
            return Ok(BTreeMap::new());
        }
        return Err(Error::BadValue {
            what: "the AWS profile",
            value: profile,
            why: format!(
                "it gets its credentials by `{other}`, which is not followed here; export them with `aws configure export-credentials`"
            ),
        });
    }
    let names = [
        ("aws_access_key_id", IDENTITY[0]),
        ("aws_secret_access_key", IDENTITY[1]),
        ("aws_session_token", IDENTITY[2]),
        ("region", "aws_region"),
        ("endpoint_url", "aws_endpoint_url"),
    ];
    Ok(names.iter().filter_map(|(theirs, ours)| Some(((*ours).to_owned(), said.get(*theirs)?.clone()))).collect())
}

/// The settings of a section, whose name is these words.
fn section(text: &str, name: &[&str]) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut inside = false;
    for line in text.lines() {
        // Indented lines belong to a nested setting.
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        if let Some(title) = line.trim().strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = title.split_whitespace().eq(name.iter().copied());
            if inside {
                found.get_or_insert_default();
            }
        } else if let (true, Some((key, value))) = (inside, line.split_once('=')) {
            let value = value.trim();
            if !value.is_empty() {
                found.get_or_insert_default().insert(key.trim().to_ascii_lowercase(), value.to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// A home, and variables that lead to files in it.
    fn home(config: &str, credentials: &str, forebay: &str) -> (tempfile::TempDir, Home, BTreeMap<String, String>) {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(root.path().join(name), text).unwrap();
            root.path().join(name).display().to_string()
        };
        write("config.toml", forebay);
        let files = [("AWS_CONFIG_FILE", write("aws", config)), ("AWS_SHARED_CREDENTIALS_FILE", write("keys", credentials))];
        let home = Home::at(root.path()).unwrap();
        (root, home, files.map(|(name, path)| (name.to_owned(), path)).into())
    }

    #[test]
    fn the_client_is_above_the_profile_and_that_above_the_files() {
        let config =
            "[default]\nregion = eu-west-1\ns3 =\n  region = no\n[profile work]\nregion=us-west-2\nendpoint_url = http://h\n";
        let credentials = "[default]\naws_access_key_id = A\naws_secret_access_key = S\naws_session_token = T\n";
        let forebay =
            "[profiles.minio.storage]\naws_access_key_id = 'M'\naws_secret_access_key = 'N'\naws_skip_signature = false\n";
        let (_root, home, mut variables) = home(config, credentials, forebay);
        let got = |profile: &str, variables: &BTreeMap<String, String>| {
            let mut got = options(&home, profile, variables).unwrap().0;
            got.retain(|name, _| !name.ends_with("_file"));
            got
        };
        let files =
            [("aws_access_key_id", "A"), ("aws_region", "eu-west-1"), ("aws_secret_access_key", "S"), ("aws_session_token", "T")];
        assert_eq!(got("default", &variables), map(&files));
        // An identity is taken as a whole: no session token of another.
        let profile = [
            ("aws_access_key_id", "M"),
            ("aws_region", "eu-west-1"),
            ("aws_secret_access_key", "N"),
            ("aws_skip_signature", "false"),
        ];
        assert_eq!(got("minio", &variables), map(&profile));
        variables.extend(map(&[
            ("AWS_REGION", "x"),
            ("AWS_ACCESS_KEY_ID", "V"),
            ("AWS_SECRET_ACCESS_KEY", "W"),
            ("PATH", "/bin"),
        ]));
        let client =
            [("aws_access_key_id", "V"), ("aws_region", "x"), ("aws_secret_access_key", "W"), ("aws_skip_signature", "false")];
        assert_eq!(got("minio", &variables), map(&client));
        variables.extend(map(&[("AWS_PROFILE", "work")]));
        assert_eq!(got("default", &variables)["aws_endpoint_url"], "http://h");
    }

    #[test]
    fn a_profile_that_leads_nowhere_is_told() {
        let (_root, home, mut variables) = home("[profile sso]\nsso_session = s\n[default]\nsso_session = s\n", "", "");
        assert!(options(&home, "default", &variables).is_ok(), "nobody asked for it");
        for (profile, why) in [("sso", "sso_session"), ("other", "neither")] {
            variables.insert("AWS_PROFILE".into(), profile.into());
            let error = options(&home, "default", &variables).unwrap_err();
            assert!(error.to_string().contains(why) || format!("{error:?}").contains(why), "{error:?}");
        }
        variables.insert("AWS_ACCESS_KEY_ID".into(), "A".into());
        assert!(options(&home, "default", &variables).is_ok());
    }
}
