//! Profiles in `config.toml`, and the settings in force for one command.
//!
//! ```toml
//! [profiles.default]
//! lake = "file:///data/lake"
//! active_branch = "main"
//! author_name = "Ann"
//! author_email = "ann@example.org"
//!
//! [sandbox]                    # for every profile
//! mode = "strict"              # or auto (the default), or off
//! read = ["/data/reference"]   # what Python functions may read as well
//! write = []                   # what they may change as well
//!
//! [query]                      # for every profile
//! memory = "4GiB"              # of the operators of one query; half of the machine's if not set
//! spill = "50GiB"              # what one query may spill to disk; 100 GiB if not set
//! spill_folder = "/scratch"    # where; the home if not set
//! ```
//!
//! Invariants: an edit keeps comments and formatting and replaces the file in one step;
//! a malformed file is an error with its line, never silently a default.

use std::path::{Path, PathBuf};

use toml_edit::{DocumentMut, Item, Table, Value};

use forebay_worker::{Bounds, SandboxSettings};

use crate::api::Actor;
use crate::error::{Error, Result, near};
use crate::home::Home;

/// The profile in force when nothing names one. It need not be written anywhere.
pub const DEFAULT_PROFILE: &str = "default";

/// The branch in force when nothing names one.
pub const DEFAULT_BRANCH: &str = "main";

/// The namespace in force when nothing names one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The keys of a profile.
pub const KEYS: [&str; 4] = ["lake", "active_branch", "author_name", "author_email"];

/// What is in force for one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The profile's name.
    pub profile: String,
    /// URI of the lake.
    pub lake: String,
    /// Branch that reads and writes use when the command names none.
    pub active_branch: String,
    /// Author of commits.
    pub author: Actor,
}

impl Settings {
    /// Settings of `profile` (else `FOREBAY_PROFILE`, else `default`), with `FOREBAY_LAKE` above the profile's lake.
    pub fn load(home: &Home, profile: Option<&str>) -> Result<Self> {
        Self::from_variables(home, profile, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(home: &Home, profile: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let config = Config::load(home)?;
        let named = profile.map(str::to_owned).or_else(|| variable("FOREBAY_PROFILE"));
        let profile = named.unwrap_or_else(|| DEFAULT_PROFILE.to_owned());
        let known = config.profiles();
        if profile != DEFAULT_PROFILE && !known.contains(&profile) {
            return Err(Error::UnknownProfile { name: profile, path: config.path, known });
        }
        let value = |key| config.get(&profile, key);
        let lake = match (variable("FOREBAY_LAKE"), value("lake")) {
            (Some(lake), _) => lake_uri(&lake, Path::new("."))?,
            (None, Some(lake)) => lake_uri(&lake, config.path.parent().unwrap_or(Path::new("/")))?,
            (None, None) => home.default_lake(),
        };
        let user = variable("USER").or_else(|| variable("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
        Ok(Self {
            lake,
            active_branch: value("active_branch").unwrap_or_else(|| DEFAULT_BRANCH.to_owned()),
            author: Actor { name: value("author_name").unwrap_or(user), email: value("author_email").unwrap_or_default() },
            profile,
        })
    }
}

/// A lake as a URI; a plain path is made absolute, from `base` if it is relative.
pub fn lake_uri(text: &str, base: &Path) -> Result<String> {
    if let Some(path) = text.strip_prefix("file://") {
        if Path::new(path).is_absolute() {
            return Ok(format!("file://{}", path.trim_end_matches('/')));
        }
    } else if !text.contains("://") {
        let path = base.join(text);
        let path = std::path::absolute(&path).map_err(Error::storage("resolve", &path))?;
        return Ok(format!("file://{}", path.display().to_string().trim_end_matches('/')));
    }
    Err(Error::BadValue {
        what: "the lake",
        value: text.to_owned(),
        why: "a lake is a path, or a URI `file:///absolute/path`".to_owned(),
    })
}

/// The configuration file, for reading and editing.
#[derive(Debug)]
pub struct Config {
    path: PathBuf,
    document: DocumentMut,
}

impl Config {
    /// Reads and checks the file. A missing file is an empty one.
    pub fn load(home: &Home) -> Result<Self> {
        let path = home.config_file();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                return Err(Error::Config { path, line: None, why: "it is not UTF-8 text".to_owned() });
            }
            Err(error) => return Err(Error::storage("read", path)(error)),
        };
        check(&path, &text)?;
        let document = text.parse::<DocumentMut>().map_err(|error| Error::Config {
            path: path.clone(),
            line: error.span().map(|span| line_of(&text, span.start)),
            why: error.message().to_owned(),
        })?;
        Ok(Self { path, document })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the profiles that are written down.
    #[must_use]
    pub fn profiles(&self) -> Vec<String> {
        let table = self.document.get("profiles").and_then(Item::as_table_like);
        table.map(|table| table.iter().map(|(name, _)| name.to_owned()).collect()).unwrap_or_default()
    }

    /// The value of a key of a profile, if it is written down.
    #[must_use]
    pub fn get(&self, profile: &str, key: &str) -> Option<String> {
        let value = self.document.get("profiles")?.get(profile)?.get(key)?;
        value.as_str().map(str::to_owned)
    }

    /// How functions are confined.
    #[must_use]
    pub fn sandbox(&self) -> SandboxSettings {
        let value = |key: &str| self.document.get("sandbox").and_then(|table| table.get(key));
        let paths = |key: &str| {
            let texts = value(key).and_then(Item::as_array).into_iter().flatten().filter_map(Value::as_str);
            texts.map(PathBuf::from).collect()
        };
        let mode = value("mode").and_then(Item::as_str).and_then(|mode| mode.parse().ok()).unwrap_or_default();
        SandboxSettings { mode, read: paths("read"), write: paths("write") }
    }

    /// What queries may use.
    #[must_use]
    pub fn query(&self, home: &Home) -> Bounds {
        let text = |key: &str| self.document.get("query").and_then(|table| table.get(key)).and_then(Item::as_str);
        Bounds {
            memory_bytes: text("memory").and_then(forebay_plan::memory_bytes),
            spill_bytes_max: text("spill").and_then(forebay_plan::memory_bytes),
            spill_folder: home.spill_dir(text("spill_folder").map(Path::new)),
            threads: None,
        }
    }

    /// Sets a key of a profile (made if it is new). Nothing is written before [`Config::save`].
    pub fn set(&mut self, profile: &str, key: &str, value: &str) -> Result<()> {
        known_key(key)?;
        let profiles = self.document.entry("profiles").or_insert_with(|| implicit_table(true));
        let profiles = profiles.as_table_like_mut().expect("checked by `load`: `profiles` is a table");
        let table = profiles.entry(profile).or_insert_with(|| implicit_table(false));
        let table = table.as_table_like_mut().expect("checked by `load`: a profile is a table");
        match table.get_mut(key).and_then(Item::as_value_mut) {
            Some(old) => {
                let decor = old.decor().clone();
                *old = Value::from(value);
                *old.decor_mut() = decor;
            }
            None => {
                table.insert(key, toml_edit::value(value));
            }
        }
        Ok(())
    }

    /// Removes a key of a profile. Returns whether it was there.
    pub fn unset(&mut self, profile: &str, key: &str) -> Result<bool> {
        known_key(key)?;
        let profile = self.document.get_mut("profiles").and_then(|profiles| profiles.get_mut(profile));
        let table = profile.and_then(Item::as_table_like_mut);
        Ok(table.is_some_and(|table| table.remove(key).is_some()))
    }

    /// Writes the file in one step.
    pub fn save(&self) -> Result<()> {
        let folder = self.path.parent().expect("the configuration file is in a folder");
        std::fs::create_dir_all(folder).map_err(Error::storage("create the folder", folder))?;
        replace_file(&self.path, self.document.to_string().as_bytes())
    }
}

/// Writes `bytes` to `path` so that a reader sees the old content or the new, never a part.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", uuid::Uuid::now_v7().simple()));
    let write = || {
        std::fs::write(&temporary, bytes)?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        let _ = std::fs::remove_file(&temporary);
        Error::storage("write", path)(error)
    })
}

fn implicit_table(implicit: bool) -> Item {
    let mut table = Table::new();
    table.set_implicit(implicit);
    Item::Table(table)
}

fn known_key(key: &str) -> Result<()> {
    if KEYS.contains(&key) {
        return Ok(());
    }
    Err(Error::BadValue { what: "the setting", value: key.to_owned(), why: format!("the settings are {}", KEYS.join(", ")) })
}

/// The keys of `[query]`.
const QUERY_KEYS: [&str; 3] = ["memory", "spill", "spill_folder"];

/// What is wrong with the table `query`, and where.
fn check_query(table: &Item) -> Result<(), (Option<usize>, String)> {
    let start = |item: &Item| item.span().map(|span| span.start);
    let Some(table) = table.as_table_like() else { return Err((start(table), "`query` is not a table".to_owned())) };
    for (key, item) in table.iter() {
        let text = item.as_str();
        let (good, wanted) = match key {
            "memory" | "spill" => (text.is_some_and(|text| forebay_plan::memory_bytes(text).is_some()), "a size like \"4GiB\""),
            "spill_folder" => (text.is_some_and(|text| Path::new(text).is_absolute()), "an absolute path"),
            _ => {
                return Err((
                    start(item),
                    format!("`{key}` is not a setting of queries; the settings are {}", QUERY_KEYS.join(", ")),
                ));
            }
        };
        if !good {
            return Err((start(item), format!("`{key}` of `query` is not {wanted}")));
        }
    }
    Ok(())
}

/// The keys of `[sandbox]`.
const SANDBOX_KEYS: [&str; 3] = ["mode", "read", "write"];

/// What is wrong with the table `sandbox`, and where.
fn check_sandbox(table: &Item) -> Result<(), (Option<usize>, String)> {
    let start = |item: &Item| item.span().map(|span| span.start);
    let Some(table) = table.as_table_like() else { return Err((start(table), "`sandbox` is not a table".to_owned())) };
    for (key, item) in table.iter() {
        let wrong = |why: String| Err((start(item), why));
        match key {
            "mode" => {
                let Some(mode) = item.as_str() else { return wrong("`mode` is not text".to_owned()) };
                if let Err(why) = mode.parse::<forebay_worker::SandboxMode>() {
                    return wrong(format!("`mode` of `sandbox`: {why}"));
                }
            }
            "read" | "write" => {
                let is_path = |value: &Value| value.as_str().is_some_and(|path| Path::new(path).is_absolute());
                if !item.as_array().is_some_and(|paths| paths.iter().all(is_path)) {
                    return wrong(format!("`{key}` of `sandbox` is not a list of absolute paths"));
                }
            }
            _ => return wrong(format!("`{key}` is not a setting of the sandbox; the settings are {}", SANDBOX_KEYS.join(", "))),
        }
    }
    Ok(())
}

/// Checks the shape: `[profiles.<name>]` tables with known keys and text values, and `[sandbox]`.
fn check(path: &Path, text: &str) -> Result<()> {
    let fail =
        |at: Option<usize>, why: String| Err(Error::Config { path: path.to_owned(), line: at.map(|at| line_of(text, at)), why });
    // The immutable document keeps spans; the editable one drops them.
    let document = match toml_edit::Document::parse(text) {
        Ok(document) => document,
        Err(error) => return fail(error.span().map(|span| span.start), error.message().to_owned()),
    };
    let start = |item: &Item| item.span().map(|span| span.start);
    for (name, item) in document.iter() {
        if name == "sandbox" {
            check_sandbox(item).or_else(|(at, why)| fail(at, why))?;
            continue;
        }
        if name == "query" {
            check_query(item).or_else(|(at, why)| fail(at, why))?;
            continue;
        }
        if name != "profiles" {
            let places = "`[profiles.<name>]`, `[sandbox]` and `[query]`";
            return fail(start(item), format!("`{name}` is not a setting; everything is in {places}"));
        }
        let Some(profiles) = item.as_table_like() else {
            return fail(start(item), "`profiles` is not a table".to_owned());
        };
        for (profile, item) in profiles.iter() {
            let Some(table) = item.as_table_like() else {
                return fail(start(item), format!("the profile `{profile}` is not a table"));
            };
            for (key, item) in table.iter() {
                if !KEYS.contains(&key) {
                    let near = near(key, KEYS.into_iter());
                    let hint = near
                        .first()
                        .map_or(format!("the settings are {}", KEYS.join(", ")), |near| format!("did you mean `{near}`?"));
                    return fail(start(item), format!("`{key}` is not a setting of a profile; {hint}"));
                }
                if item.as_str().is_none() {
                    return fail(start(item), format!("`{key}` is not text"));
                }
            }
        }
    }
    Ok(())
}

fn line_of(text: &str, offset: usize) -> u32 {
    let before = &text.as_bytes()[..offset.min(text.len())];
    u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).map_or(u32::MAX, |lines| lines.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use forebay_types::Coded;

    use super::*;

    fn home_with(text: &str) -> (tempfile::TempDir, Home) {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path()).unwrap();
        if !text.is_empty() {
            std::fs::write(home.config_file(), text).unwrap();
        }
        (root, home)
    }

    fn settings(home: &Home, profile: Option<&str>, variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_variables(home, profile, |name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn defaults_without_a_file() {
        let (_root, home) = home_with("");
        let got = settings(&home, None, &[("USER", "ann")]).unwrap();
        assert_eq!(got.lake, home.default_lake());
        assert_eq!((got.profile.as_str(), got.active_branch.as_str(), got.author.name.as_str()), ("default", "main", "ann"));
        assert_eq!(settings(&home, None, &[]).unwrap().author.name, "unknown");
    }

    #[test]
    fn variables_stand_above_profiles() {
        let (_root, home) = home_with("[profiles.dev]\nlake = '/l/dev/'\nactive_branch = 'b'\nauthor_email = 'a@b'\n");
        let got = settings(&home, Some("dev"), &[]).unwrap();
        assert_eq!((got.lake.as_str(), got.active_branch.as_str(), got.author.email.as_str()), ("file:///l/dev", "b", "a@b"));
        let got = settings(&home, None, &[("FOREBAY_PROFILE", "dev"), ("FOREBAY_LAKE", "file:///other")]).unwrap();
        assert_eq!((got.profile.as_str(), got.lake.as_str()), ("dev", "file:///other"));
        let error = settings(&home, Some("dve"), &[]).unwrap_err().report();
        assert_eq!((error.code.0.as_str(), error.hint.as_deref()), ("CTL0003", Some("the profiles are `dev`")));
        let error = settings(&home, None, &[("FOREBAY_LAKE", "ftp://x")]).unwrap_err().report();
        assert_eq!(error.code.0, "CTL0023");
    }

    #[test]
    fn malformed_files_name_the_line() {
        for (text, line) in [
            ("[profiles.x]\nlake = \n", 2),
            ("\n\n[profiles.x]\nlkae = 'x'\n", 4),
            ("[profiles.x]\nlake = 1\n", 2),
            ("profiles = 3\n", 1),
            ("[other]\n", 1),
            ("[profiles]\nx = 2\n", 2),
            ("[sandbox]\nmode = 'on'\n", 2),
            ("[sandbox]\n\nread = ['relative']\n", 3),
            ("[sandbox]\nwrite = '/x'\n", 2),
            ("[sandbox]\nroot = '/x'\n", 2),
            ("sandbox = 1\n", 1),
        ] {
            let (_root, home) = home_with(text);
            let error = Config::load(&home).unwrap_err().report();
            assert_eq!((error.code.0.as_str(), error.at.map(|at| at.line)), ("CTL0002", Some(line)), "{text}");
        }
    }

    #[test]
    fn the_sandbox_is_set_for_all_profiles() {
        use forebay_worker::SandboxMode;
        let (_root, home) = home_with("[sandbox]\nmode = 'strict'\nread = ['/a', '/b']\n");
        let got = Config::load(&home).unwrap().sandbox();
        assert_eq!((got.mode, got.read.len(), got.write.len()), (SandboxMode::Strict, 2, 0));
        let (_root, home) = home_with("");
        assert_eq!(Config::load(&home).unwrap().sandbox(), SandboxSettings::default());
    }

    #[test]
    fn edits_keep_the_rest() {
        let text = "# mine\n[profiles.dev] # here\nlake = \"/a\" # old\n";
        let (_root, home) = home_with(text);
        let mut config = Config::load(&home).unwrap();
        config.set("dev", "lake", "/b").unwrap();
        config.set("new", "active_branch", "x").unwrap();
        assert!(config.set("dev", "colour", "red").is_err());
        config.save().unwrap();
        let written = std::fs::read_to_string(home.config_file()).unwrap();
        assert_eq!(written, "# mine\n[profiles.dev] # here\nlake = \"/b\" # old\n\n[profiles.new]\nactive_branch = \"x\"\n");
        let mut config = Config::load(&home).unwrap();
        assert!(config.unset("new", "active_branch").unwrap());
        assert!(!config.unset("nobody", "lake").unwrap());
        assert_eq!(config.profiles(), ["dev", "new"]);
    }
}
