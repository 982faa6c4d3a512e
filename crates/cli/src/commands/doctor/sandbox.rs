//! How functions are confined here: every layer is tried, with a function that does nothing.

use std::path::Path;

use forebay_runtime::{Launcher, Sandbox};

use super::{Check, State};

/// The sandbox, and the limits of whole functions.
pub fn checks() -> Vec<Check> {
    let sandbox = Sandbox::new(Launcher::new(Path::new("/proc/self/exe")));
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
