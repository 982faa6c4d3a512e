//! `doctor`: is everything there that a run needs, and what to do about what is not.
//!
//! Invariant: it makes the folders of the home and the copy of the Python runtime, as any run would, and changes
//! nothing else; it starts no background process and downloads nothing.

mod kernel;
mod sandbox;

use std::path::Path;
use std::process::{Command, Stdio};

use forebay_control::home::Home;
use forebay_runtime::PythonRuntime;
use forebay_types::Coded;
use rustix::fs::Access;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::{Failure, Result};
use crate::exit::Exit;
use crate::render::style::Style;

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do, if something is off or could be better.
    fix: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// As it should be; a fix is then a tip.
    Ok,
    /// Some projects will not run.
    Warning,
    /// Nothing will.
    Failed,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, state: State::Ok, found: found.into(), fix: None }
    }

    fn tip(name: &'static str, found: impl Into<String>, tip: impl Into<String>) -> Self {
        Self { fix: Some(tip.into()), ..Self::ok(name, found) }
    }

    fn off(name: &'static str, state: State, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state, found: found.into(), fix: Some(fix.into()) }
    }
}

pub fn run(context: &Context) -> Result<Exit> {
    let mut checks = vec![kernel::shared_memory(), kernel::huge_pages(), kernel::open_files()];
    match context.home() {
        Ok(home) => checks.extend([
            folders(&home),
            settings(context),
            background(&home),
            python_runtime(&home),
            sandbox::zygotes(home.cache_dir()),
        ]),
        Err(failure) => checks.push(Check::off("home", State::Failed, told(failure), "set `FOREBAY_HOME` to a folder")),
    }
    if let Ok(settings) = context.settings() {
        checks.push(lake(&settings.lake));
    }
    checks.extend([uv(), interpreters()]);
    checks.extend(sandbox::checks());
    if context.out.is_json() {
        context.out.object(json!({ "checks": checks.iter().map(object).collect::<Vec<_>>() }))?;
    } else {
        let style = context.out.data_style;
        context.out.data(&checks.iter().map(|check| line(style, check)).collect::<Vec<_>>().join("\n"))?;
    }
    let worst = checks.iter().map(|check| check.state).max();
    Ok(if worst == Some(State::Failed) { Exit::Platform } else { Exit::Done })
}

fn object(check: &Check) -> Value {
    json!({ "name": check.name, "status": check.state.as_str(), "found": check.found, "fix": check.fix })
}

fn line(style: Style, check: &Check) -> String {
    let found = check.found.replace('\n', &format!("\n{:29}", ""));
    let mut line = format!("{}  {:18}  {}", style.status(&format!("{:7}", check.state.as_str())), check.name, found);
    if let Some(fix) = &check.fix {
        let word = if check.state == State::Ok { "tip" } else { "fix" };
        line.push_str(&format!("\n{:29}{word}: {fix}", ""));
    }
    line
}

fn told(failure: Failure) -> String {
    match failure {
        Failure::Error(error) => {
            error.causes.first().map_or_else(|| error.message.clone(), |cause| format!("{}: {cause}", error.message))
        }
        Failure::StdoutClosed => "stdout is closed".to_owned(),
    }
}

fn folders(home: &Home) -> Check {
    let shown = home.root().unwrap_or_else(|| home.state_dir()).display().to_string();
    let fix = format!("make {shown} a folder you may write to, or set `FOREBAY_HOME`");
    if let Err(error) = home.prepare() {
        return Check::off("home", State::Failed, told(error.into()), fix);
    }
    match can_write(home.state_dir()).and_then(|()| can_write(home.cache_dir())) {
        Ok(()) => Check::ok("home", shown),
        Err(why) => Check::off("home", State::Failed, why, fix),
    }
}

fn settings(context: &Context) -> Check {
    match context.settings() {
        Ok(settings) => Check::ok("settings", format!("profile `{}`, branch `{}`", settings.profile, settings.active_branch)),
        Err(failure) => Check::off("settings", State::Failed, told(failure), "see `forebay config get --all`"),
    }
}

fn background(home: &Home) -> Check {
    match super::daemon::ask(home) {
        Ok(daemon) => Check::ok("background process", super::info::state(daemon.as_ref())),
        Err(failure) => Check::off("background process", State::Warning, told(failure), "stop it with `forebay daemon stop`"),
    }
}

fn lake(uri: &str) -> Check {
    // Whether a bucket can be reached is told by the first command that uses it.
    let Some(path) = uri.strip_prefix("file://") else { return Check::ok("lake", uri) };
    // A lake that is not there is made by the first command: what counts is the folder it would be made in.
    let Some(there) = Path::new(path).ancestors().find(|path| path.exists()) else {
        return Check::off("lake", State::Failed, format!("{path} cannot be reached"), "set `FOREBAY_LAKE` to another path");
    };
    match can_write(there) {
        Ok(()) if there == Path::new(path) => Check::ok("lake", uri),
        Ok(()) => Check::ok("lake", format!("{uri} (not made yet)")),
        Err(why) => Check::off("lake", State::Failed, why, "make it writable, or set `FOREBAY_LAKE` to another path"),
    }
}

fn can_write(folder: &Path) -> Result<(), String> {
    let why = |error: &dyn std::fmt::Display| format!("{} cannot be written to: {error}", folder.display());
    if !folder.is_dir() {
        return Err(why(&"it is not a folder"));
    }
    rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| why(&error))
}

fn uv() -> Check {
    let fix = "install it with `pip install uv`, or set `FOREBAY_UV` to the program";
    let uv = match forebay_envs::find_uv(None) {
        Ok(uv) => uv,
        Err(error) => return Check::off("uv", State::Failed, error.to_string(), fix),
    };
    match output(&uv, &["--version"]) {
        Ok(version) => Check::ok("uv", format!("{} ({})", version.trim(), uv.display())),
        Err(why) => Check::off("uv", State::Failed, format!("{} does not run: {why}", uv.display()), fix),
    }
}

/// What runs would take, of each minor version.
fn interpreters() -> Check {
    let found = forebay_envs::installed(&[]);
    if found.is_empty() {
        let fix = "install Python 3.11 or newer, or let `uv python install 3.11` do it";
        return Check::off("Python", State::Warning, "no interpreter found", fix);
    }
    let shown = found.iter().map(|interpreter| format!("{} ({})", interpreter.version, interpreter.path.display()));
    Check::ok("Python", shown.collect::<Vec<_>>().join("\n"))
}

fn output(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let command = Command::new(program).args(arguments).env("UV_OFFLINE", "1").stdin(Stdio::null()).output();
    let output = command.map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or("it failed without a word").to_owned())
}

/// The package `forebay` that functions import, from the copy in the cache that a run makes as well.
fn python_runtime(home: &Home) -> Check {
    match PythonRuntime::new(home.cache_dir()).folder() {
        Ok(folder) => Check::ok("Python runtime", folder.display().to_string()),
        Err(failure) => {
            let report = failure.report();
            let fix = report.hint.clone().unwrap_or_default();
            Check::off("Python runtime", State::Failed, told(report.into()), fix)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_read_in_lines() {
        let off = Check::off("uv", State::Failed, "not found", "install it");
        assert_eq!(
            line(Style::PLAIN, &off),
            "failed   uv                  not found\n                             fix: install it"
        );
        assert!(
            line(Style::PLAIN, &Check::tip("huge pages", "off", "try it"))
                .ends_with("\n                             tip: try it")
        );
        assert_eq!(object(&Check::ok("lake", "x")), json!({"name": "lake", "status": "ok", "found": "x", "fix": null}));
    }

    #[test]
    fn lakes_are_looked_at_but_not_made() {
        let root = tempfile::tempdir().unwrap();
        let uri = format!("file://{}/a/b", root.path().display());
        assert_eq!(lake(&uri), Check::ok("lake", format!("{uri} (not made yet)")));
        assert!(!root.path().join("a").exists());
        std::fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(lake(&format!("file://{}/file/lake", root.path().display())).state, State::Failed);
        assert_eq!(lake("s3://bucket").state, State::Ok);
    }
}
