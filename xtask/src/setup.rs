//! Brings a bare machine to the point where Forebay runs: the release binary at `target/release/forebay`,
//! uv from PyPI in `target/tools`, and `target/venv` with the SDK and what the tests read tables with.
//!
//! Each step leaves a stamp (a hash of what went in) and is skipped while the stamp holds.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{run, step};

/// Where things are once set up.
pub struct Paths {
    /// The repository.
    pub root: PathBuf,
    /// `target/` of the repository, whatever `CARGO_TARGET_DIR` says.
    pub target: PathBuf,
    /// The release binary.
    pub forebay: PathBuf,
    /// The interpreter of the environment with the SDK.
    pub python: PathBuf,
}

/// The repository's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_owned()
}

/// Does what is not done yet.
pub fn setup() -> Result<Paths> {
    let root = root();
    let target = root.join("target");
    fs::create_dir_all(&target)?;
    step("building the release binary (the first build compiles DataFusion and takes some minutes)");
    run(cargo(&root).args(["build", "--release", "--workspace"]))?;
    let forebay = target.join("release/forebay");
    place(&cargo_target(&root).join("release/forebay"), &forebay)?;
    let uv = tools(&root, &target)?;
    let python = environment(&root, &target, &uv)?;
    sdk(&root, &target, &uv, &python, &forebay)?;
    Ok(Paths { root, target, forebay, python })
}

/// A cargo command that works in the repository.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_xtask(command.current_dir(root));
    command
}

/// Takes away what `cargo xtask` set for xtask itself: it makes build scripts (ring's, for one) run again, and with
/// them all of DataFusion is built again.
fn forget_xtask(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
}

fn cargo_target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(PathBuf::from(dir)))
}

/// Puts the built binary where the README says it is.
fn place(built: &Path, wanted: &Path) -> Result<()> {
    if built == wanted || digest(&[built.to_owned()])? == digest(&[wanted.to_owned()]).unwrap_or_default() {
        return Ok(());
    }
    fs::create_dir_all(wanted.parent().context("the binary has a folder")?)?;
    let fresh = wanted.with_extension("new");
    fs::copy(built, &fresh).with_context(|| format!("could not copy {}", built.display()))?;
    fs::rename(&fresh, wanted)?;
    Ok(())
}

/// uv, from PyPI, into `target/tools`.
fn tools(root: &Path, target: &Path) -> Result<PathBuf> {
    let uv = target.join("tools/bin/uv");
    let wanted = root.join("xtask/tools.txt");
    stamped(&target.join("tools/.stamp"), &digest(&[wanted.clone()])?, || {
        step("installing uv from PyPI");
        run(Command::new(python3()?)
            .args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
            .arg(target.join("tools"))
            .arg("-r")
            .arg(&wanted))
    })?;
    Ok(uv)
}

fn python3() -> Result<&'static str> {
    let fits = |name: &&str| {
        let check = "import sys; sys.exit(sys.version_info < (3, 11))";
        Command::new(name).args(["-c", check]).status().is_ok_and(|status| status.success())
    };
    let Some(found) = ["python3.11", "python3", "python3.12", "python3.13", "python"].into_iter().find(fits) else {
        bail!("found no Python 3.11 or newer on PATH: install one with pip, then run this again");
    };
    Ok(found)
}

/// The private environment of tests and demo.
fn environment(root: &Path, target: &Path, uv: &Path) -> Result<PathBuf> {
    let venv = target.join("venv");
    let python = venv.join("bin/python");
    let wanted = root.join("xtask/requirements.txt");
    stamped(&target.join("venv.stamp"), &digest(&[wanted.clone()])?, || {
        step("making target/venv");
        run(Command::new(uv).args(["venv", "--quiet", "--clear", "--python", python3()?]).arg(&venv))?;
        run(Command::new(uv).args(["pip", "install", "--quiet", "--python"]).arg(&python).arg("-r").arg(&wanted))
    })?;
    Ok(python)
}

/// The SDK as a user gets it: the wheel of `pip install .`, in `target/venv`.
fn sdk(root: &Path, target: &Path, uv: &Path, python: &Path, forebay: &Path) -> Result<()> {
    let mut inputs = vec![forebay.to_owned(), root.join("pyproject.toml"), target.join("venv.stamp"), root.join("Cargo.lock")];
    for folder in
        ["python/forebay", "crates/python", "crates/preload", "crates/arena", "crates/shm", "crates/sipc", "xtask/wheel"]
    {
        inputs.extend(files(&root.join(folder)));
    }
    stamped(&target.join("sdk.stamp"), &digest(&inputs)?, || {
        step("building the wheel and installing it into target/venv");
        let mut install = Command::new(uv);
        install
            .current_dir(root)
            .args(["pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--reinstall", "--python"])
            .arg(python)
            .arg(".")
            .env("VIRTUAL_ENV", target.join("venv"))
            .env("PATH", path_with(&[&target.join("venv/bin"), &target.join("tools/bin")]));
        forget_xtask(&mut install);
        run(&mut install)
    })
}

/// `PATH` with `first` in front.
pub fn path_with(first: &[&Path]) -> std::ffi::OsString {
    let rest = std::env::var_os("PATH").unwrap_or_default();
    let all = first.iter().map(|dir| (*dir).to_owned()).chain(std::env::split_paths(&rest));
    std::env::join_paths(all).expect("folders of the repository hold no colon")
}

fn stamped(stamp: &Path, digest: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if fs::read_to_string(stamp).is_ok_and(|text| text == digest) {
        return Ok(());
    }
    work()?;
    fs::write(stamp, digest)?;
    Ok(())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = walkdir::WalkDir::new(folder)
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_file() && !entry.path().components().any(|part| part.as_os_str() == "__pycache__"))
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.extension().is_none_or(|end| end != "so"))
        .collect();
    found.sort();
    found
}

/// A hash of names and contents; for noticing change, not for security.
fn digest(paths: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for path in paths {
        path.file_name().hash(&mut hasher);
        fs::read(path).with_context(|| format!("could not read {}", path.display()))?.hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}
