//! `info`: what is in use right now.

use forebay_control::api::Daemon;
use serde_json::json;

use crate::context::Context;
use crate::error::Result;
use crate::render::commits::actor;
use crate::render::table::pairs;
use crate::render::text::counted;

pub fn run(context: &Context) -> Result<()> {
    let home = context.home()?;
    let settings = context.settings()?;
    let daemon = super::daemon::ask(&home)?;
    let version = env!("CARGO_PKG_VERSION");
    let root = home.root().map(|root| root.display().to_string());
    if context.out.is_json() {
        return context.out.object(json!({
            "version": version,
            "home": root,
            "config": home.config_file(),
            "cache": home.cache_dir(),
            "state": home.state_dir(),
            "socket": home.socket(),
            "profile": settings.profile,
            "lake": settings.lake,
            "active_branch": settings.active_branch,
            "author": settings.author,
            "daemon": daemon,
        }));
    }
    let facts = [
        ("version", version.to_owned()),
        ("profile", settings.profile),
        ("lake", settings.lake),
        ("active branch", settings.active_branch),
        ("author", actor(&settings.author)),
        ("home", root.unwrap_or_else(|| "XDG folders (`FOREBAY_HOME` is not set)".to_owned())),
        ("settings", home.config_file().display().to_string()),
        ("cache", home.cache_dir().display().to_string()),
        ("state", home.state_dir().display().to_string()),
        ("background process", state(daemon.as_ref())),
    ];
    context.out.data(&pairs(context.out.data_style, &facts))
}

/// The background process in a few words.
pub fn state(daemon: Option<&Daemon>) -> String {
    match daemon {
        None => "not running; commands start it when they need it".to_owned(),
        Some(daemon) => format!("running, process {}, {} at work", daemon.pid, counted(daemon.running_jobs, "job")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_background_process_in_words() {
        assert_eq!(state(None), "not running; commands start it when they need it");
        let daemon = Daemon {
            version: "1".into(),
            protocol: 1,
            pid: 42,
            home: "/h".into(),
            started_at: "then".into(),
            running_jobs: 1,
            zygotes: vec![],
        };
        assert_eq!(state(Some(&daemon)), "running, process 42, 1 job at work");
    }
}
