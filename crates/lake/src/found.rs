//! Finds files to import: a file, a folder, or a glob, on the local disk or in an object store.
//!
//! ```text
//! /d/a.csv            a file            s3://bucket/d/a.csv       an object
//! /d                  all files below   s3://bucket/d             all objects below
//! /d/*/x-*.parquet    what matches      s3://bucket/d/*/x-*.…     what matches; listed level by level
//! ```
//!
//! Both follow the same rules: what is below a folder counts by the ending of its name, unless a name on the way starts with
//! `.` or `_`; `*` stops at a `/`, `**` does not, and neither finds names that start with a dot. A name that is there is a
//! name, whatever signs are in it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStoreExt as _};

use crate::error::{Error, Result};
use crate::files::text;
use crate::storage::{Bucket, Location, Opened, Place, Trouble, ready, wait};

/// Files of one import, at most.
pub const SOURCE_FILES_MAX: usize = 100_000;
/// Objects looked at for one import, at most: of all kinds, below one prefix.
const LISTED_MAX: usize = 1_000_000;
/// What a folder's value is when it stands for null.
const HIVE_NULL: &str = "__HIVE_DEFAULT_PARTITION__";
/// How globs match, here and there.
const OPTIONS: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// A file to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// Absolute path, or URI in an object store.
    pub path: String,
    /// What it holds, by its name.
    pub format: SourceFormat,
    /// Size.
    pub bytes: u64,
    /// Names and values of the folders called `name=value` above it, from the outside; `None` is null.
    pub folders: Vec<(String, Option<String>)>,
    /// Which version of an object was found; another is not read.
    pub version: Option<String>,
}

/// What a file to import holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceFormat {
    /// `.parquet`
    Parquet,
    /// `.csv`, with a header line.
    Csv,
    /// `.jsonl`, `.ndjson` or `.json`, an object a line.
    JsonLines,
}

impl SourceFormat {
    fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "parquet" | "pq" => Some(Self::Parquet),
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// The Parquet, CSV and JSON lines files at a place, in a folder (with its subfolders), or matched by a glob; sorted by path.
/// Names that start with `.` or `_` inside folders are left out.
///
/// # Errors
/// [`Error::NoSources`] if nothing is there, [`Error::SourceFormat`] for a single file of another kind, [`Error::Remote`] if an
/// object store does not let us look.
pub async fn sources(search_uri: &str) -> Result<Vec<SourceFile>> {
    let uri = search_uri.to_owned();
    tokio::task::spawn_blocking(move || find(&uri)).await.map_err(Error::internal("look for files"))?
}

/// The file or folder below which all lies that [`sources`] finds; of a glob what stands before its first sign.
///
/// # Errors
/// [`Error::Location`] if it is no place for files.
pub fn search_root(search_uri: &str) -> Result<String> {
    let location = Location::parse(search_uri)?;
    match &location {
        Location::Local(path) if path.exists() => Ok(text(path)),
        Location::Local(path) => Ok(text(&before_pattern(path))),
        Location::Remote(_) => Ok(before_pattern(Path::new(&location.text())).to_string_lossy().replacen(":/", "://", 1)),
    }
}

fn before_pattern(path: &Path) -> PathBuf {
    let plain = |part: &std::path::Component<'_>| part.as_os_str().to_str().is_some_and(|part| !is_pattern(part));
    path.components().take_while(plain).collect()
}

fn nothing(uri: &str, why: &str) -> Error {
    Error::NoSources { uri: uri.to_owned(), why: why.to_owned() }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn find(uri: &str) -> Result<Vec<SourceFile>> {
    let location = Location::parse(uri)?;
    let (root, found) = match &location {
        Location::Local(path) => find_near(uri, path)?,
        Location::Remote(place) => Search::new(uri, place)?.run(place)?,
    };
    // Nothing was searched for when a file is named: all folders above it are its own.
    let mut found: Vec<SourceFile> = found.into_iter().map(|file| below(root.as_deref(), file)).collect();
    if found.is_empty() {
        return Err(nothing(uri, "no Parquet, CSV or JSON lines file is there"));
    }
    if found.len() > SOURCE_FILES_MAX {
        return Err(nothing(uri, &format!("there are more than {SOURCE_FILES_MAX} files")));
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found.dedup_by(|a, b| a.path == b.path);
    Ok(found)
}

/// What is on the disk, and the folder that was searched; none if a file was named.
fn find_near(uri: &str, path: &Path) -> Result<(Option<PathBuf>, Vec<SourceFile>)> {
    let mut found = Vec::new();
    if path.is_file() {
        let format = SourceFormat::of(path).ok_or_else(|| Error::SourceFormat { path: text(path) })?;
        return Ok((None, vec![source(path, format)?]));
    }
    if path.is_dir() {
        walk(path, &mut found)?;
        return Ok((Some(path.to_owned()), found));
    }
    if !is_pattern(&text(path)) {
        return Err(nothing(uri, "there is no such file or folder"));
    }
    // By itself, a `**` at the end finds folders only.
    let pattern = if path.ends_with("**") { text(&path.join("*")) } else { text(path) };
    let matches = glob::glob_with(&pattern, OPTIONS).map_err(|error| nothing(uri, &error.to_string()))?;
    for path in matches {
        let path = path.map_err(|error| nothing(uri, &error.to_string()))?;
        if path.is_dir() {
            walk(&path, &mut found)?;
        } else if let Some(format) = SourceFormat::of(&path) {
            found.push(source(&path, format)?);
        }
    }
    Ok((Some(before_pattern(path)), found))
}

fn walk(folder: &Path, found: &mut Vec<SourceFile>) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(Error::storage("list", folder))?;
    for entry in entries {
        let entry = entry.map_err(Error::storage("list", folder))?;
        let path: PathBuf = entry.path();
        if entry.file_name().to_str().is_none_or(is_hidden) {
            continue;
        }
        let kind = entry.file_type().map_err(Error::storage("list", folder))?;
        if kind.is_dir() {
            walk(&path, found)?;
        } else if path.is_file()
            && let Some(format) = SourceFormat::of(&path)
        {
            found.push(source(&path, format)?);
        }
    }
    Ok(())
}

fn is_hidden(name: &str) -> bool {
    name.starts_with(['.', '_'])
}

fn source(path: &Path, format: SourceFormat) -> Result<SourceFile> {
    let bytes = fs::metadata(path).map_err(Error::storage("look at", path))?.len();
    Ok(SourceFile { path: text(path), format, bytes, folders: folders(path), version: None })
}

/// A search in a bucket.
struct Search<'a> {
    uri: &'a str,
    bucket: &'a Bucket,
    opened: Opened,
    found: Vec<SourceFile>,
}

impl<'a> Search<'a> {
    fn new(uri: &'a str, place: &'a Place) -> Result<Self> {
        Ok(Self { uri, bucket: &place.bucket, opened: ready(place)?, found: Vec::new() })
    }

    /// What is at a place, and the prefix that was searched; none if an object was named.
    fn run(mut self, place: &Place) -> Result<(Option<PathBuf>, Vec<SourceFile>)> {
        let named = self.object(&place.path())?;
        let is_marker = named.as_ref().is_some_and(|object| object.size == 0 && self.has_more_below(&object.location));
        if let Some(object) = named.filter(|_| !is_marker) {
            let path = self.text(&object.location);
            let format = SourceFormat::of(Path::new(&path)).ok_or(Error::SourceFormat { path })?;
            self.take(&object, format);
            return Ok((None, self.found));
        }
        let parts: Vec<&str> = place.key.split('/').filter(|part| !part.is_empty()).collect();
        let first = parts.iter().position(|part| is_pattern(part)).unwrap_or(parts.len());
        let root = parts[..first].iter().fold(Key::default(), |root, part| within(&root, part));
        self.expand(&root, &parts[first..])?;
        let root = self.text(&root);
        Ok((Some(PathBuf::from(root)), self.found))
    }

    /// What the rest of a glob matches below a prefix.
    fn expand(&mut self, prefix: &Key, rest: &[&str]) -> Result<()> {
        let Some((part, rest)) = rest.split_first() else { return self.walk(prefix) };
        if *part == "**" {
            return self.walk_matching(prefix, &[&["**"], rest].concat());
        }
        if !is_pattern(part) {
            let next = within(prefix, part);
            let object = if rest.is_empty() { self.object(&next)? } else { None };
            match object.filter(|object| object.size > 0) {
                Some(object) => self.take_if_known(&object),
                None => self.expand(&next, rest)?,
            }
            return Ok(());
        }
        let pattern = self.pattern(part)?;
        let matches = |key: &Key| key.filename().is_some_and(|name| pattern.matches_with(name, OPTIONS));
        let level = self.level(prefix)?;
        if rest.is_empty() {
            let markers: Vec<&Key> = level.common_prefixes.iter().collect();
            let objects = level.objects.iter().filter(|object| matches(&object.location) && !markers.contains(&&object.location));
            objects.for_each(|object| self.take_if_known(object));
        }
        for folder in level.common_prefixes.iter().filter(|folder| matches(folder)) {
            self.expand(folder, rest)?;
        }
        Ok(())
    }

    fn pattern(&self, text: &str) -> Result<glob::Pattern> {
        glob::Pattern::new(text).map_err(|error| nothing(self.uri, &error.to_string()))
    }

    /// All objects below a prefix whose names on the way are not hidden.
    fn walk(&mut self, prefix: &Key) -> Result<()> {
        for object in self.list(prefix)? {
            let mut names = object.location.prefix_match(prefix).into_iter().flatten();
            if names.all(|part| !is_hidden(part.as_ref())) {
                self.take_if_known(&object);
            }
        }
        Ok(())
    }

    /// All objects below a prefix that match a glob, or lie in a folder that does.
    fn walk_matching(&mut self, prefix: &Key, parts: &[&str]) -> Result<()> {
        let pattern = self.pattern(&parts.join("/"))?;
        for object in self.list(prefix)? {
            let names: Vec<String> =
                object.location.prefix_match(prefix).into_iter().flatten().map(|part| part.as_ref().to_owned()).collect();
            let matches = |count: usize| {
                let inside = names[count..].iter().all(|name| !is_hidden(name));
                inside && pattern.matches_with(&names[..count].join("/"), OPTIONS)
            };
            if (1..=names.len()).rev().any(matches) {
                self.take_if_known(&object);
            }
        }
        Ok(())
    }

    fn take_if_known(&mut self, object: &ObjectMeta) {
        if let Some(format) = SourceFormat::of(Path::new(object.location.as_ref())) {
            self.take(object, format);
        }
    }

    fn take(&mut self, object: &ObjectMeta, format: SourceFormat) {
        let path = self.text(&object.location);
        let folders = folders(Path::new(&path));
        self.found.push(SourceFile { path, format, bytes: object.size, folders, version: object.e_tag.clone() });
    }

    fn text(&self, key: &Key) -> String {
        Place { bucket: self.bucket.clone(), key: key.to_string() }.to_string()
    }

    fn place(&self, key: &Key) -> Place {
        Place { bucket: self.bucket.clone(), key: key.to_string() }
    }

    /// An object, if there is one of that name.
    fn object(&self, key: &Key) -> Result<Option<ObjectMeta>> {
        if key.as_ref().is_empty() {
            return Ok(None);
        }
        let (store, path) = (Arc::clone(&self.opened.store), key.clone());
        match wait(async move { store.head(&path).await }).map_err(self.opened.failed("look at", &self.place(key))) {
            Ok(object) => Ok(Some(object)),
            Err(failure) if failure.trouble == Trouble::Missing => Ok(None),
            Err(failure) => Err(failure.into()),
        }
    }

    /// Some programs write an empty object for a folder.
    fn has_more_below(&self, key: &Key) -> bool {
        let (store, prefix) = (Arc::clone(&self.opened.store), key.clone());
        wait(async move { store.list(Some(&prefix)).next().await }).is_some_and(|first| first.is_ok())
    }

    /// Objects and folders right below a prefix.
    fn level(&self, prefix: &Key) -> Result<object_store::ListResult> {
        let (store, under) = (Arc::clone(&self.opened.store), prefix.clone());
        let listed = wait(async move { store.list_with_delimiter(Some(&under)).await });
        Ok(listed.map_err(self.opened.failed("list", &self.place(prefix)))?)
    }

    /// All objects below a prefix, but for those that stand for folders.
    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        let (store, under) = (Arc::clone(&self.opened.store), prefix.clone());
        let listed = wait(async move { store.list(Some(&under)).take(LISTED_MAX + 1).try_collect::<Vec<_>>().await });
        let mut objects = listed.map_err(self.opened.failed("list", &self.place(prefix)))?;
        if objects.len() > LISTED_MAX {
            return Err(nothing(self.uri, &format!("there are more than {LISTED_MAX} objects below `{}`", self.text(prefix))));
        }
        objects.sort_by(|a, b| a.location.cmp(&b.location));
        let empty = objects.iter().filter(|object| object.size == 0).map(|object| format!("{}/", object.location));
        let folders: Vec<String> =
            empty.filter(|folder| objects.iter().any(|object| object.location.as_ref().starts_with(folder.as_str()))).collect();
        objects.retain(|object| object.size > 0 || !folders.contains(&format!("{}/", object.location)));
        Ok(objects)
    }
}

/// A name below a prefix, as it is: no sign of it is escaped.
fn within(prefix: &Key, name: &str) -> Key {
    let text = if prefix.as_ref().is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    Key::parse(text).expect("parts of a key that was checked")
}

/// The folders called `name=value` on the way to a file. Values are percent-encoded, as Spark and pyarrow do.
fn folders(path: &Path) -> Vec<(String, Option<String>)> {
    let names = path.parent().into_iter().flat_map(Path::components).filter_map(|part| part.as_os_str().to_str());
    let pairs = names.filter_map(|name| name.split_once('=')).filter(|(name, _)| !name.is_empty());
    pairs.map(|(name, value)| (unescaped(name), (value != HIVE_NULL).then(|| unescaped(value)))).collect()
}

/// `%2F` as `/`; what is no such code stays.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code =
            tail.get(..2).filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// Leaves only the folders below `root`: what is above was not part of the search.
fn below(root: Option<&Path>, mut file: SourceFile) -> SourceFile {
    let above = root.map_or(0, |root| folders(&root.join("file")).len());
    file.folders.drain(..above.min(file.folders.len()));
    file
}
