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

/// Compiles the trees named by its arguments. Tests are left out: they are most of the files, and nobody imports them.
const SCRIPT: &str = r#"
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()
os.nice(19)
from importlib.util import cache_from_source
from importlib._bootstrap_external import _code_to_timestamp_pyc, _write_atomic
def compile_one(path):
    target = cache_from_source(path)
    if os.path.exists(target):
        return
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec", dont_inherit=True)
    state = os.stat(path)
    # Not `py_compile`, which makes the whole way to the file: a package that was removed meanwhile would be half there again.
    try:
        os.mkdir(os.path.dirname(target))
    except FileExistsError:
        pass
    _write_atomic(target, _code_to_timestamp_pyc(code, int(state.st_mtime), state.st_size))
for tree in sys.argv[2:]:
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name not in ("__pycache__", "tests", "test")]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                try:
                    compile_one(path)
                except Exception:
                    pass
    open(os.path.join(os.path.dirname(tree), "compiled"), "w").close()
os._exit(0)
"#;

/// Compiles what importing some modules will need: `mark, folder for half-made files, environment, processes, modules, trees of layers`.
///
/// Statements are found by how lines look, not by parsing, which would take as long as compiling: those of a module's outermost block,
/// and of blocks in it that are neither functions, classes nor for type checkers. What is found in a text by mistake is a module that
/// does not exist, or is compiled before its time.
const AHEAD: &str = include_str!("bytecode_ahead.py");

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
    let folder = python.parent()?.parent()?;
    let trees: Vec<&Path> = layers.iter().filter(|layer| !is_complete(layer)).map(|layer| layer.tree.as_path()).collect();
    if trees.is_empty() || modules.is_empty() {
        return None;
    }
    let processes = std::thread::available_parallelism().map_or(1, usize::from).min(AHEAD_PROCESSES_MAX);
    let mut command = Command::new(python);
    command.args(["-I", "-S", "-W", "ignore", "-c", AHEAD, COMPILER_MARK]).arg(staging).arg(folder).arg(processes.to_string());
    command.arg(modules.join(" ")).args(trees).current_dir(folder).env_clear();
    uv::Started::new(command, watch).ok()
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
    command.args(["-I", "-S", "-c", SCRIPT, COMPILER_MARK]).args(left.iter().map(|layer| &layer.tree)).current_dir(folder);
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
