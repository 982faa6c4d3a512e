//! The format of catalog objects: canonical JSON, named by its SHA-256.
//!
//! ```text
//! {"@type":"commit","@version":1,"author":{…},"authored_at":"…","generation":7,"message":"…","parents":[…],
//!  "properties":{…},"tainted":"<job>","tree":"<hash>"}
//! {"@type":"tree","@version":1,"namespaces":{"default":"<hash>"}}
//! {"@type":"namespace","@version":1,"properties":{…},"tables":{"flights":{"metadata_location":"…","properties":{…}}}}
//! {"@type":"ref","@version":1,"commit":"<hash>","forwards":[{"at":"…","from":"<hash>","to":"<hash>"}],"protected":true}
//!                                                         (not content-addressed; only `commit` is always there;
//!                                                          a namespace without properties has no such key)
//! {"@type":"catalog","@version":1}                         (the marker file `format`)
//! ```
//!
//! Canonical: keys in byte order, no white space, no null (an absent value has no key), numbers are whole. The fields
//! of the structs below are declared in that order, and `tests::objects_are_canonical` holds them to it.
//! Reading is strict: a field or version we do not know is an error, so that no writer drops what it cannot see.

use crate::change::TableEntry;
use forebay_types::CommitHash;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Version of every kind of object.
pub(crate) const VERSION: u32 = 1;

/// An immutable state of the whole lake, and how it came about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Name of the commit.
    pub hash: CommitHash,
    /// What it was built upon: none (the root), one, or two (a merge: target first).
    pub parents: Vec<CommitHash>,
    /// Who.
    pub author_name: String,
    /// Mail address, may be empty.
    pub author_email: String,
    /// What and why.
    pub message: String,
    /// Anything else, for programs.
    pub properties: BTreeMap<String, String>,
    /// RFC 3339 in UTC with milliseconds.
    pub authored_at: String,
    /// Name of the tree object.
    pub tree: String,
    /// The job whose failed run left this commit.
    pub tainted: Option<String>,
    /// Longest way to the root; a parent's is smaller.
    pub generation: u64,
}

/// Wire form of a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitObject {
    pub(crate) author: Author,
    pub(crate) authored_at: String,
    pub(crate) generation: u64,
    pub(crate) message: String,
    pub(crate) parents: Vec<String>,
    pub(crate) properties: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tainted: Option<String>,
    pub(crate) tree: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Author {
    pub(crate) email: String,
    pub(crate) name: String,
}

/// Namespaces and the names of their objects.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TreeObject {
    pub(crate) namespaces: BTreeMap<String, String>,
}

/// The tables of one namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamespaceObject {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) tables: BTreeMap<String, EntryObject>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryObject {
    pub(crate) metadata_location: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) properties: BTreeMap<String, String>,
}

/// Content of a ref file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefObject {
    pub(crate) commit: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) forwards: Vec<ForwardObject>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) protected: bool,
}

/// A merge that moved a branch without a commit of its own: the branch was at `from` until `at`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ForwardObject {
    pub(crate) at: String,
    pub(crate) from: String,
    pub(crate) to: String,
}

/// Content of the marker file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FormatObject {}

/// A kind of object: its `@type`.
pub(crate) trait Kind: Serialize + DeserializeOwned {
    const NAME: &'static str;
}

impl Kind for CommitObject {
    const NAME: &'static str = "commit";
}
impl Kind for TreeObject {
    const NAME: &'static str = "tree";
}
impl Kind for NamespaceObject {
    const NAME: &'static str = "namespace";
}
impl Kind for RefObject {
    const NAME: &'static str = "ref";
}
impl Kind for FormatObject {
    const NAME: &'static str = "catalog";
}

#[derive(Serialize)]
struct Written<'a, T> {
    #[serde(rename = "@type")]
    kind: &'static str,
    #[serde(rename = "@version")]
    version: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// The canonical bytes of an object.
pub(crate) fn encode<T: Kind>(body: &T) -> Vec<u8> {
    let written = Written { kind: T::NAME, version: VERSION, body };
    serde_json::to_vec(&written).expect("text and whole numbers always serialize")
}

/// The name of an object with these bytes.
pub(crate) fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// The `@type` of an object, if its bytes are one of ours.
pub(crate) fn kind_of(bytes: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    Some(value.get("@type")?.as_str()?.to_owned())
}

/// Reads an object; the error says in words what is wrong with it.
pub(crate) fn decode<T: Kind>(bytes: &[u8]) -> Result<T, String> {
    let mut fields: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(bytes).map_err(|error| format!("it is not a catalog object ({error})"))?;
    let kind = fields.remove("@type");
    let version = fields.remove("@version");
    if kind.as_ref().and_then(|kind| kind.as_str()) != Some(T::NAME) {
        return Err(format!("it is not a {} object", T::NAME));
    }
    match version.as_ref().and_then(serde_json::Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => return Err(format!("it has version {version}, this program knows version {VERSION}")),
        None => return Err("it has no version".to_owned()),
    }
    serde_json::from_value(fields.into()).map_err(|error| format!("it is not a valid {} object ({error})", T::NAME))
}

impl From<&TableEntry> for EntryObject {
    fn from(entry: &TableEntry) -> Self {
        Self { metadata_location: entry.metadata_location.clone(), properties: entry.properties.clone() }
    }
}

impl From<EntryObject> for TableEntry {
    fn from(entry: EntryObject) -> Self {
        Self { metadata_location: entry.metadata_location, properties: entry.properties }
    }
}
