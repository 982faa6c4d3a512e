//! Byte code for the modules that the first imports did not touch: compiled once per layer, after the environment is in use.
//!
//! The smoke test of a new environment imports what was asked for, which writes the byte code a function needs most. The rest is
//! compiled by one process at the lowest priority, straight into the layers (each file appears with one rename), and
//! linked into the environment. It ends when whoever started it ends: its standard input closes.
//! Times, not hashes, tie byte code to its source: a hard link has the time of its file, and a copy is given it.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::store::Layer;
use crate::{Watch, tree};

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
