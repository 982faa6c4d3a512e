//! The `uv` program: where it is, and one way to run it.
//!
//! It runs in a process group of its own, so that a cancelled run can kill it with everything it started. What it
//! says is cleaned before anyone sees it: no credentials, no more than [`MESSAGE_LINES_MAX`] lines.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::{Error, Watch};

/// Lines of a message of uv or Python that are passed on.
const MESSAGE_LINES_MAX: usize = 20;

/// Finds the binary: as configured, FOREBAY_UV, beside our own program, in the development layout, on the PATH.
pub fn find(configured: Option<&Path>) -> Result<PathBuf, Error> {
    let chosen = configured.map(Path::to_owned).or_else(|| std::env::var_os("FOREBAY_UV").map(PathBuf::from));
    let on_path = || std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    // A chosen binary that is missing is an error, not a reason to take another.
    let tried: Vec<PathBuf> = match chosen {
        Some(path) => vec![path],
        None => program_folders().into_iter().chain(on_path()).map(|folder| folder.join("uv")).collect(),
    };
    tried.iter().find(|path| path.is_file()).cloned().ok_or(Error::UvMissing { tried })
}

/// Folders with programs that belong to ours: its own, and `../venv/bin` of the development layout.
pub fn program_folders() -> Vec<PathBuf> {
    let Ok(program) = std::env::current_exe() else { return Vec::new() };
    let mut folders = Vec::new();
    for program in [program.clone(), program.canonicalize().unwrap_or(program)] {
        let Some(folder) = program.parent() else { continue };
        for folder in [folder.to_owned(), folder.join("../venv/bin")] {
            if !folders.contains(&folder) {
                folders.push(folder);
            }
        }
    }
    folders
}

/// Runs a program to its end, with `input` as its standard input.
pub fn run(command: Command, input: &str, watch: &dyn Watch) -> Result<Output, Error> {
    let mut started = Started::new(command, watch)?;
    let stdin = started.child.as_mut().and_then(|child| child.stdin.take());
    // A child that ends without reading its input is told by its exit status.
    let _ = stdin.map(|mut stdin| stdin.write_all(input.as_bytes()));
    started.finish()
}

/// A program under way. Dropping it kills it, with everything it has started.
pub struct Started<'a> {
    child: Option<Child>,
    program: PathBuf,
    watch: &'a dyn Watch,
}

impl<'a> Started<'a> {
    /// Starts a program.
    pub fn new(mut command: Command, watch: &'a dyn Watch) -> Result<Self, Error> {
        let program = PathBuf::from(command.get_program());
        if watch.is_cancelled() {
            return Err(Error::Cancelled);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let child = command.spawn().map_err(Error::io("start", &program))?;
        watch.child_started(child.id());
        Ok(Self { child: Some(child), program, watch })
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Output, Error> {
        let child = self.child.take().expect("it is taken by the one who waits");
        let group = child.id();
        let output = child.wait_with_output();
        self.watch.child_ended(group);
        let output = output.map_err(Error::io("wait for", &self.program))?;
        if self.watch.is_cancelled() && !output.status.success() {
            return Err(Error::Cancelled);
        }
        Ok(output)
    }
}

impl Drop for Started<'_> {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        kill_group(child.id());
        let _ = child.wait();
        self.watch.child_ended(child.id());
    }
}

/// Kills all processes of a group whose leader has not been waited for.
pub fn kill_group(group: u32) {
    let group = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw);
    // What has ended already is what was wanted.
    let _ = group.map(|group| rustix::process::kill_process_group(group, rustix::process::Signal::KILL));
}

/// A uv command line that never asks, never draws and never downloads an interpreter.
pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(uv: &Path, folder: &Path, arguments: I) -> Command {
    let mut command = talking_command(uv, folder, arguments);
    command.arg("--quiet");
    command
}

/// The same, for what says nothing about its failure when it is told to be quiet.
pub fn talking_command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(uv: &Path, folder: &Path, arguments: I) -> Command {
    let mut command = Command::new(uv);
    command.args(arguments).args(["--no-progress", "--color", "never"]).current_dir(folder);
    command.env("UV_PYTHON_DOWNLOADS", "never").env("UV_NO_PROGRESS", "1").env_remove("VIRTUAL_ENV").env_remove("PYTHONPATH");
    command
}

/// What a failed program said, fit for a person: its last lines, without credentials.
pub fn message_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let text = if text.trim().is_empty() { String::from_utf8_lossy(&output.stdout) } else { text };
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let kept = lines[..lines.len().min(MESSAGE_LINES_MAX)].iter().map(|line| line.strip_prefix("error: ").unwrap_or(line));
    let text = mask(&kept.collect::<Vec<_>>().join("\n"));
    match (text.is_empty(), output.status.signal()) {
        (false, _) => text,
        (true, Some(signal)) => format!("it was killed by signal {signal}"),
        (true, None) => format!("it ended with {}", output.status),
    }
}

/// Replaces what may be secret in URLs: user, password and query.
pub fn mask(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        masked.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || "`'\"<>)".contains(c)).unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        let authority_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let (authority, path) = url.split_at(authority_end);
        match authority.rsplit_once('@') {
            Some((_, host)) => masked.extend(["***@", host]),
            None => masked.push_str(authority),
        }
        match path.split_once('?') {
            Some((path, _)) => masked.extend([path, "?***"]),
            None => masked.push_str(path),
        }
        rest = after;
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_masked() {
        assert_eq!(
            mask("GET https://ann:s3cr@et@host.example/simple/x?token=abc failed"),
            "GET https://***@host.example/simple/x?*** failed"
        );
        assert_eq!(mask("see `http://host/a` and ftp://u@h"), "see `http://host/a` and ftp://***@h");
        assert_eq!(mask("nothing here"), "nothing here");
    }

    #[test]
    fn a_chosen_binary_that_is_missing_is_named() {
        let error = find(Some(Path::new("/nowhere/uv"))).unwrap_err();
        assert!(matches!(&error, Error::UvMissing { tried } if tried[0] == Path::new("/nowhere/uv")), "{error:?}");
    }
}
