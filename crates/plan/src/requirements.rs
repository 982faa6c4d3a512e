//! What a project's own files for Python tools say: `requirements.txt`, and `dependencies` and `requires-python` of
//! `pyproject.toml`. Every Python model gets these packages, unless it, or the project file, names the package itself.
//!
//! Of `requirements.txt` the lines that name packages of an index are read, also through `-r`. Options about indexes are left to
//! uv's own settings; hashes, to `forebay.lock`. What cannot be had that way (URLs, paths) is an error, not a silence.

use std::str::FromStr;

use forebay_types::{Location, Report};
use pep440_rs::{Version, VersionSpecifiers};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::environment::{self, DEFAULT_PYTHON};
use crate::text::Text;
use crate::{SourceFile, Sources, errors};

/// The file of pip.
pub const REQUIREMENTS_FILE: &str = "requirements.txt";
/// The file of Python projects.
pub const PYPROJECT_FILE: &str = "pyproject.toml";
/// How deep `-r` may go.
const INCLUDES_MAX: usize = 10;
/// Minor versions of Python to try, the first that fits is taken.
const PYTHONS: [u32; 6] = [11, 12, 13, 14, 10, 9];
/// Patch levels of any Python 3.
const PATCH_LEVELS: u64 = 40;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Defaults {
    /// Name with extras, and specifier with marker; a name may be there more than once.
    pub(crate) packages: Vec<(String, String)>,
    /// `3.11`, if `requires-python` says something.
    pub(crate) python: Option<String>,
    pub(crate) warnings: Vec<String>,
    pub(crate) reports: Vec<Report>,
}

/// Reads the files, as far as they are among the sources.
pub(crate) fn read(sources: &Sources) -> Defaults {
    let mut reader = Reader { sources, found: Defaults::default() };
    if let Some(file) = reader.file(PYPROJECT_FILE) {
        reader.pyproject(file);
    }
    if let Some(file) = reader.file(REQUIREMENTS_FILE) {
        reader.requirements(file, 0);
    }
    let mut found = reader.found;
    let mut seen = Vec::new();
    found.packages.retain(|package| {
        !seen.contains(package) && {
            seen.push(package.clone());
            true
        }
    });
    found
}

struct Reader<'a> {
    sources: &'a Sources,
    found: Defaults,
}

impl<'a> Reader<'a> {
    fn file(&self, path: &str) -> Option<&'a SourceFile> {
        self.sources.files.iter().find(|file| file.path == path)
    }

    fn pyproject(&mut self, file: &SourceFile) {
        let text = Text::new(&file.path, &file.text);
        let document = match DeTable::parse(&file.text) {
            Ok(document) => document.into_inner(),
            Err(error) => {
                let at = text.location(error.span().map_or(0, |span| span.start));
                self.found.reports.push(errors::project_file(at, "it is not valid TOML").with_cause(error.message()));
                return;
            }
        };
        let Some(project) = document.get("project").and_then(|project| project.get_ref().as_table()) else { return };
        if let Some(wanted) = project.get("requires-python") {
            self.requires_python(&text, wanted);
        }
        let dependencies = project.get("dependencies").and_then(|list| list.get_ref().as_array());
        for item in dependencies.into_iter().flat_map(|list| list.iter()) {
            let at = text.location(item.span().start);
            match item.get_ref() {
                DeValue::String(requirement) => self.requirement(requirement, at),
                _ => self.found.reports.push(errors::project_file(at, "a dependency must be text in quotes")),
            }
        }
    }

    fn requires_python(&mut self, text: &Text<'_>, wanted: &Spanned<DeValue<'_>>) {
        let at = text.location(wanted.span().start);
        let written = wanted.get_ref().as_str().unwrap_or_default();
        match VersionSpecifiers::from_str(written) {
            Ok(specifiers) => match python_for(&specifiers) {
                Some(python) => self.found.python = Some(python),
                None => self.found.warnings.push(format!(
                    "no Python that functions can have is in `requires-python = \"{written}\"` of {PYPROJECT_FILE}: {DEFAULT_PYTHON} is taken"
                )),
            },
            Err(_) => self.found.reports.push(errors::project_file(at, format!("`requires-python` is no version range: `{written}`"))),
        }
    }

    fn requirements(&mut self, file: &SourceFile, depth: usize) {
        let text = Text::new(&file.path, &file.text);
        let mut at = 0;
        // A line that ends with `\` goes on in the next.
        let mut logical = String::new();
        let mut start = 0;
        for line in file.text.split_inclusive('\n') {
            if logical.is_empty() {
                start = at;
            }
            at += line.len();
            let line = line.trim_end_matches(['\n', '\r']);
            match line.strip_suffix('\\') {
                Some(line) => logical.push_str(line),
                None => {
                    logical.push_str(line);
                    self.line(&logical, &text, start, depth, &file.path);
                    logical.clear();
                }
            }
        }
        self.line(&logical, &text, start, depth, &file.path);
    }

    fn line(&mut self, line: &str, text: &Text<'_>, start: usize, depth: usize, path: &str) {
        let line = without_comment(line.trim_start_matches('\u{feff}'));
        // A location without the line itself, which may hold a password.
        let at = Location { excerpt: None, ..text.location(start) };
        if line.is_empty() {
            return;
        }
        let Some(option) = line.strip_prefix('-') else { return self.requirement(line, at) };
        let (name, value) = option.split_once(['=', ' ']).unwrap_or((option, ""));
        match name {
            "r" | "-requirement" => self.include(value.trim(), path, depth, at),
            "e" | "-editable" => self.path(value.trim(), at),
            "-hash" | "-require-hashes" => {}
            "c" | "-constraint" => self.warn(&at, "`-c` is not read: write the versions into the requirements, or pin them with `forebay env lock`"),
            _ => self.warn(&at, &format!("`-{name}` is not read: set indexes as uv takes them (UV_INDEX_URL, uv.toml), and start the background process anew")),
        }
    }

    fn warn(&mut self, at: &Location, text: &str) {
        self.found.warnings.push(format!("{}:{}: {text}", at.file, at.line));
    }

    fn include(&mut self, name: &str, from: &str, depth: usize, at: Location) {
        let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        let joined = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let mut parts: Vec<&str> = Vec::new();
        for part in joined.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let path = parts.join("/");
        match self.file(&path) {
            Some(file) if depth < INCLUDES_MAX => self.requirements(file, depth + 1),
            Some(_) => self.found.reports.push(errors::project_file(at, format!("`-r {name}`: these files include each other"))),
            None => self
                .found
                .reports
                .push(errors::project_file(at, format!("`-r {name}`: there is no such file")).with_hint(
                    "files of requirements are `requirements*.txt` beside the project file, and `requirements/*.txt`",
                )),
        }
    }

    /// `-e .`: the project itself, which functions have anyway.
    fn path(&mut self, path: &str, at: Location) {
        if !matches!(path, "." | "./" | "file:.") {
            self.found.reports.push(errors::unreachable_package(at));
        }
    }

    /// One PEP 508 requirement.
    fn requirement(&mut self, line: &str, at: Location) {
        let line = line.split(" --").next().unwrap_or(line).trim();
        if line.starts_with(['.', '/']) || line.ends_with(".whl") || line.ends_with(".tar.gz") {
            return self.path(line, at);
        }
        if line.contains("://") || line.contains('@') {
            return self.found.reports.push(errors::unreachable_package(Location { excerpt: None, ..at }));
        }
        let (rest, marker) = line.split_once(';').map_or((line, ""), |(rest, marker)| (rest.trim(), marker.trim()));
        let end = rest.find(['<', '>', '=', '!', '~', '(', ' ']).unwrap_or(rest.len());
        // Extras may stand apart: `name [extra] >=1`.
        let end = rest.find(']').map_or(end, |bracket| bracket + 1);
        let (name, version) = rest.split_at(end);
        let name: String = name.split_whitespace().collect();
        let version = version.trim().trim_start_matches('(').trim_end_matches(')').trim();
        let is_range = version.is_empty() || VersionSpecifiers::from_str(version).is_ok();
        let checked = environment::check_package(&name, version).and(if is_range {
            Ok(())
        } else {
            Err(format!("`{version}` is not a version"))
        });
        match checked {
            // Functions have it anyway, and of the right version.
            Ok(()) if environment::normalized(&name) == "forebay" => {}
            Ok(()) => {
                let version =
                    if marker.is_empty() { version.to_owned() } else { format!("{version} ; {marker}").trim().to_owned() };
                self.found.packages.push((name, version));
            }
            Err(why) => self.found.reports.push(errors::package(at, &name, &why)),
        }
    }
}

/// `#` starts a comment at the beginning of a line or after a space.
fn without_comment(line: &str) -> &str {
    let comment = line.char_indices().find(|(at, c)| *c == '#' && (*at == 0 || line[..*at].ends_with([' ', '\t'])));
    comment.map_or(line, |(at, _)| &line[..at]).trim()
}

fn python_for(specifiers: &VersionSpecifiers) -> Option<String> {
    let fits = |minor: &&u32| (0..PATCH_LEVELS).any(|patch| specifiers.contains(&Version::new([3, u64::from(**minor), patch])));
    PYTHONS.iter().find(fits).map(|minor| format!("3.{minor}"))
}

/// The project's files that a Python file imports, itself among them: indexes into the sources.
///
/// A word in an import that is the name of a file or folder of the project counts as an import of it, so this errs on the side
/// of more.
pub(crate) fn closure(sources: &Sources, path: &str) -> Vec<usize> {
    let is_python = |file: &SourceFile| file.path.ends_with(".py");
    let mut found: Vec<usize> = sources.files.iter().position(|file| file.path == path).into_iter().collect();
    let mut next = 0;
    while let Some(file) = found.get(next).map(|index| &sources.files[*index]) {
        next += 1;
        let words: Vec<&str> =
            imports(&file.text).flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_')).collect();
        for (index, other) in sources.files.iter().enumerate().filter(|(_, file)| is_python(file)) {
            let mut names = other.path.trim_end_matches(".py").split('/');
            if !found.contains(&index) && names.any(|name| words.contains(&name)) {
                found.push(index);
            }
        }
    }
    found
}

/// Whether a text imports a package.
pub(crate) fn imports_package(text: &str, package: &str) -> bool {
    imports(text).any(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == package))
}

/// Lines that are, or begin, imports.
fn imports(text: &str) -> impl Iterator<Item = &str> {
    let starts = |line: &&str| line.starts_with("import ") || line.starts_with("from ");
    text.lines().flat_map(|line| line.split(';')).map(str::trim).filter(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Defaults {
        let files = files.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() });
        read(&Sources { files: files.collect() })
    }

    #[track_caller]
    fn check(text: &str, expect: &[(&str, &str)]) {
        let found = found(&[("requirements.txt", text)]);
        assert!(found.reports.is_empty(), "{:?}", found.reports);
        let packages: Vec<(&str, &str)> = found.packages.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        assert_eq!(packages, expect);
    }

    #[test]
    fn requirements_as_people_write_them() {
        check("pandas==2.0.3\n# none\n\npolars >= 1, < 2  # why\n", &[("pandas", "==2.0.3"), ("polars", ">= 1, < 2")]);
        check(
            "a[x, y]>=1 ; python_version < '3.12'\nb;sys_platform=='win32'",
            &[("a[x,y]", ">=1 ; python_version < '3.12'"), ("b", "; sys_platform=='win32'")],
        );
        check("a==1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nb (>=2)\r\n", &[("a", "==1.0"), ("b", ">=2")]);
        check("\u{feff}Forebay>=0.1\n-e .\n--require-hashes\n.\na\na\n", &[("a", "")]);
    }

    #[test]
    fn other_files_and_options() {
        let files = [
            ("requirements.txt", "-r requirements/base.txt\n--extra-index-url https://u:secret@h/\n-c c.txt"),
            ("requirements/base.txt", "-r more.txt\nb"),
            ("requirements/more.txt", "c"),
        ];
        let found = found(&files);
        assert_eq!(found.packages, [("c".to_owned(), String::new()), ("b".to_owned(), String::new())]);
        assert!(found.warnings.len() == 2 && !found.warnings.concat().contains("secret"), "{:?}", found.warnings);
    }

    #[test]
    fn what_cannot_be_had_is_told() {
        for (line, code) in [
            ("a @ https://u:secret@h/a.whl", "PLN0013"),
            ("git+https://u:secret@h/a", "PLN0013"),
            ("./a.whl", "PLN0013"),
            ("-e ../other", "PLN0013"),
            ("-r nothing.txt", "PLN0006"),
            ("-r requirements.txt", "PLN0006"),
            ("a==new", "PLN0013"),
            ("a 1.0", "PLN0013"),
        ] {
            let found = found(&[("requirements.txt", line)]);
            let told: Vec<String> = found.reports.iter().map(ToString::to_string).collect();
            assert_eq!(found.reports.first().map(|report| report.code.0.as_str()), Some(code), "{line}: {told:?}");
            assert!(!told.concat().contains("secret"), "{told:?}");
        }
    }

    #[test]
    fn pyproject_gives_packages_and_a_python() {
        let python = |range: &str| {
            found(&[(
                "pyproject.toml",
                &format!("[project]\nrequires-python = \"{range}\"\ndependencies = ['x>=1']\n[tool.x]\nd = 2020-01-01\n"),
            )])
        };
        for (range, expect) in [
            (">=3.9", "3.11"),
            (">=3.12", "3.12"),
            ("<3.11", "3.10"),
            ("==3.9.*", "3.9"),
            (">=3.13.1,<4", "3.13"),
            ("~=3.10.5", "3.10"),
        ] {
            assert_eq!(python(range).python.as_deref(), Some(expect), "{range}");
        }
        assert_eq!(python(">=3.9").packages, [("x".to_owned(), ">=1".to_owned())]);
        assert_eq!((python("<3").python, python("<3").warnings.len()), (None, 1));
        assert_eq!(python("three").reports[0].code.0, "PLN0006");
        assert_eq!(found(&[("pyproject.toml", "[tool.ruff]\nline-length = 1\n")]).packages, []);
        assert_eq!(found(&[("pyproject.toml", "[project")]).reports[0].code.0, "PLN0006");
    }

    #[test]
    fn imports_are_followed() {
        let files = [
            ("a.py", "from lib.deep import x\n"),
            ("b.py", "import pyarrow as pa"),
            ("lib/deep.py", "def f():\n    from . import other"),
            ("lib/other.py", "x = 1; import pyarrow.compute"),
        ];
        let files = files.iter().map(|(path, text)| SourceFile { path: (*path).to_owned(), text: (*text).to_owned() });
        let sources = Sources { files: files.collect() };
        assert_eq!(closure(&sources, "a.py"), [0, 2, 3]);
        assert_eq!(closure(&sources, "b.py"), [1]);
        assert!(imports_package(&sources.files[3].text, "pyarrow") && !imports_package(&sources.files[0].text, "pyarrow"));
    }
}
