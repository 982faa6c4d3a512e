//! `daemon …`: the background process, which other commands start when they need it.

use std::io::BufRead;

use forebay_control::api::{Daemon, Op, Zygote};
use forebay_control::client;
use forebay_control::home::Home;
use forebay_control::server;
use serde_json::{Value, json};

use super::info::state;
use crate::args::DaemonCommand;
use crate::context::{Context, Session};
use crate::error::{Error, Result};

pub fn run(context: &Context, command: DaemonCommand) -> Result<()> {
    match command {
        DaemonCommand::Start => start(context),
        DaemonCommand::Serve => Ok(server::serve(&context.home()?)?),
        DaemonCommand::Stop => stop(context),
        DaemonCommand::Status => status(context),
        DaemonCommand::Logs => logs(context),
    }
}

/// What the background process says of itself, if it runs.
pub fn ask(home: &Home) -> Result<Option<Daemon>> {
    Ok(client::running(home)?.map(|(_, daemon)| daemon))
}

/// The SDK starts here: it needs the socket, and what a request carries.
fn start(context: &Context) -> Result<()> {
    let mut session = context.session()?;
    let daemon: Daemon = session.call(Op::Ping)?;
    context.out.talk(&state(Some(&daemon)));
    if !context.out.is_json() {
        return Ok(());
    }
    let Session { settings, .. } = &session;
    context.out.object(json!({
        "socket": context.home()?.socket(),
        "lake": settings.lake,
        "active_branch": settings.active_branch,
        "author": settings.author,
        "version": daemon.version,
        "profile": settings.profile,
    }))
}

fn stop(context: &Context) -> Result<()> {
    let was_running = client::stop(&context.home()?)?;
    context.out.talk(if was_running { "stopped the background process" } else { "the background process is not running" });
    if context.out.is_json() { context.out.object(json!({ "stopped": was_running })) } else { Ok(()) }
}

fn status(context: &Context) -> Result<()> {
    let daemon = ask(&context.home()?)?;
    if !context.out.is_json() {
        let zygotes = daemon.iter().flat_map(|daemon| &daemon.zygotes).map(|zygote| format!("\n{}", told(zygote)));
        return context.out.data(&format!("{}{}", state(daemon.as_ref()), zygotes.collect::<String>()));
    }
    let mut object = serde_json::to_value(&daemon).map_err(|error| Error::Answer { why: error.to_string() })?;
    if object.is_null() {
        object = json!({});
    }
    object["running"] = Value::Bool(daemon.is_some());
    context.out.object(object)
}

/// A warm interpreter in one line.
fn told(zygote: &Zygote) -> String {
    let environment: String = zygote.environment.chars().take(12).collect();
    let modules = if zygote.modules.is_empty() { "nothing".to_owned() } else { zygote.modules.join(", ") };
    let state = match zygote.state.as_str() {
        "ready" => {
            format!("{} MiB, {} waiting, {} forked", zygote.bytes >> 20, zygote.waiting, zygote.forks)
        }
        other => other.to_owned(),
    };
    format!("warm interpreter of environment {environment} with {modules}: {state}")
}

fn logs(context: &Context) -> Result<()> {
    let path = context.home()?.log_file();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            context.out.talk(&format!("there is no log at {}", path.display()));
            return Ok(());
        }
        Err(error) => return Err(Error::file("read", path, &error).into()),
    };
    let is_json = context.out.is_json();
    let lines = std::io::BufReader::new(file).split(b'\n');
    context.out.stream(|out| {
        for line in lines {
            let line = line?;
            if is_json {
                writeln!(out, "{}", json!({ "line": String::from_utf8_lossy(&line) }))?;
            } else {
                out.write_all(&line)?;
                out.write_all(b"\n")?;
            }
        }
        Ok(())
    })
}
