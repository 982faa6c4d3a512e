//! The commands, one module per noun. A command asks, renders what came back, and says how it went.

mod branch;
mod commit;
mod config;
mod daemon;
mod doctor;
mod env;
mod explain;
mod info;
mod init;
mod job;
mod namespace;
mod parameter;
mod plan;
mod query;
mod run;
mod serve;
mod table;
mod table_plans;
mod tag;

use clap::CommandFactory;
use forebay_control::api::Ref;
use serde_json::json;

use crate::args::{Cli, Command};
use crate::context::Context;
use crate::error::Result;
use crate::exit::Exit;
use crate::render::text::short_hash;

/// Runs one command.
pub fn run(context: &Context, command: Command) -> Result<Exit> {
    match command {
        Command::Init(args) => init::run(context, &args),
        Command::Run(args) => return run::run(context, args),
        Command::Plan(args) => plan::run(context, args),
        Command::Query(args) => query::run(context, args),
        Command::Branch(command) => branch::run(context, command),
        Command::Tag(command) => tag::run(context, command),
        Command::Commit(args) => commit::run(context, args),
        Command::Revert(args) => commit::revert(context, args),
        Command::Checkout(args) => branch::checkout(context, args),
        Command::Namespace(command) => namespace::run(context, command),
        Command::Table(command) => table::run(context, command),
        Command::Serve(args) => serve::run(context, args),
        Command::Gc(args) => commit::collect(context, &args),
        Command::Parameter(command) => parameter::run(context, command),
        Command::Job(command) => job::run(context, command),
        Command::Explain { job } => explain::run(context, job),
        Command::Env(command) => env::run(context, command),
        Command::Config(command) => config::run(context, &command),
        Command::Info => info::run(context),
        Command::Doctor => return doctor::run(context),
        Command::Daemon(command) => daemon::run(context, command),
        Command::Completion { shell } => completion(context, shell),
        Command::Version => version(context),
    }?;
    Ok(Exit::Done)
}

fn completion(context: &Context, shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "forebay", &mut script);
    context.out.stream(|out| out.write_all(&script))
}

fn version(context: &Context) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    if context.out.is_json() {
        return context.out.object(json!({ "version": version, "protocol": forebay_control::api::VERSION }));
    }
    context.out.data(&format!("forebay {version}"))
}

/// Tells of a ref that was made or moved: `created branch `try-it` at 0123456789ab`.
fn moved(context: &Context, what: &str, field: &str, at: &Ref) -> Result<()> {
    context.out.talk(&format!("{what} at {}", short_hash(&at.hash)));
    if context.out.is_json() { context.out.object(json!({ field: at })) } else { Ok(()) }
}

/// Tells whether something was removed.
fn removed(context: &Context, what: &str, deleted: bool) -> Result<()> {
    context.out.talk(&if deleted { format!("removed {what}") } else { format!("there is no {what}") });
    if context.out.is_json() { context.out.object(json!({ "deleted": deleted })) } else { Ok(()) }
}
