//! The project file: `forebay.toml`, or a `bauplan_project.yml`/`.yaml`, read into one [`Project`].
//!
//! ```toml
//! [project]
//! name = "flights"              # required
//! namespace = "default"         # where names without a namespace live; `default` if absent
//! description = "…"             # for people
//!
//! [python]                      # for models that do not say
//! version = "3.11"
//! packages = { pandas = "2.2.0", polars = "" }
//!
//! [parameters.month]            # `$month` in SQL and filters, forebay.Parameter("month") in Python
//! type = "int"                  # str, int, float, bool or secret; if absent the type of the default, else str
//! default = 1
//! required = false              # true: a run must give a value if there is no default
//! from = "env:API_KEY"          # secrets only: where the value is (file:PATH, keyring:SERVICE/USER); they have no default
//! description = "…"
//! ```
//!
//! Unknown keys of a `forebay.toml` are errors. The YAML form is read for what it shares with ours; its other keys are ignored.

use std::collections::BTreeMap;

use forebay_types::{Location, Report, TableName};

use crate::document::{self, Entry, Tree};
use crate::environment;
use crate::errors;
use crate::physical::Literal;
use crate::suggest;
use crate::text::Text;
use crate::{Options, SourceFile, Sources};

/// Our project file.
pub const PROJECT_FILE: &str = "forebay.toml";
/// Project files of the other dialect.
pub const OTHER_PROJECT_FILES: [&str; 2] = ["bauplan_project.yml", "bauplan_project.yaml"];
/// Variables with this prefix hold secrets.
pub const SECRET_VARIABLE_PREFIX: &str = "FOREBAY_SECRET_";
/// The namespace of a project that does not name one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What a project file says.
#[derive(Debug, Clone, PartialEq)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Where names without a namespace live.
    pub namespace: String,
    /// Python of models that do not say, `major.minor`; `None`: the file names none.
    pub python: Option<String>,
    /// Packages every Python model gets, by name; the version is as written.
    pub packages: BTreeMap<String, String>,
    /// Wall-clock limit of models that do not say.
    pub timeout_seconds: Option<u64>,
    /// Parameters in the order of the file.
    pub parameters: Vec<Parameter>,
}

/// A declared parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name: a Python identifier.
    pub name: String,
    /// Its type.
    pub kind: ParameterKind,
    /// The value a run has that gives none.
    pub default: Option<Literal>,
    /// Whether a run must have a value.
    pub required: bool,
    /// Where the value of a secret is, unless a run says otherwise.
    pub from: Option<SecretSource>,
    /// For people.
    pub description: Option<String>,
    /// Where it is declared.
    pub at: Location,
}

/// Types of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterKind {
    /// Text.
    Str,
    /// A 64-bit integer.
    Int,
    /// A double.
    Float,
    /// True or false.
    Bool,
    /// Text that nobody but the function sees.
    Secret,
}

/// Where the value of a secret is, on the machine of who starts a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// A file; relative to the project's folder.
    File(String),
    /// An entry of the keyring of the desktop session, or of the kernel's.
    Keyring {
        /// Attribute `service`.
        service: String,
        /// Attribute `username`.
        user: String,
    },
}

impl SecretSource {
    /// Reads `env:NAME`, `file:PATH` or `keyring:SERVICE/USER`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "env" if !rest.is_empty() && !rest.contains(['=', '\0', ' ']) => Some(Self::Env(rest.to_owned())),
            "file" if !rest.is_empty() => Some(Self::File(rest.to_owned())),
            "keyring" => {
                let (service, user) = rest.split_once('/').filter(|(service, user)| !service.is_empty() && !user.is_empty())?;
                Some(Self::Keyring { service: service.to_owned(), user: user.to_owned() })
            }
            _ => None,
        }
    }

    /// Where a secret is that does not say: the variable `FOREBAY_SECRET_<NAME>`.
    #[must_use]
    pub fn default_of(parameter: &str) -> Self {
        Self::Env(format!("{SECRET_VARIABLE_PREFIX}{}", parameter.to_ascii_uppercase()))
    }
}

impl std::fmt::Display for SecretSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
            Self::Keyring { service, user } => write!(f, "keyring:{service}/{user}"),
        }
    }
}

impl ParameterKind {
    /// The word in the project file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Str => "str",
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Secret => "secret",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Str, Self::Int, Self::Float, Self::Bool, Self::Secret].into_iter().find(|kind| kind.as_str() == word)
    }

    /// Reads a value given on the command line.
    fn parse(self, text: &str) -> Option<Literal> {
        match self {
            Self::Str => Some(Literal::Str(text.to_owned())),
            Self::Int => text.trim().parse().ok().map(Literal::Int),
            Self::Float => text.trim().parse().ok().filter(|number: &f64| number.is_finite()).map(Literal::Float),
            Self::Bool => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "1" | "on" => Some(Literal::Bool(true)),
                "false" | "no" | "0" | "off" => Some(Literal::Bool(false)),
                _ => None,
            },
            // A secret's value never comes as text.
            Self::Secret => None,
        }
    }
}

/// Reads the project file among the sources.
pub fn project(sources: &Sources) -> Result<Project, Vec<Report>> {
    let is_project_file = |file: &&SourceFile| file.path == PROJECT_FILE || OTHER_PROJECT_FILES.contains(&file.path.as_str());
    let files: Vec<&SourceFile> = sources.files.iter().filter(is_project_file).collect();
    match files.as_slice() {
        [] => Err(vec![errors::no_project_file()]),
        [file] => read(file),
        several => {
            let names: Vec<&str> = several.iter().map(|file| file.path.as_str()).collect();
            Err(vec![errors::two_project_files(&names)])
        }
    }
}

/// The value of each parameter in one run, in the order of the project file. One that has none is null and reported.
pub(crate) fn parameter_values(project: &Project, options: &Options, reports: &mut Vec<Report>) -> Vec<(String, Literal)> {
    for name in options.parameters.keys() {
        if !project.parameters.iter().any(|parameter| parameter.name == *name) {
            let known = project.parameters.iter().map(|parameter| parameter.name.as_str());
            let hint = suggest::hint_or_list(name, "the parameters are", known);
            reports.push(errors::hinted(errors::unknown_parameter(None, name), hint));
        }
    }
    let mut values = Vec::new();
    for parameter in &project.parameters {
        let is_given = || options.secrets.as_ref().is_none_or(|given| given.contains(&parameter.name));
        let value = match options.parameters.get(&parameter.name) {
            Some(_) if parameter.kind == ParameterKind::Secret => {
                Err(errors::secret_in_plain(&parameter.name, parameter.at.clone()))
            }
            None if parameter.kind == ParameterKind::Secret && is_given() => Ok(Literal::Secret(parameter.name.clone())),
            Some(text) => parameter.kind.parse(text).ok_or_else(|| {
                errors::parameter_value(&parameter.name, text, parameter.kind.as_str()).with_location(parameter.at.clone())
            }),
            None => match &parameter.default {
                Some(value) => Ok(value.clone()),
                None if parameter.required => Err(errors::missing_parameter(parameter.at.clone(), &parameter.name)),
                None => Ok(Literal::Null),
            },
        };
        let value = value.unwrap_or_else(|report| {
            reports.push(report);
            Literal::Null
        });
        values.push((parameter.name.clone(), value));
    }
    values
}

fn read(file: &SourceFile) -> Result<Project, Vec<Report>> {
    let text = Text::new(&file.path, &file.text);
    let strict = file.path == PROJECT_FILE;
    let parsed = if strict { document::parse_toml(&text) } else { document::parse_yaml(&text) };
    let root = parsed.map_err(|report| vec![report])?;
    let mut reader = Reader { text: &text, strict, reports: Vec::new(), project: blank() };
    reader.root(&root);
    if reader.reports.is_empty() { Ok(reader.project) } else { Err(reader.reports) }
}

fn blank() -> Project {
    Project {
        name: String::new(),
        description: None,
        namespace: DEFAULT_NAMESPACE.to_owned(),
        python: None,
        packages: BTreeMap::new(),
        timeout_seconds: None,
        parameters: Vec::new(),
    }
}

/// Walks the document and collects what is wrong.
struct Reader<'a> {
    text: &'a Text<'a>,
    /// `forebay.toml`: unknown keys are errors.
    strict: bool,
    reports: Vec<Report>,
    project: Project,
}

impl Reader<'_> {
    fn at(&self, offset: usize) -> Location {
        self.text.location(offset)
    }

    fn wrong(&mut self, offset: usize, why: impl Into<String>) {
        let report = errors::project_file(self.at(offset), why);
        self.reports.push(report);
    }

    fn unknown_key(&mut self, entry: &Entry, inside: &str, known: &[&str]) {
        if self.strict {
            let report = errors::project_file(self.at(entry.at), format!("{inside} has no key `{}`", entry.key));
            self.reports.push(errors::hinted(report, suggest::hint_or_list(&entry.key, "the keys are", known.iter().copied())));
        }
    }

    /// The entries of a table; anything else is a mistake.
    fn table<'t>(&mut self, entry: &'t Entry) -> &'t [Entry] {
        match &entry.value {
            Tree::Table(entries) => entries,
            Tree::Null => &[],
            _ => {
                self.wrong(entry.at, format!("`{}` must be a table", entry.key));
                &[]
            }
        }
    }

    fn string(&mut self, entry: &Entry) -> Option<String> {
        match &entry.value {
            Tree::Str(text) => Some(text.clone()),
            Tree::Null => None,
            _ => {
                self.wrong(entry.at, format!("`{}` must be text in quotes", entry.key));
                None
            }
        }
    }

    fn root(&mut self, root: &[Entry]) {
        let mut named = false;
        for entry in root {
            match (entry.key.as_str(), self.strict) {
                ("project", _) => named = self.project_table(entry),
                ("parameters", _) => self.parameters(entry),
                ("python", true) => self.python(entry),
                ("defaults", false) => self.defaults(entry),
                _ => self.unknown_key(entry, "the file", &["project", "python", "parameters"]),
            }
        }
        if !named && self.reports.is_empty() {
            if self.strict {
                let report = errors::project_file(self.at(0), "it does not name the project");
                self.reports.push(report.with_hint("add a table `[project]` with `name = \"…\"`"));
            } else {
                self.project.name = "project".to_owned();
            }
        }
    }

    /// Returns whether the project got a name.
    fn project_table(&mut self, table: &Entry) -> bool {
        let mut id = None;
        for entry in self.table(table) {
            match (entry.key.as_str(), self.strict) {
                ("name", _) => self.project.name = self.string(entry).unwrap_or_default(),
                ("description", _) => self.project.description = self.string(entry),
                ("namespace", true) => self.namespace(entry),
                ("id", false) => id = self.string(entry),
                _ => self.unknown_key(entry, "`project`", &["name", "description", "namespace"]),
            }
        }
        if self.project.name.is_empty() {
            self.project.name = id.unwrap_or_default();
        }
        !self.project.name.is_empty()
    }

    fn namespace(&mut self, entry: &Entry) {
        if let Some(namespace) = self.string(entry) {
            match TableName::new(&namespace, "x") {
                Ok(_) => self.project.namespace = namespace,
                Err(error) => self.reports.push(errors::bad_name(self.at(entry.at), &error)),
            }
        }
    }

    fn python(&mut self, table: &Entry) {
        for entry in self.table(table) {
            match entry.key.as_str() {
                "version" => self.python_version(entry),
                "packages" => {
                    for package in self.table(entry) {
                        let version = self.string(package);
                        self.package(package.at, &package.key, version.unwrap_or_default());
                    }
                }
                _ => self.unknown_key(entry, "`python`", &["version", "packages"]),
            }
        }
    }

    fn python_version(&mut self, entry: &Entry) {
        let version = match &entry.value {
            Tree::Str(version) => version.clone(),
            Tree::Float(number) if !self.strict => number.to_string(),
            _ => {
                self.wrong(entry.at, "the Python version must be text in quotes, like \"3.11\"");
                return;
            }
        };
        match environment::python_version(&version) {
            Some(version) => self.project.python = Some(version),
            None => self.reports.push(errors::python_version(self.at(entry.at), &version)),
        }
    }

    fn package(&mut self, at: usize, name: &str, version: String) {
        match environment::check_package(name, &version) {
            Ok(()) => {
                self.project.packages.insert(name.to_owned(), version);
            }
            Err(why) => self.reports.push(errors::package(self.at(at), name, &why)),
        }
    }

    /// `defaults:` of the YAML form: `python: {version, packages: [{name, version}]}`, `namespace`, `timeout`.
    fn defaults(&mut self, table: &Entry) {
        for entry in self.table(table) {
            match entry.key.as_str() {
                "namespace" => self.namespace(entry),
                "timeout" => match &entry.value {
                    Tree::Int(seconds) if *seconds > 0 => self.project.timeout_seconds = u64::try_from(*seconds).ok(),
                    _ => self.wrong(entry.at, "`timeout` must be a number of seconds"),
                },
                "python" => {
                    for entry in self.table(entry) {
                        match (entry.key.as_str(), &entry.value) {
                            ("version", _) => self.python_version(entry),
                            ("packages", Tree::List(items)) => self.package_list(entry.at, items),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn package_list(&mut self, at: usize, items: &[Tree]) {
        for item in items {
            let Tree::Table(entries) = item else { continue };
            let find = |key: &str| entries.iter().find(|entry| entry.key == key);
            let text = |entry: Option<&Entry>| entry.and_then(|entry| entry.value.as_text());
            match text(find("name")) {
                Some(name) => self.package(at, &name, text(find("version")).unwrap_or_default()),
                None => self.wrong(at, "a package needs a `name`"),
            }
        }
    }

    fn parameters(&mut self, table: &Entry) {
        for entry in self.table(table) {
            let identifier = entry.key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !identifier || entry.key.is_empty() || entry.key.starts_with(|c: char| c.is_ascii_digit()) {
                self.wrong(entry.at, format!("the parameter name `{}` must be letters, digits and `_`", entry.key));
                continue;
            }
            self.parameter(entry);
        }
    }

    fn parameter(&mut self, table: &Entry) {
        let (mut kind, mut default, mut required, mut description, mut from) = (None, None, false, None, None);
        let errors_before = self.reports.len();
        for entry in self.table(table) {
            match entry.key.as_str() {
                "type" => kind = self.parameter_kind(&table.key, entry),
                "default" => default = Some(entry),
                "required" => match entry.value {
                    Tree::Bool(value) => required = value,
                    _ => self.wrong(entry.at, "`required` must be true or false"),
                },
                "description" => description = self.string(entry),
                "from" if self.strict => from = self.secret_source(entry),
                _ => self.unknown_key(entry, "a parameter", &["type", "default", "required", "description", "from"]),
            }
        }
        if self.reports.len() > errors_before {
            return;
        }
        let default = default.filter(|entry| entry.value != Tree::Null);
        match (kind, default, &from) {
            // The place is the parameter's: the line of the default must not be shown.
            (Some(ParameterKind::Secret), Some(_), _) => {
                self.wrong(table.at, format!("the secret `{}` has a default: a project file is no place for it", table.key));
                return;
            }
            (Some(ParameterKind::Secret), ..) | (_, _, None) => {}
            _ => {
                self.wrong(table.at, format!("`{}` is no secret, so it takes no `from`", table.key));
                return;
            }
        }
        let kind = kind.or_else(|| default.and_then(|entry| kind_of(&entry.value))).unwrap_or(ParameterKind::Str);
        let value = match default.map(|entry| (entry, typed(kind, &entry.value))) {
            Some((entry, None)) => {
                let report = errors::parameter_value(&table.key, &entry.value.shown(), kind.as_str());
                self.reports.push(report.with_location(self.at(entry.at)));
                return;
            }
            Some((_, value)) => value,
            None => None,
        };
        let at = self.at(table.at);
        let name = table.key.clone();
        self.project.parameters.push(Parameter { name, kind, default: value, required, from, description, at });
    }

    fn secret_source(&mut self, entry: &Entry) -> Option<SecretSource> {
        let source = SecretSource::parse(&self.string(entry)?);
        if source.is_none() {
            self.wrong(entry.at, "`from` must be `env:NAME`, `file:PATH` or `keyring:SERVICE/USER`");
        }
        source
    }

    fn parameter_kind(&mut self, parameter: &str, entry: &Entry) -> Option<ParameterKind> {
        let word = self.string(entry)?;
        let kind = ParameterKind::from_word(&word);
        if kind.is_none() {
            self.reports.push(errors::parameter_type(self.at(entry.at), parameter, &word));
        }
        kind
    }
}

fn kind_of(value: &Tree) -> Option<ParameterKind> {
    match value {
        Tree::Str(_) => Some(ParameterKind::Str),
        Tree::Int(_) => Some(ParameterKind::Int),
        Tree::Float(_) => Some(ParameterKind::Float),
        Tree::Bool(_) => Some(ParameterKind::Bool),
        Tree::Null | Tree::List(_) | Tree::Table(_) => None,
    }
}

fn typed(kind: ParameterKind, value: &Tree) -> Option<Literal> {
    match (kind, value) {
        (ParameterKind::Str, Tree::Str(text)) => Some(Literal::Str(text.clone())),
        (ParameterKind::Int, Tree::Int(number)) => Some(Literal::Int(*number)),
        (ParameterKind::Float, Tree::Float(number)) => Some(Literal::Float(*number)),
        #[expect(clippy::cast_precision_loss, reason = "an int default of a float parameter, as Python would read it")]
        (ParameterKind::Float, Tree::Int(number)) => Some(Literal::Float(*number as f64)),
        (ParameterKind::Bool, Tree::Bool(value)) => Some(Literal::Bool(*value)),
        _ => None,
    }
}
