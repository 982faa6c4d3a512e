//! Object stores: which bucket a location is in, with which settings it is reached, and what its failures mean.
//!
//! ```text
//! s3://bucket/prefix/tables/…      S3 and what speaks like it   settings `aws_…`
//! gs://bucket/prefix/tables/…      Google Cloud Storage         settings `google_…`
//! az://container/prefix/tables/…   Azure Blob Storage           settings `azure_…`
//! ```
//!
//! Settings belong to the bucket of a lake ([`use_storage`]); buckets nobody has named use those given last. Calls are made
//! on threads of this module, so that code of any kind, also that of blocking threads, can wait for them. Settings may hold
//! secrets: they are never shown, and texts of errors are cleared of them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientConfigKey, ObjectStore, RetryConfig};

/// How long a connection to an object store may take to be made.
const CONNECT_LIMIT: &str = "5s";
/// How long one request may take, with what it carries: at most one part of a file.
const REQUEST_LIMIT: &str = "120s";
/// How often a request is repeated that failed in a way that may pass.
const REPEATS_MAX: usize = 6;
/// How long requests are repeated.
const REPEAT_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to get credentials from where they are given out.
const CREDENTIALS_LIMIT: Duration = Duration::from_secs(5);
/// Threads that wait for object stores.
const THREADS: usize = 2;
/// Shortest setting that counts as a secret when it is looked for in a text.
const SECRET_BYTES_MIN: usize = 6;

/// Settings of an object store by name: `aws_access_key_id`, `aws_endpoint_url`, `google_service_account`, … as environment
/// variables have them, in lower case. Its `Debug` shows names only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageOptions(pub BTreeMap<String, String>);

impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl StorageOptions {
    /// Whether there is such a setting.
    #[must_use]
    pub fn knows(name: &str) -> bool {
        match name.split_once('_') {
            Some(("aws", _)) => name.parse::<AmazonS3ConfigKey>().is_ok(),
            Some(("google", _)) => name.parse::<GoogleConfigKey>().is_ok(),
            Some(("azure", _)) => name.parse::<AzureConfigKey>().is_ok(),
            _ => false,
        }
    }

    fn get(&self, names: &[&str]) -> Option<&str> {
        names.iter().find_map(|name| self.0.get(*name)).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Files that these settings point to: tokens and keys that are read when they are needed.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        const FILES: [&str; 6] = [
            "aws_web_identity_token_file",
            "aws_container_authorization_token_file",
            "google_service_account",
            "google_service_account_path",
            "google_application_credentials",
            "azure_federated_token_file",
        ];
        FILES.iter().filter_map(|name| self.0.get(*name).cloned()).collect()
    }

    /// `text` without anything of these settings that must stay secret.
    fn clear(&self, text: &str) -> String {
        let is_secret = |name: &str| ["secret", "token", "key", "sas", "password"].iter().any(|word| name.contains(word));
        let secrets = self.0.iter().filter(|(name, value)| is_secret(name) && value.len() >= SECRET_BYTES_MIN);
        secrets.fold(text.to_owned(), |text, (_, secret)| text.replace(secret.as_str(), "***"))
    }
}

/// Whether failed requests are repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Where that may help. For files that are written once, under names of their own.
    Yes,
    /// Never: whoever asks needs to know what became of each request.
    Never,
}

/// A kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    S3,
    Google,
    Azure,
}

impl Kind {
    const SCHEMES: [(&str, Self); 5] =
        [("s3", Self::S3), ("s3a", Self::S3), ("gs", Self::Google), ("gcs", Self::Google), ("az", Self::Azure)];

    fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Bucket {
    kind: Kind,
    name: String,
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.kind.scheme(), self.name)
    }
}

/// A place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub bucket: Bucket,
    /// Key or prefix, without slashes at its ends.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { write!(f, "{}", self.bucket) } else { write!(f, "{}/{}", self.bucket, self.key) }
    }
}

impl Place {
    /// The place a location names, if it is in an object store; `Err`: it means to be and is not.
    pub(crate) fn parse(location: &str) -> Option<Result<Self, ()>> {
        let (scheme, rest) = location.split_once("://")?;
        let (_, kind) = *Kind::SCHEMES.iter().find(|(name, _)| *name == scheme)?;
        let (name, key) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        // A key that begins with a slash is another than one that does not.
        let key = key.trim_end_matches('/').to_owned();
        let good = !name.is_empty() && !key.starts_with('/') && name.bytes().all(plain) && Path::parse(&key).is_ok();
        Some(if good { Ok(Self { bucket: Bucket { kind, name: name.to_owned() }, key }) } else { Err(()) })
    }

    pub(crate) fn path(&self) -> Path {
        Path::parse(&self.key).expect("checked by `parse`")
    }
}

/// What a failure of an object store means for whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There are no credentials.
    Credentials,
    /// There is no such bucket.
    Bucket,
    /// There is no such object.
    Missing,
    /// The credentials are not allowed to.
    Refused,
    /// It did not answer.
    Unreachable,
    /// Anything else.
    Other,
}

/// A failed call of an object store.
#[derive(Debug, Clone, thiserror::Error)]
#[error("could not {verb} `{place}`: {why}")]
pub struct Failure {
    /// What it means.
    pub trouble: Trouble,
    /// `read`, `write`, …
    pub verb: &'static str,
    /// Bucket or object.
    pub place: String,
    /// What the store, or the way to it, said. Without secrets.
    pub why: String,
}

impl Failure {
    fn of(verb: &'static str, place: &Place, options: &StorageOptions, error: &object_store::Error) -> Self {
        let why = match error {
            object_store::Error::Precondition { .. } if verb == "read" => "it was replaced while it was read".to_owned(),
            error => options.clear(&told(error)),
        };
        let trouble = match error {
            _ if ["NoSuchBucket", "ContainerNotFound", "bucket does not exist"].iter().any(|word| why.contains(word)) => {
                Trouble::Bucket
            }
            // The machine's own service, which is asked where nobody gave a key, gave none.
            _ if why.contains("Error performing token request") => Trouble::Credentials,
            object_store::Error::NotFound { .. } if place.key.is_empty() || verb == "write" => Trouble::Bucket,
            object_store::Error::NotFound { .. } => Trouble::Missing,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Trouble::Refused,
            // Errors of listings keep what was answered in their text only.
            _ if ["403 Forbidden", "401 Unauthorized"].iter().any(|status| why.contains(status)) => Trouble::Refused,
            _ if is_unreachable(error) => Trouble::Unreachable,
            _ => Trouble::Other,
        };
        Self { trouble, verb, place: place.to_string(), why }
    }

    /// The failure at the bottom of an error of another library, if there is one.
    pub(crate) fn within<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(failure) = error.downcast_ref::<Self>() {
                return Some(failure);
            }
            let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            next = match inner {
                Some(inner) => Some(inner as &(dyn std::error::Error + 'static)),
                None => error.source(),
            };
        }
        None
    }
}

/// An error with its causes, each said once. Addresses lose what follows a `?`, where some stores carry signatures.
fn told(error: &object_store::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    let words = text.split(' ').map(|word| if word.contains("://") { word.split('?').next().unwrap_or(word) } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// Whether no answer came: no connection, none in time, or only that the server has trouble of its own.
fn is_unreachable(error: &object_store::Error) -> bool {
    let text = told(error);
    let words = [
        "HTTP error",
        "error sending request",
        "timed out",
        "deadline has elapsed",
        "connect",
        " 500 ",
        " 502 ",
        " 503 ",
        " 504 ",
    ];
    matches!(error, object_store::Error::Generic { .. }) && words.iter().any(|word| text.contains(word))
}

impl From<Failure> for std::io::Error {
    fn from(failure: Failure) -> Self {
        let kind = match failure.trouble {
            Trouble::Missing | Trouble::Bucket => std::io::ErrorKind::NotFound,
            Trouble::Refused | Trouble::Credentials => std::io::ErrorKind::PermissionDenied,
            Trouble::Unreachable => std::io::ErrorKind::NotConnected,
            Trouble::Other => std::io::ErrorKind::Other,
        };
        Self::new(kind, failure)
    }
}

/// The store of a bucket, and the settings it was made with.
#[derive(Clone)]
pub(crate) struct Opened {
    pub store: Arc<dyn ObjectStore>,
    options: StorageOptions,
}

impl Opened {
    /// A failure of a call of this store.
    pub(crate) fn failed(&self, verb: &'static str, place: &Place) -> impl FnOnce(object_store::Error) -> Failure {
        let (place, options) = (place.clone(), self.options.clone());
        move |error| Failure::of(verb, &place, &options, &error)
    }
}

/// Stores of this process, and how they are reached.
#[derive(Default)]
struct Known {
    /// Settings given last.
    last: StorageOptions,
    /// Settings given for a bucket.
    own: HashMap<Bucket, StorageOptions>,
    /// Stores made so far.
    stores: HashMap<Bucket, Opened>,
}

fn known() -> &'static Mutex<Known> {
    static KNOWN: OnceLock<Mutex<Known>> = OnceLock::new();
    KNOWN.get_or_init(Mutex::default)
}

/// Reaches the bucket of `uri` with these settings from now on, and other buckets too unless they have settings of their own.
/// With a location that is in no bucket, these settings are for all buckets that have none of their own.
pub fn use_storage(uri: &str, options: &StorageOptions) {
    let mut known = known().lock().unwrap_or_else(PoisonError::into_inner);
    if known.last != *options {
        known.last = options.clone();
    }
    if let Some(Ok(place)) = Place::parse(uri)
        && known.own.get(&place.bucket) != Some(options)
    {
        known.own.insert(place.bucket, options.clone());
    }
}

/// The store of a place.
pub(crate) fn opened(place: &Place) -> Result<Opened, Failure> {
    let mut known = known().lock().unwrap_or_else(PoisonError::into_inner);
    let options = known.own.get(&place.bucket).unwrap_or(&known.last).clone();
    if let Some(opened) = known.stores.get(&place.bucket).filter(|opened| opened.options == options) {
        return Ok(opened.clone());
    }
    let opened = Opened { store: build(place, &options, Repeat::Yes)?, options };
    known.stores.insert(place.bucket.clone(), opened.clone());
    Ok(opened)
}

/// The store of a place of which nobody has said that it can be reached: that credentials are missing is told here, at once.
pub(crate) fn ready(place: &Place) -> Result<Opened, Failure> {
    let opened = opened(place)?;
    if place.bucket.kind == Kind::S3 && opened.options.get(&["aws_access_key_id"]).is_none() {
        check_s3_credentials(place, &opened.options)?;
    }
    Ok(opened)
}

/// A URI of a place in an object store in its one form.
///
/// # Errors
/// [`crate::Error::Location`] if it is no such URI.
pub fn remote_location(uri: &str) -> Result<String, crate::Error> {
    match Place::parse(uri) {
        Some(Ok(place)) => Ok(place.to_string()),
        _ => Err(crate::Error::Location { location: uri.to_owned() }),
    }
}

/// Lets a store stand for a bucket.
#[cfg(test)]
pub(crate) fn stand_in(uri: &str, store: Arc<dyn ObjectStore>) {
    let place = Place::parse(uri).and_then(Result::ok).expect("a location in an object store");
    // Nobody asks the machine for credentials when there are some.
    let options = StorageOptions([("aws_access_key_id".to_owned(), "stand-in".to_owned())].into());
    let opened = Opened { store, options: options.clone() };
    let mut known = known().lock().unwrap_or_else(PoisonError::into_inner);
    known.own.insert(place.bucket.clone(), options);
    known.stores.insert(place.bucket, opened);
}

/// The object store of a lake, and the prefix the lake has there.
///
/// # Errors
/// [`crate::Error::Location`] if `uri` is in no object store, [`crate::Error::Remote`] if the settings make no sense.
pub fn object_store(uri: &str, options: &StorageOptions, repeat: Repeat) -> Result<(Arc<dyn ObjectStore>, String), crate::Error> {
    match Place::parse(uri) {
        Some(Ok(place)) => Ok((build(&place, options, repeat)?, place.key)),
        _ => Err(crate::Error::Location { location: uri.to_owned() }),
    }
}

fn build(place: &Place, options: &StorageOptions, repeat: Repeat) -> Result<Arc<dyn ObjectStore>, Failure> {
    let retry = RetryConfig {
        max_retries: if repeat == Repeat::Yes { REPEATS_MAX } else { 0 },
        retry_timeout: REPEAT_LIMIT,
        backoff: BackoffConfig::default(),
    };
    let name = &place.bucket.name;
    let built: object_store::Result<Arc<dyn ObjectStore>> = match place.bucket.kind {
        Kind::S3 => s3(name, options, retry).build().map(|store| Arc::new(store) as _),
        Kind::Google => google(name, options, retry).build().map(|store| Arc::new(store) as _),
        Kind::Azure => azure(name, options, retry).build().map(|store| Arc::new(store) as _),
    };
    // Nothing was asked yet: what is wrong is in the settings.
    built.map_err(|error| Failure { trouble: Trouble::Credentials, ..Failure::of("use", place, options, &error) })
}

/// The settings of one kind of store, as that store calls them. Unknown ones are other programs'.
fn settings<'o, K: std::str::FromStr>(options: &'o StorageOptions, prefix: &'static str) -> impl Iterator<Item = (K, &'o str)> {
    let ours = options.0.iter().filter(move |(name, _)| name.starts_with(prefix));
    ours.filter_map(|(name, value)| Some((name.parse().ok()?, value.as_str())))
}

fn s3(bucket: &str, options: &StorageOptions, retry: RetryConfig) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::new().with_retry(retry);
    for (key, value) in [(ClientConfigKey::ConnectTimeout, CONNECT_LIMIT), (ClientConfigKey::Timeout, REQUEST_LIMIT)] {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    let endpoint = options.get(&["aws_endpoint_url_s3", "aws_endpoint_url", "aws_endpoint"]);
    builder = builder.with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    for (key, value) in settings(options, "aws_") {
        // What a swap is made of is not to be switched off.
        if !matches!(key, AmazonS3ConfigKey::Bucket | AmazonS3ConfigKey::ConditionalPut) && !value.is_empty() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(bucket)
}

fn google(bucket: &str, options: &StorageOptions, retry: RetryConfig) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::new().with_retry(retry);
    for (key, value) in [(ClientConfigKey::ConnectTimeout, CONNECT_LIMIT), (ClientConfigKey::Timeout, REQUEST_LIMIT)] {
        builder = builder.with_config(GoogleConfigKey::Client(key), value);
    }
    for (key, value) in settings(options, "google_") {
        if !matches!(key, GoogleConfigKey::Bucket) && !value.is_empty() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_bucket_name(bucket)
}

fn azure(container: &str, options: &StorageOptions, retry: RetryConfig) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::new().with_retry(retry);
    for (key, value) in [(ClientConfigKey::ConnectTimeout, CONNECT_LIMIT), (ClientConfigKey::Timeout, REQUEST_LIMIT)] {
        builder = builder.with_config(AzureConfigKey::Client(key), value);
    }
    let endpoint = options.get(&["azure_storage_endpoint", "azure_endpoint"]);
    builder = builder.with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")));
    for (key, value) in settings(options, "azure_") {
        if !matches!(key, AzureConfigKey::ContainerName) && !value.is_empty() {
            builder = builder.with_config(key, value);
        }
    }
    builder.with_container_name(container)
}

/// Tries whether a lake's bucket is there and lets us in: one look for credentials, one listing of at most one name.
///
/// # Errors
/// [`crate::Error::Remote`] says what is missing.
pub fn check_storage(uri: &str, options: &StorageOptions) -> Result<(), crate::Error> {
    let Some(Ok(place)) = Place::parse(uri) else { return Ok(()) };
    if place.bucket.kind == Kind::S3 {
        check_s3_credentials(&place, options)?;
    }
    let opened = Opened { store: build(&place, options, Repeat::Never)?, options: options.clone() };
    let store = Arc::clone(&opened.store);
    let prefix = Path::parse(format!("{}/catalog/format", place.key).trim_start_matches('/')).expect("of checked parts");
    let looked = wait(async move { store.list(Some(&prefix)).next().await.transpose() });
    let bucket = Place { bucket: place.bucket.clone(), key: String::new() };
    Ok(looked.map(drop).map_err(opened.failed("list", &bucket))?)
}

/// Credentials may come from a service of the machine; without one that is told here, and not by a call that waits for it.
fn check_s3_credentials(place: &Place, options: &StorageOptions) -> Result<(), Failure> {
    let retry = RetryConfig { max_retries: 0, retry_timeout: CREDENTIALS_LIMIT, backoff: BackoffConfig::default() };
    if options.get(&["aws_skip_signature"]).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(());
    }
    let none = |why: String| Failure { trouble: Trouble::Credentials, verb: "use", place: place.bucket.to_string(), why };
    let store = s3(&place.bucket.name, options, retry).build().map_err(|error| none(options.clear(&told(&error))))?;
    let asked = wait(async move { tokio::time::timeout(CREDENTIALS_LIMIT, store.credentials().get_credential()).await });
    match asked {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(none(options.clear(&told(&error)))),
        Err(_) => Err(none("the machine's own service gave none in time".to_owned())),
    }
}

/// Threads of this module.
pub(crate) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let builder =
            tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("object-store").enable_all().build();
        builder.expect("a process can start threads")
    })
}

/// Waits for a call, on whatever thread this is.
pub(crate) fn wait<T: Send + 'static>(call: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime().spawn(async move {
        // Nobody else holds the other end, and it waits.
        let _ = sender.send(call.await);
    });
    receiver.recv().expect("a call ends")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |text: &str| Place::parse(text).and_then(Result::ok).map(|place| (place.to_string(), place.key));
        assert_eq!(place("s3a://b/k/x/"), Some(("s3://b/k/x".into(), "k/x".into())));
        assert_eq!(place("gcs://b-1.x"), Some(("gs://b-1.x".into(), String::new())));
        assert!(Place::parse("/a/b").is_none() && Place::parse("file:///a").is_none() && Place::parse("http://a").is_none());
        for bad in ["s3://", "s3:///k", "s3://a b/k", "s3://user:pw@host/k", "s3://b/a//b", "s3://b/a/../b"] {
            assert!(matches!(Place::parse(bad), Some(Err(()))), "{bad}");
        }
    }

    #[test]
    fn secrets_stay_secret() {
        let options =
            [("aws_secret_access_key", "s3cr3ts3cr3t"), ("aws_region", "eu-west-1"), ("azure_storage_sas_key", "sig=abcdefg")];
        let options = StorageOptions(options.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        assert!(!format!("{options:?}").contains("s3cr3t"));
        let error = object_store::Error::Generic {
            store: "S3",
            source: "GET http://h/b?sig=abcdefg said s3cr3ts3cr3t in eu-west-1".into(),
        };
        let place = Place::parse("s3://b/k").unwrap().unwrap();
        let text = Failure::of("read", &place, &options, &error).to_string();
        assert!(!text.contains("s3cr3t") && !text.contains("sig=") && text.contains("eu-west-1"), "{text}");
    }

    #[test]
    fn a_failure_is_found_below_other_errors() {
        let failure = Failure { trouble: Trouble::Unreachable, verb: "read", place: "s3://b/k".into(), why: "no".into() };
        let below = parquet::errors::ParquetError::External(Box::new(std::io::Error::from(failure)));
        assert_eq!(Failure::within(&below).unwrap().trouble, Trouble::Unreachable);
        assert!(Failure::within(&parquet::errors::ParquetError::EOF("x".into())).is_none());
    }
}
