//! `env`: the environments of Python functions. They are made by this process as a run's are by the background process; file
//! locks keep the two apart.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use forebay_control::api;
use forebay_envs::{
    Collected, Confinement, Environment, EnvironmentRequest, Environments, LOCK_FILE, Listed, Lock, Options, ProjectLock, Watch,
};
use forebay_plan::logical::Work;
use forebay_plan::{Parameter, ParameterKind};
use forebay_runtime::{Builds, Launcher, Sandbox};
use serde_json::{Value, json};

use crate::args::EnvCommand;
use crate::context::Context;
use crate::error::{Error, Failure, Result};
use crate::render::table::{columns, pairs};
use crate::render::text::{bytes, count, cut, duration, short_hash};

/// Characters of a list of packages in a list of environments.
const PACKAGES_CHARACTERS_MAX: usize = 60;

pub fn run(context: &Context, command: EnvCommand) -> Result<()> {
    match command {
        EnvCommand::Ls => list(context),
        EnvCommand::Show { hash, lock } => show(context, &hash, lock),
        EnvCommand::Build(args) => build(context, &args.project.project_dir, args.offline),
        EnvCommand::Lock { project, check: true, .. } => check(context, &project.project.project_dir),
        EnvCommand::Lock { project, upgrade, .. } => lock(context, &project.project.project_dir, project.offline, upgrade),
        EnvCommand::Gc { max_size, dry_run } => collect(context, max_size, dry_run),
    }
}

fn open(context: &Context, offline: bool, bytes_max: Option<u64>) -> Result<Environments> {
    forebay_control::settings::check()?;
    let home = context.home()?;
    home.prepare()?;
    let sandbox = Sandbox::new(Launcher::new(Path::new(forebay_runtime::OWN_PROGRAM)));
    let confinement: Option<Arc<dyn Confinement>> = Some(Arc::new(Builds::new(Arc::new(sandbox))));
    let options = Options { cache_dir: home.cache_dir().to_owned(), offline, bytes_max, confinement, ..Options::default() };
    Environments::open(options).map_err(failed)
}

fn failed(error: forebay_envs::Error) -> Failure {
    api::Error::of(&error).into()
}

/// Says on stderr how it goes.
struct Talk<'a> {
    context: &'a Context,
    label: String,
}

impl Watch for Talk<'_> {
    fn progress(&self, text: &str) {
        self.context.out.talk(&format!("{}: {text}", self.label));
    }
}

fn list(context: &Context) -> Result<()> {
    let listed = open(context, true, None)?.list().map_err(failed)?;
    if context.out.is_json() {
        let environments: Vec<Value> = listed.iter().map(object).collect();
        return context.out.object(json!({ "environments": environments }));
    }
    let row = |one: &Listed| {
        vec![
            short_hash(&one.hash).to_owned(),
            one.version.clone(),
            cut(&one.requirements.join(", "), PACKAGES_CHARACTERS_MAX),
            bytes(one.bytes),
            if one.in_use { "now".to_owned() } else { one.last_used.map(ago).unwrap_or_default() },
        ]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    context.out.data(&columns(context.out.data_style, &["HASH", "PYTHON", "PACKAGES", "SIZE", "USED"], &["SIZE"], &rows))
}

fn ago(time: SystemTime) -> String {
    format!("{} ago", duration(time.elapsed().map_or(0.0, |elapsed| elapsed.as_secs_f64())))
}

fn object(one: &Listed) -> Value {
    let packages: Vec<Value> =
        one.packages.iter().map(|(name, version, bytes)| json!({ "name": name, "version": version, "bytes": bytes })).collect();
    let clashes: Vec<Value> =
        one.clashes.iter().map(|(path, taken, left)| json!({ "path": path, "taken_from": taken, "also_in": left })).collect();
    let last_used = one.last_used.map(|time| DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true));
    json!({
        "hash": one.hash,
        "python": one.version,
        "interpreter": one.interpreter,
        "requirements": one.requirements,
        "packages": packages,
        "clashes": clashes,
        "bytes": one.bytes,
        "last_used": last_used,
        "in_use": one.in_use,
        "folder": one.folder,
    })
}

fn show(context: &Context, hash: &str, lock: bool) -> Result<()> {
    let mut found = open(context, true, None)?.list().map_err(failed)?;
    found.retain(|one| !hash.is_empty() && one.hash.starts_with(hash));
    let [one] = found.as_slice() else {
        let matches = found.iter().take(5).map(|one| short_hash(&one.hash).to_owned()).collect();
        return Err(failed(forebay_envs::Error::NotFound { hash: hash.to_owned(), matches }));
    };
    if context.out.is_json() {
        let mut fields = object(one);
        fields["lock"] = json!(one.lock);
        return context.out.object(fields);
    }
    if lock {
        return context.out.data(&one.lock);
    }
    let style = context.out.data_style;
    let facts = [
        ("environment", one.hash.clone()),
        ("python", format!("{} ({})", one.version, one.interpreter.display())),
        ("asked for", one.requirements.join(", ")),
        ("size", bytes(one.bytes)),
        ("used", if one.in_use { "now".to_owned() } else { one.last_used.map(ago).unwrap_or_default() }),
        ("folder", one.folder.display().to_string()),
    ];
    let row = |(name, version, size): &(String, String, u64)| vec![name.clone(), version.clone(), bytes(*size)];
    let rows: Vec<Vec<String>> = one.packages.iter().map(row).collect();
    let mut text = format!("{}\n\n{}", pairs(style, &facts), columns(style, &["PACKAGE", "VERSION", "SIZE"], &["SIZE"], &rows));
    if !one.clashes.is_empty() {
        let rows: Vec<Vec<String>> =
            one.clashes.iter().map(|(path, taken, left)| vec![path.clone(), taken.clone(), left.clone()]).collect();
        text = format!("{text}\n\n{}", columns(style, &["PATH IN TWO PACKAGES", "TAKEN FROM", "ALSO IN"], &[], &rows));
    }
    context.out.data(&text)
}

/// The distinct environments of a project's Python models.
fn requests(folder: &Path) -> Result<Vec<EnvironmentRequest>> {
    let sources = forebay_control::project::read_sources(folder)?;
    let reports = |reports| Failure::from(api::Error::all(reports));
    let project = forebay_plan::project(&sources).map_err(reports)?;
    // Values make no difference to packages: a number is one for every type.
    let is_asked = |parameter: &&Parameter| parameter.default.is_none() && parameter.kind != ParameterKind::Secret;
    let wanted = project.parameters.iter().filter(is_asked);
    let parameters = wanted.map(|parameter| (parameter.name.clone(), "0".to_owned())).collect();
    let options = forebay_plan::Options { parameters, ..forebay_plan::Options::default() };
    let plan = forebay_plan::logical(&sources, &options).map_err(reports)?;
    let specs = plan
        .nodes
        .iter()
        .filter_map(|node| if let Work::Python(function) = &node.work { Some(&function.environment) } else { None });
    let requests: BTreeSet<EnvironmentRequest> = specs
        .map(|spec| EnvironmentRequest {
            python: spec.python.clone(),
            packages: spec.packages.clone(),
            needs: spec.needs.clone(),
        })
        .collect();
    Ok(requests.into_iter().collect())
}

fn label(request: &EnvironmentRequest) -> String {
    let packages: Vec<String> =
        request.packages.iter().map(|(name, version)| format!("{name} {version}").trim().to_owned()).collect();
    if packages.is_empty() {
        format!("Python {}", request.python)
    } else {
        format!("Python {} with {}", request.python, packages.join(", "))
    }
}

fn build(context: &Context, folder: &Path, offline: bool) -> Result<()> {
    let environments = open(context, offline, None)?;
    let requests = requests(folder)?;
    let project_lock = ProjectLock::load(folder).map_err(failed)?;
    let mut built: Vec<Environment> = Vec::new();
    for request in &requests {
        let talk = Talk { context, label: label(request) };
        let pinned = project_lock.as_ref().map(|lock| lock.find(request)).transpose().map_err(failed)?.flatten();
        if project_lock.is_some() && pinned.is_none() {
            talk.progress(&format!("`{LOCK_FILE}` is stale: it says nothing about this; write it anew with `forebay env lock`"));
        }
        built.push(environments.prepare_fully(request, pinned.as_ref(), &talk).map_err(failed)?);
    }
    if context.out.is_json() {
        let objects: Vec<Value> =
            built.iter().map(|one| json!({ "hash": one.hash, "python": one.version, "folder": one.folder })).collect();
        return context.out.object(json!({ "environments": objects }));
    }
    let row = |(request, one): (&EnvironmentRequest, &Environment)| {
        vec![short_hash(&one.hash).to_owned(), one.version.clone(), label(request)]
    };
    let rows: Vec<Vec<String>> = requests.iter().zip(&built).map(row).collect();
    context.out.data(&columns(context.out.data_style, &["HASH", "PYTHON", "FOR"], &[], &rows))
}

fn lock(context: &Context, folder: &Path, offline: bool, upgrade: bool) -> Result<()> {
    let environments = open(context, offline, None)?;
    let requests = requests(folder)?;
    let path = folder.join(LOCK_FILE);
    // One that cannot be read is written anew.
    let old = ProjectLock::load(folder).ok().flatten().unwrap_or_default();
    let mut new = ProjectLock::default();
    for request in &requests {
        let talk = Talk { context, label: label(request) };
        let preferences = if upgrade { String::new() } else { old.preferences(&request.python) };
        let resolved: Lock = environments.resolve(request, &preferences, &talk).map_err(failed)?;
        new.insert(request, &resolved).map_err(failed)?;
    }
    let changed = new != old || !path.exists();
    if changed {
        let part = folder.join(format!("{LOCK_FILE}.{}.part", std::process::id()));
        let write = || std::fs::write(&part, new.render()).and_then(|()| std::fs::rename(&part, &path));
        write().map_err(|error| Error::file("write", &path, &error))?;
    }
    let count = requests.len();
    let what = if count == 1 { "1 environment".to_owned() } else { format!("{count} environments") };
    context.out.talk(&format!("{}: {what} in `{}`", if changed { "locked" } else { "nothing changed" }, path.display()));
    if context.out.is_json() {
        context.out.object(json!({ "file": path, "environments": count, "changed": changed }))
    } else {
        Ok(())
    }
}

fn check(context: &Context, folder: &Path) -> Result<()> {
    let requests = requests(folder)?;
    let project_lock = ProjectLock::load(folder).map_err(failed)?;
    let mut why = Vec::new();
    match &project_lock {
        None => why.push(format!("there is no `{LOCK_FILE}`")),
        Some(project_lock) => {
            for request in &requests {
                if project_lock.find(request).map_err(failed)?.is_none() {
                    why.push(format!("it says nothing about {}", label(request)));
                }
            }
        }
    }
    if !why.is_empty() {
        return Err(failed(forebay_envs::Error::Stale { why }));
    }
    context.out.talk(&format!("`{LOCK_FILE}` is up to date"));
    if context.out.is_json() { context.out.object(json!({ "environments": requests.len(), "changed": false })) } else { Ok(()) }
}

fn collect(context: &Context, bytes_max: Option<u64>, dry_run: bool) -> Result<()> {
    let environments = open(context, true, bytes_max)?;
    let done = environments.collect(dry_run).map_err(failed)?;
    context.out.talk(&told(&done, environments.bytes_max(), dry_run));
    if !context.out.is_json() {
        return Ok(());
    }
    let packages: Vec<Value> = done.packages.iter().map(|(name, version)| json!({ "name": name, "version": version })).collect();
    context.out.object(json!({
        "environments": done.environments,
        "packages": packages,
        "freed_bytes": done.freed_bytes,
        "left_bytes": done.left_bytes,
        "max_bytes": environments.bytes_max(),
        "in_use": done.in_use,
        "busy": done.busy,
        "dry_run": dry_run,
    }))
}

fn told(done: &Collected, bytes_max: u64, dry_run: bool) -> String {
    let verb = if dry_run { "would remove" } else { "removed" };
    let number = |items: usize| count(items as u64);
    let mut text = format!(
        "{verb} {} environments and {} packages, {}; {} of {} left",
        number(done.environments.len()),
        number(done.packages.len()),
        bytes(done.freed_bytes),
        bytes(done.left_bytes),
        bytes(bytes_max)
    );
    if done.in_use > 0 {
        text.push_str(&format!("; {} in use", number(done.in_use)));
    }
    if done.busy {
        text.push_str("; packages stayed, because something is being made now");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_removed_is_told() {
        let done =
            Collected { environments: vec!["a".into()], freed_bytes: 1500, left_bytes: 10, in_use: 1, ..Collected::default() };
        assert_eq!(told(&done, 2000, false), "removed 1 environments and 0 packages, 1.50 kB; 10 B of 2.00 kB left; 1 in use");
        let busy = Collected { busy: true, ..Collected::default() };
        assert!(told(&busy, 0, true).starts_with("would remove 0 ") && told(&busy, 0, true).ends_with("being made now"));
    }
}
