//! A project as one immutable folder: what a run reads cannot change under it.
//!
//! Every file of the project's folder is copied to `<state>/projects/<sha-256 of paths and contents>/`, where functions find it at
//! its path: the sources (the root's `*.py`, `*.sql` and project files, what says which packages it needs, every `*.py` of
//! sub-folders), which the planner reads, and whatever data lies beside them. Left out is what the project's own
//! `.gitignore` files name, hidden files, virtual environments, the files that secrets are read from, links that lead out of the
//! project to anything but sources, and a lake or a home of ours that happens to lie in it.
//!
//! Invariants: a folder with that name is complete (it is renamed into place) and read-only; the same
//! files always get the same hash, wherever the project lies.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use forebay_plan::{SourceFile, Sources};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::limits::{
    PROJECT_BYTES_MAX, PROJECT_FILES_MAX, PROJECT_USED_AGO_MIN, PROJECTS_BYTES_MAX, PROJECTS_KEPT_MAX, SOURCE_FILE_BYTES_MAX,
};

/// Names of project files. More than one at a time is the planner's error to tell.
pub const PROJECT_FILES: [&str; 3] = ["forebay.toml", "bauplan_project.yml", "bauplan_project.yaml"];

/// Files of the root that say which packages a project needs, beside `requirements*.txt`.
const PACKAGE_FILES: [&str; 2] = ["pyproject.toml", "forebay.lock"];

/// A copied project.
#[derive(Debug)]
pub struct Project {
    /// Folder of the copy.
    pub dir: PathBuf,
    /// SHA-256 of all paths and contents, in hex.
    pub hash: String,
    /// What the planner reads.
    pub sources: Sources,
}

/// Reads the project at `folder` and copies it below `projects`, without what lies in a folder of `others`.
pub fn snapshot(folder: &Path, projects: &Path, others: &[PathBuf]) -> Result<Project> {
    let files = read(folder, &Which::All { others })?;
    let hash = digest(&files);
    let sources = sources(&files)?;
    let dir = projects.join(&hash);
    if dir.is_dir() {
        touch(&dir);
    } else {
        copy(&files, projects, &dir)?;
        prune(projects, &dir);
    }
    Ok(Project { dir, hash, sources })
}

/// What is read of a project.
enum Which<'a> {
    /// What the planner reads.
    Sources,
    /// All but what lies in these folders.
    All { others: &'a [PathBuf] },
}

struct Content {
    bytes: Vec<u8>,
    is_source: bool,
}

type Files = BTreeMap<String, Content>;

fn read(folder: &Path, which: &Which<'_>) -> Result<Files> {
    let unreadable = |why: String| Error::Project { path: folder.to_owned(), why };
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => {}
        Ok(_) => return Err(unreadable("it is not a folder".to_owned())),
        Err(error) => return Err(unreadable(error.to_string())),
    }
    let too_large = |why: String| Error::ProjectTooLarge { path: folder.to_owned(), why };
    let mut files = Files::new();
    let (mut total, mut largest) = (0, (0, String::new()));
    for candidate in walk(folder, which) {
        let (path, is_source) = candidate.map_err(|error| unreadable(error.to_string()))?;
        let Some(name) = relative(folder, &path) else { continue };
        // Through symbolic links of files, not of folders.
        let metadata = match std::fs::metadata(&path) {
            Err(_) if !is_source => continue,
            found => found.map_err(|error| unreadable(format!("{name}: {error}")))?,
        };
        if !metadata.is_file() || !(is_source || is_inside(folder, &path)) {
            continue;
        }
        let bytes = metadata.len();
        if is_source && bytes > SOURCE_FILE_BYTES_MAX {
            return Err(too_large(format!("`{name}` has {bytes} bytes; a source file has at most {SOURCE_FILE_BYTES_MAX}")));
        }
        total += bytes;
        if bytes > largest.0 {
            largest = (bytes, name.clone());
        }
        if total > PROJECT_BYTES_MAX {
            let (bytes, name) = largest;
            return Err(too_large(format!(
                "its files have more than {PROJECT_BYTES_MAX} bytes together; of those seen, `{name}` is the largest, with {bytes}"
            )));
        }
        if files.len() >= PROJECT_FILES_MAX {
            return Err(too_large(format!("it has more than {PROJECT_FILES_MAX} files")));
        }
        let bytes = std::fs::read(&path).map_err(|error| unreadable(format!("{name}: {error}")))?;
        files.insert(name, Content { bytes, is_source });
    }
    leave_secrets(&mut files);
    Ok(files)
}

/// Whether a path, its links followed, stays in the project.
fn is_inside(folder: &Path, path: &Path) -> bool {
    match (folder.canonicalize(), path.canonicalize()) {
        (Ok(folder), Ok(path)) => path.starts_with(folder),
        _ => false,
    }
}

/// Takes out the files that the project's secrets are read from: they are no part of what runs.
fn leave_secrets(files: &mut Files) {
    let Ok(sources) = sources(files) else { return };
    let Ok(project) = forebay_plan::project(&sources) else { return };
    for parameter in project.parameters {
        if let Some(forebay_plan::SecretSource::File(path)) = parameter.from {
            files.remove(path.trim_start_matches("./"));
        }
    }
}

/// Paths of candidate files. Only the project's own ignore files count, so that the same
/// sources give the same hash in a checkout and outside of one.
fn walk(folder: &Path, which: &Which<'_>) -> impl Iterator<Item = Result<(PathBuf, bool), ignore::Error>> {
    let (all, others) = match which {
        Which::Sources => (false, Vec::new()),
        Which::All { others } => (true, others.to_vec()),
    };
    let root = folder.to_owned();
    let walk = ignore::WalkBuilder::new(folder)
        .parents(false)
        .git_global(false)
        .git_exclude(false)
        .ignore(false)
        .require_git(false)
        .filter_entry(move |entry| {
            if entry.depth() > 0 && others.iter().any(|other| entry.path() == other && *other != root) {
                return false;
            }
            let is_environment = entry.file_type().is_some_and(|kind| kind.is_dir()) && entry.path().join("pyvenv.cfg").is_file();
            entry.depth() == 0 || !(is_environment || entry.file_name() == "__pycache__" || entry.file_name() == "node_modules")
        })
        .build();
    walk.filter_map(move |entry| match entry {
        Ok(entry) if entry.file_type().is_some_and(|kind| kind.is_dir()) => None,
        Ok(entry) => {
            let is_source = is_source(&entry);
            (is_source || all).then(|| Ok((entry.into_path(), is_source)))
        }
        Err(error) => Some(Err(error)),
    })
}

fn is_source(entry: &ignore::DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    let extension = entry.path().extension();
    let is = |wanted: &str| extension.is_some_and(|extension| extension == wanted);
    let is_requirements = |folder: &Path| folder.file_name().is_some_and(|folder| folder == "requirements");
    let of_root = || is("sql") || PROJECT_FILES.contains(&name.as_ref()) || PACKAGE_FILES.contains(&name.as_ref());
    is("py")
        || (entry.depth() == 1 && (of_root() || (name.starts_with("requirements") && is("txt"))))
        || (entry.depth() == 2 && is("txt") && entry.path().parent().is_some_and(is_requirements))
}

/// The path below the project, with `/`; `None` for a name that is not Unicode (Python could not import it).
fn relative(folder: &Path, path: &Path) -> Option<String> {
    let parts = path.strip_prefix(folder).ok()?.iter().map(|part| part.to_str());
    Some(parts.collect::<Option<Vec<_>>>()?.join("/"))
}

fn digest(files: &Files) -> String {
    let mut hasher = Sha256::new();
    for (path, Content { bytes, .. }) in files {
        // Lengths first: no two different sets of files give the same stream of bytes.
        hasher.update((path.len() as u64).to_le_bytes());
        hasher.update(path);
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hex::encode(hasher.finalize())
}

fn sources(files: &Files) -> Result<Sources> {
    // The worker reads the lock itself.
    let read = files.iter().filter(|(path, content)| content.is_source && path.as_str() != "forebay.lock");
    let files = read.filter_map(|(path, Content { bytes, .. })| match std::str::from_utf8(bytes) {
        Ok(text) => Some(Ok(SourceFile { path: path.clone(), text: text.to_owned() })),
        // Of helpers, only the interpreter needs the text.
        Err(_) if path.contains('/') => None,
        Err(_) => Some(Err(Error::NotText { file: path.clone() })),
    });
    Ok(Sources { files: files.collect::<Result<_>>()? })
}

/// What the planner reads of the project at `folder`, without a copy of it.
pub fn read_sources(folder: &Path) -> Result<Sources> {
    sources(&read(folder, &Which::Sources)?)
}

fn copy(files: &Files, projects: &Path, dir: &Path) -> Result<()> {
    let temporary = projects.join(format!("tmp-{}", uuid::Uuid::now_v7().simple()));
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(&temporary)?;
        for (path, Content { bytes, .. }) in files {
            let path = temporary.join(path);
            let folder = path.parent().expect("a file of the copy is in a folder");
            std::fs::create_dir_all(folder)?;
            std::fs::write(&path, bytes)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444))?;
        }
        set_dir_modes(&temporary, 0o555)?;
        std::fs::rename(&temporary, dir)
    };
    write().or_else(|error| {
        remove(&temporary);
        // Another run of the same sources may have been first.
        if dir.is_dir() { Ok(()) } else { Err(Error::storage("write the project snapshot", dir)(error)) }
    })
}

fn set_dir_modes(dir: &Path, mode: u32) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            set_dir_modes(&entry.path(), mode)?;
        }
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
}

/// Marks the copy as used now; the time of the folder orders what is pruned.
fn touch(dir: &Path) {
    if let Ok(file) = std::fs::File::open(dir) {
        let _ = file.set_modified(std::time::SystemTime::now());
    }
}

fn prune(projects: &Path, keep: &Path) {
    let Ok(entries) = std::fs::read_dir(projects) else { return };
    let mut dirs: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .filter(|(_, path)| path != keep)
        .collect();
    dirs.sort_unstable();
    let excess = (dirs.len() + 1).saturating_sub(PROJECTS_KEPT_MAX);
    let mut sizes: Vec<u64> = dirs.iter().map(|(_, dir)| bytes_of(dir)).collect();
    sizes.push(bytes_of(keep));
    let mut total: u64 = sizes.iter().sum();
    for (index, (used, dir)) in dirs.iter().enumerate() {
        // What was used just now may still be.
        let is_old = used.elapsed().is_ok_and(|age| age > PROJECT_USED_AGO_MIN);
        if index < excess || (total > PROJECTS_BYTES_MAX && is_old) {
            remove(dir);
            total -= sizes[index];
        }
    }
}

fn bytes_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(std::result::Result::ok);
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_of(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

fn remove(dir: &Path) {
    let _ = set_dir_modes(dir, 0o755);
    let _ = std::fs::remove_dir_all(dir);
}

#[cfg(test)]
mod tests {
    use forebay_types::Coded;

    use super::*;

    struct Context {
        root: tempfile::TempDir,
    }

    impl Context {
        fn new(files: &[(&str, &str)]) -> Self {
            let context = Self { root: tempfile::tempdir().unwrap() };
            std::fs::create_dir_all(context.folder()).unwrap();
            std::fs::create_dir_all(context.projects()).unwrap();
            for (path, text) in files {
                context.write(path, text.as_bytes());
            }
            context
        }
        fn folder(&self) -> PathBuf {
            self.root.path().join("project")
        }
        fn projects(&self) -> PathBuf {
            self.root.path().join("projects")
        }
        fn write(&self, path: &str, bytes: &[u8]) {
            let path = self.folder().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        fn snapshot(&self) -> Result<Project> {
            snapshot(&self.folder(), &self.projects(), &[self.folder().join("lake")])
        }
        fn code(&self) -> String {
            self.snapshot().unwrap_err().report().code.0
        }
    }

    impl Drop for Context {
        fn drop(&mut self) {
            let _ = set_dir_modes(&self.projects(), 0o755);
        }
    }

    #[test]
    fn takes_sources_and_leaves_the_rest() {
        let context = Context::new(&[
            ("models.py", "a"),
            ("top.sql", "b"),
            ("forebay.toml", "c"),
            ("data.csv", "x"),
            ("lib/__init__.py", "d"),
            ("lib/deep/util.py", "e"),
            ("lib/other.sql", "x"),
            ("requirements-dev.txt", "f"),
            ("pyproject.toml", "g"),
            ("forebay.lock", "h"),
            ("requirements/base.txt", "i"),
            ("lib/notes.txt", "x"),
            ("secret.py", "x"),
            ("lib/ignored.py", "x"),
            (".gitignore", "secret.py\n"),
            ("lib/.gitignore", "ignored.py\n"),
            (".hidden/x.py", "x"),
            ("env/pyvenv.cfg", ""),
            ("env/lib/x.py", "x"),
            ("lib/__pycache__/x.py", "x"),
            ("lake/catalog/x", "x"),
            ("keys/token", "hunter2"),
        ]);
        std::fs::write(context.root.path().join("outside"), "x").unwrap();
        std::os::unix::fs::symlink("../outside", context.folder().join("link")).unwrap();
        std::os::unix::fs::symlink("data.csv", context.folder().join("inside")).unwrap();
        context
            .write("forebay.toml", b"[project]\nname = \"p\"\n[parameters.t]\ntype = \"secret\"\nfrom = \"file:keys/token\"\n");
        let project = context.snapshot().unwrap();
        let paths: Vec<&str> = project.sources.files.iter().map(|file| file.path.as_str()).collect();
        let read_by_planner = [
            "forebay.toml",
            "lib/__init__.py",
            "lib/deep/util.py",
            "models.py",
            "pyproject.toml",
            "requirements-dev.txt",
            "requirements/base.txt",
            "top.sql",
        ];
        assert_eq!(paths, read_by_planner);
        let copied = read(&project.dir, &Which::All { others: &[] }).unwrap();
        let mut expected =
            [&read_by_planner[..], &["data.csv", "forebay.lock", "inside", "lib/notes.txt", "lib/other.sql"]].concat();
        expected.sort_unstable();
        assert_eq!(copied.keys().collect::<Vec<_>>(), expected);
        let mode = |path: &str| std::fs::metadata(project.dir.join(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("models.py"), mode("lib/deep"), mode("")), (0o444, 0o555, 0o555));
    }

    #[test]
    fn same_sources_same_hash() {
        let (a, b) = (Context::new(&[("m.py", "1")]), Context::new(&[("m.py", "1"), (".notes", "x")]));
        let first = a.snapshot().unwrap();
        assert_eq!(first.hash, b.snapshot().unwrap().hash);
        assert_eq!(first.dir, a.snapshot().unwrap().dir);
        a.write("m.py", b"2");
        let second = a.snapshot().unwrap();
        assert_ne!(first.hash, second.hash);
        assert_eq!(std::fs::read(first.dir.join("m.py")).unwrap(), b"1");
        assert_eq!(std::fs::read_dir(a.projects()).unwrap().count(), 2);
    }

    #[test]
    fn an_ignored_checkout_is_still_a_project() {
        let context = Context::new(&[("m.py", "1")]);
        std::fs::write(context.root.path().join(".gitignore"), "project/\n*.py\n").unwrap();
        assert_eq!(context.snapshot().unwrap().sources.files.len(), 1);
    }

    #[test]
    fn folders_that_cannot_be_projects() {
        let context = Context::new(&[("m.py", "1")]);
        let missing = snapshot(&context.folder().join("nowhere"), &context.projects(), &[]).unwrap_err();
        assert_eq!(missing.report().code.0, "CTL0011");
        let file = snapshot(&context.folder().join("m.py"), &context.projects(), &[]).unwrap_err();
        assert_eq!(file.report().code.0, "CTL0011");
        context.write("m.py", &[0xff, 0xfe]);
        assert_eq!(context.code(), "CTL0013");
        context.write("m.py", &vec![b'#'; usize::try_from(SOURCE_FILE_BYTES_MAX).unwrap() + 1]);
        assert_eq!(context.code(), "CTL0012");
    }

    #[test]
    fn data_counts_and_has_a_limit() {
        let context = Context::new(&[("m.py", "1"), ("data/x.csv", "1")]);
        let first = context.snapshot().unwrap();
        assert_eq!(std::fs::read(first.dir.join("data/x.csv")).unwrap(), b"1");
        context.write("data/x.csv", b"2");
        assert_ne!(context.snapshot().unwrap().hash, first.hash);
        let large = std::fs::File::create(context.folder().join("data/large.bin")).unwrap();
        large.set_len(PROJECT_BYTES_MAX).unwrap();
        let report = context.snapshot().unwrap_err().report();
        assert!(report.code.0 == "CTL0012" && report.to_string().contains("data/large.bin"), "{report}");
        context.write(".gitignore", b"*.bin\n");
        context.snapshot().unwrap();
    }

    #[test]
    fn too_many_files() {
        let context = Context::new(&[]);
        for n in 0..=PROJECT_FILES_MAX {
            context.write(&format!("lib/m{n}.py"), b"");
        }
        assert_eq!(context.code(), "CTL0012");
    }
}
