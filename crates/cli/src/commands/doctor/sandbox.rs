//! How functions are confined here: every layer is tried, with a function that does nothing.

use std::path::Path;

use forebay_runtime::{Launcher, Sandbox};

use super::{Check, State};

/// The sandbox, and the limits of whole functions.
pub fn checks() -> Vec<Check> {
    let sandbox = Sandbox::new(Launcher::new(Path::new(forebay_runtime::OWN_PROGRAM)));
    let limits = match sandbox.groups() {
        Ok(groups) => Check::ok("limits", groups.describe()),
        Err(why) => Check::off(
            "limits",
            State::Warning,
            format!("memory limits hold for each process, not for a function as a whole: {why}"),
            Sandbox::GROUPS_REMEDY,
        ),
    };
    vec![layers(&sandbox), limits]
}

/// What was learned about modules that warm interpreters must do without.
pub fn zygotes(cache_dir: &Path) -> Check {
    let denied = forebay_runtime::denied(cache_dir);
    if denied.is_empty() {
        return Check::ok("warm starts", "functions are forked from interpreters that have imported what they need");
    }
    let told = denied.iter().map(|(environment, module, why)| {
        let environment: String = environment.chars().take(12).collect();
        match module.as_str() {
            "*" => format!("environment {environment}: every function is started afresh: {why}"),
            module => format!("environment {environment}: `{module}` is imported by each function: {why}"),
        }
    });
    let file = cache_dir.join("zygotes/denied.json");
    let tip = format!("nothing needs to be done; to have it tried again, remove `{}`", file.display());
    Check::tip("warm starts", told.collect::<Vec<_>>().join("\n"), tip)
}

fn layers(sandbox: &Sandbox) -> Check {
    let host = match sandbox.host() {
        Ok(host) => host,
        Err(error) => {
            return Check::off("sandbox", State::Failed, format!("could not be tried: {error}"), "free memory and process ids");
        }
    };
    if host.lost.is_empty() {
        let version = host.landlock;
        return Check::ok(
            "sandbox",
            format!("every function gets files, processes, network and a user of its own (landlock {version}, seccomp)"),
        );
    }
    let lost: Vec<String> = host.lost.iter().map(|(feature, why)| format!("no {feature}: {why}")).collect();
    let mut remedies: Vec<&str> =
        host.lost.iter().filter(|(_, why)| !why.starts_with("it needs ")).map(|(feature, _)| feature.remedy()).collect();
    remedies.dedup();
    Check::off("sandbox", State::Warning, lost.join("\n"), remedies.join("; "))
}
