//! Byte code: of what is imported first, while the files of new packages are copied; of the rest once per layer, after the
//! environment is in use.
//!
//! The smoke test of a new environment imports what was asked for; [`Ahead`] compiles that beforehand, on another processor, and
//! what it did not foresee the smoke test compiles. The rest is compiled by one process at the lowest priority, straight into the
//! layers (each file appears with one rename), and linked into the environment. Both processes end when whoever started
//! them ends: their standard input closes.
//! Times, not hashes, tie byte code to its source: a hard link has the time of its file, and a copy is given it.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::store::Layer;
use crate::{Error, Watch, tree};

/// A word on the command line by which the process can be told from functions.
pub const COMPILER_MARK: &str = "forebay-byte-code";

/// Beside a layer's tree: it has been compiled, as far as it compiles.
const DONE: &str = "compiled";

/// Compiles the trees named by its arguments. Tests are left out: they are most of the files, and nobody imports them.
const SCRIPT: &str = r#"
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()
os.nice(19)
import py_compile
for tree in sys.argv[2:]:
    for folder, folders, files in os.walk(tree):
        folders[:] = [name for name in folders if name not in ("__pycache__", "tests", "test")]
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(folder, name)
                try:
                    target = __import__("importlib.util").util.cache_from_source(path)
                    if not os.path.exists(target):
                        py_compile.compile(path, target, doraise=True)
                except Exception:
                    pass
    open(os.path.join(os.path.dirname(tree), "compiled"), "w").close()
os._exit(0)
"#;

/// Whether all of a layer has been compiled.
pub(crate) fn is_complete(layer: &Layer) -> bool {
    layer.tree.with_file_name(DONE).exists()
}

/// Compiles, in the folder of packages `argv[2]`, the modules that follow and those they import when they are imported: what the
/// first import of an environment would compile, told from the byte code's own imports. Nothing is executed.
const AHEAD: &str = r#"
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(1)), daemon=True).start()
import importlib.util, marshal, py_compile
from opcode import opmap
NAME, FROM, EXTENDED = opmap["IMPORT_NAME"], opmap["IMPORT_FROM"], opmap["EXTENDED_ARG"]

def imports(code):
    names, operations, extended, module = code.co_names, code.co_code, 0, ""
    for at in range(0, len(operations), 2):
        operation, argument = operations[at], operations[at + 1] | extended
        extended = argument << 8 if operation == EXTENDED else 0
        if operation == NAME:
            module = names[argument]
            yield module
        elif operation == FROM:
            yield (module + "." + names[argument]).lstrip(".")

def chain(name):
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]

site, seen = sys.argv[2], set()
left = [module for name in sys.argv[3:] for module in chain(name)]
while left:
    module = left.pop(0)
    if module in seen:
        continue
    seen.add(module)
    path = os.path.join(site, *module.split("."))
    path, package = (path + "/__init__.py", module) if os.path.isdir(path) else (path + ".py", module.rpartition(".")[0])
    if not os.path.isfile(path):
        continue
    try:
        target = importlib.util.cache_from_source(path)
        py_compile.compile(path, target, doraise=True)
        with open(target, "rb") as file:
            code = marshal.loads(file.read()[16:])
        for name in imports(code):
            # As written, or relative to a package around it: what is not there is passed over.
            for outer in ["", *chain(package)]:
                left += chain((outer + "." + name).strip("."))
    except Exception:
        pass
os._exit(0)
"#;

/// The byte code of what will be imported first, made while files are copied.
pub(crate) struct Ahead(Option<Child>);

impl Ahead {
    /// Starts on the modules `roots` of an environment that packages were unpacked into.
    pub fn start(site: &Path, packages: &Path, roots: &[String]) -> Self {
        if roots.is_empty() {
            return Self(None);
        }
        let mut command = Command::new(site.join("bin/python"));
        command.args(["-I", "-S", "-c", AHEAD, COMPILER_MARK]).arg(site.join(packages)).args(roots).current_dir(site);
        command.env_clear().stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Self(command.spawn().ok())
    }

    /// Waits for its end. What it did not compile the first import compiles.
    pub fn finish(mut self, watch: &dyn Watch) -> Result<(), Error> {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        let stdin = child.stdin.take();
        watch.child_started(child.id());
        let ended = child.wait();
        watch.child_ended(child.id());
        drop((stdin, ended));
        if watch.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
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
