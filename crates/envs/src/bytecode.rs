//! Byte code: compiled once per layer, what the first imports need while they go on, and the rest when the environment is in use.
//!
//! ```text
//! new environment ─▶ first imports ──────────────────▶ in use
//!                └─▶ what they will need, just ahead ─┘ └─▶ all the rest, at the lowest priority
//! ```
//!
//! *Ahead*: the imports of new packages are read from their sources (no code of theirs is executed), in the order in which an interpreter
//! meets them, and compiled by as many processes as there are processors. Whoever imports finds the byte code there, or compiles for
//! itself what was not foreseen. *The rest* is compiled by one process. Both work straight into the layers (each file appears with one
//! rename) and link it into the environment. They end when whoever started them ends: their standard input closes.
//! Times, not hashes, tie byte code to its source: a hard link has the time of its file, and a copy is given it.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::store::Layer;
use crate::{Watch, tree, uv};

/// A word on the command line by which the process can be told from functions.
pub const COMPILER_MARK: &str = "forebay-byte-code";

/// Beside a layer's tree: it has been compiled, as far as it compiles.
const DONE: &str = "compiled";

/// What compiles.
const SCRIPT: &str = include_str!("bytecode.py");

/// Processes that compile ahead at a time.
const AHEAD_PROCESSES_MAX: usize = 4;

/// Begins to compile what importing these modules in a new environment will need. `staging` is a folder for what is half made. Dropping
/// what is returned ends it.
pub(crate) fn ahead<'a>(
    python: &Path,
    staging: &Path,
    layers: &[Layer],
    modules: &[String],
    watch: &'a dyn Watch,
) -> Option<uv::Started<'a>> {
    let processes = std::thread::available_parallelism().map_or(1, usize::from).min(AHEAD_PROCESSES_MAX);
    // What cannot be started is compiled by whoever imports it.
    uv::Started::new(ahead_command(python, staging, layers, modules, processes)?, watch).ok()
}

/// `None`: there is nothing to do.
fn ahead_command(python: &Path, staging: &Path, layers: &[Layer], modules: &[String], processes: usize) -> Option<Command> {
    let folder = python.parent()?.parent()?;
    let trees: Vec<&Path> = layers.iter().filter(|layer| !is_complete(layer)).map(|layer| layer.tree.as_path()).collect();
    if trees.is_empty() || modules.is_empty() {
        return None;
    }
    let mut command = Command::new(python);
    command
        .args(["-I", "-S", "-W", "ignore", "-c", SCRIPT, COMPILER_MARK, "ahead"])
        .args([staging, folder])
        .arg(processes.to_string());
    command.arg(modules.join(" ")).args(trees).current_dir(folder).env_clear();
    Some(command)
}

/// Whether all of a layer has been compiled.
pub(crate) fn is_complete(layer: &Layer) -> bool {
    layer.tree.with_file_name(DONE).exists()
}

/// Compiles what is left of an environment's layers, and waits for the end; told to `watch` if somebody waits.
pub(crate) fn compile(python: &Path, folder: &Path, layers: &[Layer], watch: Option<&dyn Watch>) {
    let left: Vec<&Layer> = layers.iter().filter(|layer| !is_complete(layer)).collect();
    if left.is_empty() {
        return;
    }
    let mut command = Command::new(python);
    command
        .args(["-I", "-S", "-c", SCRIPT, COMPILER_MARK, "rest"])
        .args(left.iter().map(|layer| &layer.tree))
        .current_dir(folder);
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let Ok(mut child) = command.spawn() else { return };
    if let Some(watch) = watch {
        watch.progress("compiling byte code");
        watch.child_started(child.id());
    }
    let id = child.id();
    // `wait` would close the pipe at once; it stays open for as long as this process lives.
    let stdin = child.stdin.take();
    let status = child.wait();
    drop(stdin);
    if let Some(watch) = watch {
        watch.child_ended(id);
    }
    if status.is_ok_and(|status| status.success()) {
        // What cannot be linked is compiled by whoever imports it.
        let _ = tree::refresh_byte_code(folder, layers);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::{Quiet, interpreters, store};

    /// A package that imports itself in all the ways there are, another one that it needs, and what it needs only later.
    const SOURCES: [(&str, &str, &str); 14] = [
        ("one", "one/__init__.py", "from . import plain, missing\nfrom .deep.er import (\n    leaf,  # and\n    no_module,\n)\n"),
        ("one", "one/plain.py", "import os, two.part as part; x = 1\n\"\"\"\nimport one.in_a_text_only\n\"\"\"\n"),
        ("one", "one/in_a_text_only.py", ""),
        ("one", "one/deep/__init__.py", "try:\n    from .. import tried as t\nexcept ImportError:\n    import one.excepted\n"),
        ("one", "one/deep/er/__init__.py", "def later(\n    a,\n):\n    import one.later\n\n    import one.later\n"),
        ("one", "one/deep/er/leaf.py", "if TYPE_CHECKING:\n    import one.later\nelse:\n    from one import \\\n        split\n"),
        ("one", "one/tried.py", "class A:\n    import one.later\nraise SystemExit('executed')\n"),
        ("one", "one/excepted.py", "from one.broken import *\n"),
        ("one", "one/broken.py", "def (:\n"),
        ("one", "one/split.py", "from ....... import one\nimport one\n"),
        ("one", "one/later.py", ""),
        ("two", "two/__init__.py", "if True:\n    def late():\n        import two.late\n"),
        ("two", "two/part.py", ""),
        ("two", "two/late.py", ""),
    ];

    #[test]
    fn what_will_be_imported_is_compiled_ahead_and_nothing_is_executed() {
        let folder = tempfile::tempdir().unwrap();
        let found = ["3.11", "3.12", "3.13", "3.10", "3.9"].map(|version| interpreters::find(version, &[], None, &Quiet).ok());
        let Some(interpreter) = found.into_iter().flatten().next() else { return eprintln!("skipped: no Python") };
        let site = tree::site_packages(&interpreter);
        let place = folder.path().join("environment");
        tree::skeleton(&place, &interpreter).unwrap();
        for (package, path, text) in SOURCES {
            let path = folder.path().join(package).join("tree").join(&site).join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let layer = |package: &str| {
            let own = SOURCES.iter().filter(|(of, ..)| *of == package);
            let paths = own.map(|(_, path, _)| site.join(path).to_string_lossy().into_owned());
            store::layer_of(package, &folder.path().join(package).join("tree"), paths).unwrap()
        };
        let layers = ["one", "two"].map(layer);
        tree::assemble(&place, &layers, &[]).map_err(|_| "not assembled").unwrap();
        let python = place.join("bin/python");
        let modules = ["one".to_owned(), "nothing".to_owned()];
        let mut command = ahead_command(&python, folder.path(), &layers, &modules, 1).unwrap();
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        assert!(child.wait().unwrap().success());
        drop(stdin);
        let compiled = |root: &Path| {
            let has = |path: &str| {
                let path = root.join(&site).join(path);
                let name = format!(
                    "{}.cpython-{}.pyc",
                    path.file_stem().unwrap().to_string_lossy(),
                    interpreter.minor().replace('.', "")
                );
                fs::metadata(path.with_file_name("__pycache__").join(name)).ok().map(|metadata| metadata.ino())
            };
            SOURCES.map(|(_, path, _)| has(path))
        };
        let not = ["one/in_a_text_only.py", "one/broken.py", "one/later.py", "two/late.py"];
        let here = compiled(&place);
        let expected = SOURCES.map(|(_, path, _)| !not[1..].contains(&path));
        assert_eq!(here.map(|inode| inode.is_some()), expected, "{SOURCES:?}");
        // One file, in the layer and in the environment.
        let stored = layers.map(|layer| compiled(&layer.tree));
        let stored: Vec<_> = stored[0].iter().zip(stored[1]).map(|(one, two)| one.or(two)).collect();
        assert_eq!(stored, here);
        // It is taken for what it is: with it alone, the module is there.
        let text = "import importlib.util as u, sys; s = u.spec_from_file_location('x', sys.argv[1]); s.loader.source_to_code = None; s.loader.get_code('x')";
        let leaf = place.join(&site).join("one/deep/er/leaf.py");
        assert!(Command::new(&python).args(["-I", "-c", text]).arg(leaf).status().unwrap().success());
    }
}
