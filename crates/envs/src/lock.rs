//! Locks: exact versions with the hashes of their files, and the file that pins them in a project.
//!
//! ```toml
//! # forebay.lock: written by `forebay env lock`; check it in.
//! version = 1
//!
//! [[environment]]
//! python = "3.11"
//! requirements = ["pandas==2.0.*", "pyarrow"]
//! packages = '''
//! numpy==1.26.4 \
//!     --hash=sha256:…
//! '''
//! ```
//!
//! An entry holds for exactly the Python and the requirements it names; when a project asks for something else, the
//! entry is stale and not used.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use toml_edit::{DocumentMut, Item};

use crate::{EnvironmentRequest, Error, requirements, version};

/// Name of the file in a project.
pub const LOCK_FILE: &str = "forebay.lock";

/// Longest `forebay.lock`, in bytes.
pub(crate) const LOCK_BYTES_MAX: u64 = 16 << 20;

/// A resolved set of packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// A requirements file with hashes.
    pub text: String,
    /// Package to version.
    pub packages: BTreeMap<String, String>,
}

/// One package of a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin<'a> {
    /// Normalised.
    pub name: String,
    /// Exact.
    pub version: &'a str,
    /// Its lines of the lock.
    pub text: &'a str,
    /// It is for some platforms only.
    pub is_conditional: bool,
}

impl Lock {
    /// Reads what uv wrote.
    #[must_use]
    pub fn parse(text: String) -> Self {
        let packages = pins(&text).into_iter().map(|pin| (pin.name, pin.version.to_owned())).collect();
        Self { text, packages }
    }

    /// Its packages, in the order of the text.
    #[must_use]
    pub fn pins(&self) -> Vec<Pin<'_>> {
        pins(&self.text)
    }

    /// `numpy 1.26.4, pandas 2.0.3`, all but one.
    #[must_use]
    pub fn listing(&self, without: &str) -> String {
        let others = self.packages.iter().filter(|(name, _)| *name != without);
        others.map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join(", ")
    }
}

impl Pin<'_> {
    /// Identity of the package's files for one interpreter: name, version, hashes, and what `tag` says of the interpreter.
    #[must_use]
    pub fn key(&self, tag: &str) -> String {
        let mut hashes: Vec<&str> = self.text.split_whitespace().filter_map(|word| word.strip_prefix("--hash=")).collect();
        hashes.sort_unstable();
        let text = format!("{}=={}\n{tag}\n{}", self.name, self.version, hashes.join("\n"));
        hex::encode(Sha256::digest(text.as_bytes()))
    }
}

fn pins(text: &str) -> Vec<Pin<'_>> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if !line.starts_with([' ', '#', '\t', '-']) && !line.trim().is_empty() {
            starts.push(at);
        }
        at += line.len();
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let blocks = starts.iter().copied().zip(ends).map(|(start, end)| &text[start..end]);
    blocks.filter_map(pin).collect()
}

fn pin(block: &str) -> Option<Pin<'_>> {
    let (name, rest) = block.split_once("==")?;
    let version = rest.split([' ', ';', '\\', '\n']).next()?;
    let name = version::normalise(name.split('[').next()?.trim());
    let is_conditional = block.lines().next().is_some_and(|line| line.contains(';'));
    Some(Pin { name, version, text: block, is_conditional })
}

/// What a project's `forebay.lock` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectLock {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    python: String,
    requirements: Vec<String>,
    packages: String,
}

impl ProjectLock {
    /// Reads the lock of the project in `folder`; `None` if it has none.
    pub fn load(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(LOCK_FILE);
        match std::fs::metadata(&path) {
            Err(_) => return Ok(None),
            Ok(metadata) if metadata.len() > LOCK_BYTES_MAX => {
                return Err(Error::Lock { why: format!("it has more than {LOCK_BYTES_MAX} bytes") });
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(&path).map_err(|error| Error::Lock { why: error.to_string() })?;
        Self::parse(&text).map(Some)
    }

    /// Reads the text of a lock.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| Error::Lock { why: why.to_owned() };
        let document = text.parse::<DocumentMut>().map_err(|error| wrong(error.message()))?;
        if document.get("version").and_then(Item::as_integer) != Some(1) {
            return Err(wrong("its `version` is not 1: it was written by another version of Forebay"));
        }
        let Some(tables) = document.get("environment") else { return Ok(Self::default()) };
        let tables = tables.as_array_of_tables().ok_or_else(|| wrong("`environment` is not a list of tables"))?;
        let mut entries = Vec::new();
        for table in tables {
            let text = |key: &str| table.get(key).and_then(Item::as_str).map(str::to_owned);
            let requirements = table.get("requirements").and_then(Item::as_array);
            let requirements = requirements.map(|list| list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect());
            match (text("python"), requirements, text("packages")) {
                (Some(python), Some(requirements), Some(packages)) => {
                    check_packages(&packages)?;
                    entries.push(Entry { python, requirements, packages });
                }
                _ => return Err(wrong("an environment lacks `python`, `requirements` or `packages`")),
            }
        }
        Ok(Self { entries })
    }

    /// The lock for a request, if it is in here and not stale.
    pub fn find(&self, request: &EnvironmentRequest) -> Result<Option<Lock>, Error> {
        let wanted = texts(request)?;
        let entry = self.entries.iter().find(|entry| entry.python == request.python && entry.requirements == wanted);
        Ok(entry.map(|entry| Lock::parse(entry.packages.clone())))
    }

    /// Versions of an entry of that Python, also a stale one: what a new lock should keep where it can.
    #[must_use]
    pub fn preferences(&self, python: &str) -> String {
        let entries = self.entries.iter().filter(|entry| entry.python == python);
        entries.map(|entry| entry.packages.as_str()).collect()
    }

    /// Adds an entry, replacing the one for the same request.
    pub fn insert(&mut self, request: &EnvironmentRequest, lock: &Lock) -> Result<(), Error> {
        let entry = Entry { python: request.python.clone(), requirements: texts(request)?, packages: lock.text.clone() };
        self.entries.retain(|other| (&other.python, &other.requirements) != (&entry.python, &entry.requirements));
        self.entries.push(entry);
        self.entries.sort_by(|a, b| (&a.python, &a.requirements).cmp(&(&b.python, &b.requirements)));
        Ok(())
    }

    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text =
            String::from("# Written by `forebay env lock`. Check it in: runs take exactly these versions.\nversion = 1\n");
        for entry in &self.entries {
            let requirements: Vec<String> = entry.requirements.iter().map(|text| quoted(text)).collect();
            // Writing to a text cannot fail.
            let _ = write!(
                text,
                "\n[[environment]]\npython = {}\nrequirements = [{}]\npackages = '''\n{}'''\n",
                quoted(&entry.python),
                requirements.join(", "),
                entry.packages
            );
        }
        text
    }
}

/// A lock goes to uv as a requirements file: nothing in it may be an option, a path or a URL.
fn check_packages(text: &str) -> Result<(), Error> {
    let is_known = |line: &str| {
        let trimmed = line.trim();
        let is_hash = trimmed.split_whitespace().all(|word| word == "\\" || word.starts_with("--hash="));
        let is_pin = line.starts_with(|c: char| c.is_ascii_alphanumeric())
            && line.contains("==")
            && !line.contains("://")
            && !line.contains('@');
        trimmed.is_empty() || trimmed.starts_with('#') || is_hash || is_pin
    };
    match text.lines().find(|line| !is_known(line)) {
        None => Ok(()),
        Some(line) => Err(Error::Lock { why: format!("could not read the line `{}`", crate::uv::mask(line.trim())) }),
    }
}

/// The requirements of a request as the lock names them.
fn texts(request: &EnvironmentRequest) -> Result<Vec<String>, Error> {
    let mut texts: Vec<String> = requirements(request)?.iter().map(ToString::to_string).collect();
    texts.sort();
    Ok(texts)
}

fn quoted(text: &str) -> String {
    toml_edit::Value::from(text).to_string().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "numpy==1.26.4 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nPython_Dateutil[x]==2.9.0.post0 ; python_version < '4' \\\n    --hash=sha256:cc\n# x\n";

    fn request(packages: &[(&str, &str)]) -> EnvironmentRequest {
        let packages = packages.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        EnvironmentRequest { python: "3.11".into(), packages, needs: vec!["pyarrow".into()] }
    }

    #[test]
    fn a_lock_is_read() {
        let lock = Lock::parse(TEXT.to_owned());
        let packages: Vec<_> = lock.packages.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(packages, [("numpy", "1.26.4"), ("python-dateutil", "2.9.0.post0")]);
        assert_eq!(lock.listing("numpy"), "python-dateutil 2.9.0.post0");
        let pins = lock.pins();
        assert!(pins[0].text.ends_with("--hash=sha256:bb\n") && !pins[0].is_conditional && pins[1].is_conditional);
        assert_eq!(pins[0].key("3.11"), pins[0].key("3.11"));
        assert_ne!(pins[0].key("3.11"), pins[0].key("3.12"));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut project = ProjectLock::default();
        let lock = Lock::parse(TEXT.to_owned());
        project.insert(&request(&[("numpy", "1.26"), ("python-dateutil", ">=2,<3")]), &lock).unwrap();
        project.insert(&request(&[]), &Lock::parse(String::new())).unwrap();
        let read = ProjectLock::parse(&project.render()).unwrap();
        assert_eq!(read, project);
        // The order and spelling of what is asked for do not matter; what it means does.
        let same = request(&[("python_dateutil", ">=2,<3"), ("numpy", "1.26.*")]);
        assert_eq!(read.find(&same).unwrap().unwrap(), lock);
        assert_eq!(read.find(&request(&[("numpy", "1.25")])).unwrap(), None);
        assert!(read.preferences("3.11").contains("numpy==1.26.4") && read.preferences("3.12").is_empty());
    }

    #[test]
    fn what_is_no_lock_is_refused() {
        for text in ["version = 2\n", "x", "version = 1\nenvironment = 3\n", "version = 1\n[[environment]]\npython = '3.11'\n"] {
            assert!(matches!(ProjectLock::parse(text), Err(Error::Lock { .. })), "{text}");
        }
        for line in ["--index-url https://u:p@host/", "numpy @ https://u:p@host/x.whl", "-e .", "./x.whl", "numpy>=1"] {
            let text = format!("version = 1\n[[environment]]\npython = '3.11'\nrequirements = []\npackages = '''\n{line}\n'''\n");
            let error = ProjectLock::parse(&text).unwrap_err();
            assert!(matches!(&error, Error::Lock { why } if !why.contains("u:p")), "{error:?}");
        }
    }
}
