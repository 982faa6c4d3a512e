//! `branch …` and `checkout`.

use forebay_control::api::{CommitWords, Diff, Op, Ref};
use forebay_control::config::Config;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{moved, removed, table};
use crate::args::{BranchCommand, CheckoutArgs};
use crate::context::{Context, Session};
use crate::error::Result;
use crate::render;
use crate::render::table::columns;
use crate::render::text::short_hash;

pub fn run(context: &Context, command: BranchCommand) -> Result<()> {
    if let BranchCommand::Checkout(args) = command {
        return checkout(context, args);
    }
    let mut session = context.session()?;
    match command {
        BranchCommand::Checkout(_) => unreachable!("handled above"),
        BranchCommand::Ls { pattern, name, user, all_zones: _, limit } => {
            let user = user.map(|user| if user == "~" { session.settings.author.name.clone() } else { user });
            list(context, &mut session, Op::BranchList { name: pattern.or(name), user, limit })
        }
        BranchCommand::Create { name, from_ref, if_not_exists } => {
            let from = session.or_active(from_ref);
            let made: Ref = session.call(Op::BranchCreate { name: name.clone(), from, if_not_exists })?;
            moved(context, &format!("branch `{name}` is"), "branch", &made)
        }
        BranchCommand::Rm { name, if_exists } => remove(context, &mut session, name, if_exists),
        BranchCommand::Get { name, namespace } => get(context, &mut session, name, namespace),
        BranchCommand::Diff { a, b, namespace, name_only } => {
            let b = session.or_active(b);
            diff(context, &mut session, Op::BranchDiff { a, b, namespace, names_only: name_only })
        }
        BranchCommand::Protect { name } => protect(context, &mut session, name, true),
        BranchCommand::Unprotect { name } => protect(context, &mut session, name, false),
        BranchCommand::Merge { source, into, commit_message, no_fast_forward, words } => {
            let into = session.or_active(into);
            let properties = words.properties();
            let words = CommitWords { message: commit_message, body: words.commit_body, properties };
            let op = Op::BranchMerge { source: source.clone(), into: into.clone(), always_commit: no_fast_forward, words };
            let merged: Ref = session.call(op)?;
            moved(context, &format!("merged `{source}`: `{into}` is"), "branch", &merged)
        }
        BranchCommand::Rename { name, new_name } => rename(context, &mut session, name, new_name),
    }
}

fn protect(context: &Context, session: &mut Session, name: String, protected: bool) -> Result<()> {
    let branch: Ref = session.call(Op::BranchProtect { name: name.clone(), protected })?;
    let now = if protected { "is protected," } else { "is not protected any more," };
    moved(context, &format!("branch `{name}` {now}"), "branch", &branch)
}

fn list(context: &Context, session: &mut Session, op: Op) -> Result<()> {
    let branches: Vec<Ref> = session.call(op)?;
    if context.out.is_json() {
        return context.out.object(json!({ "branches": branches }));
    }
    let active = &session.settings.active_branch;
    let note = |branch: &Ref| {
        let active = (branch.name == *active).then(|| "active".to_owned());
        let protected = branch.protected.then(|| "protected".to_owned());
        let failed = branch.failed_job.as_ref().map(|job| format!("kept from failed job {job}"));
        active.into_iter().chain(protected).chain(failed).collect::<Vec<_>>().join(", ")
    };
    let rows: Vec<Vec<String>> =
        branches.iter().map(|branch| vec![branch.name.clone(), short_hash(&branch.hash).to_owned(), note(branch)]).collect();
    context.out.data(&columns(context.out.data_style, &["NAME", "HASH", "NOTE"], &[], &rows))
}

fn remove(context: &Context, session: &mut Session, name: String, if_exists: bool) -> Result<()> {
    // Its commits stay in the lake: with the hash at hand the branch can be made again.
    let before: Option<Ref> = session.call(Op::BranchGet { name: name.clone() }).ok();
    let answer: Deleted = session.call(Op::BranchDelete { name: name.clone(), if_exists })?;
    removed(context, &format!("branch `{name}`"), answer.deleted)?;
    if let Some(before) = before.filter(|_| answer.deleted) {
        let hash = short_hash(&before.hash);
        context.out.talk(&format!("make it again with `forebay branch create {name} --from-ref @{hash}`"));
    }
    Ok(())
}

fn rename(context: &Context, session: &mut Session, name: String, new_name: String) -> Result<()> {
    let renamed: Ref = session.call(Op::BranchRename { name: name.clone(), new_name: new_name.clone() })?;
    if session.settings.active_branch == name {
        activate(context, &new_name)?;
    }
    moved(context, &format!("branch `{name}` is now `{new_name}`,"), "branch", &renamed)
}

/// `{"deleted": bool}`
#[derive(Debug, Deserialize)]
pub struct Deleted {
    pub deleted: bool,
}

fn get(context: &Context, session: &mut Session, name: String, namespace: Option<String>) -> Result<()> {
    let branch: Ref = session.call(Op::BranchGet { name: name.clone() })?;
    // By hash, so that the list and the hash above it are of one moment.
    let at = format!("{name}@{}", branch.hash);
    let tables: Vec<table::Listed> = session.call(Op::TableList { at, namespace, name: None, limit: None })?;
    if context.out.is_json() {
        return context.out.object(json!({ "branch": branch, "tables": tables }));
    }
    context.out.talk(&format!("`{name}` is at {}", short_hash(&branch.hash)));
    table::print(context, &tables)
}

fn diff(context: &Context, session: &mut Session, op: Op) -> Result<()> {
    let answer: Value = session.call(op)?;
    if context.out.is_json() {
        return context.out.object(answer);
    }
    let diff: Diff = serde_json::from_value(answer).map_err(|error| crate::error::Error::Answer { why: error.to_string() })?;
    let text = render::diff::lines(context.out.data_style, &diff).join("\n");
    if text.is_empty() {
        context.out.talk("nothing differs");
    }
    context.out.data(&text)
}

/// Makes a branch the active one of the profile, after a look that it exists.
pub fn checkout(context: &Context, args: CheckoutArgs) -> Result<()> {
    let mut session = context.session()?;
    let name = args.branch;
    let branch: Ref = if args.create {
        let from = session.or_active(args.from_ref);
        session.call(Op::BranchCreate { name: name.clone(), from, if_not_exists: false })?
    } else {
        session.call(Op::BranchGet { name: name.clone() })?
    };
    activate(context, &name)?;
    moved(context, &format!("`{name}` is active,"), "branch", &branch)
}

fn activate(context: &Context, name: &str) -> Result<()> {
    let mut config = Config::load(&context.home()?)?;
    config.set(&context.profile(), "active_branch", name)?;
    Ok(config.save()?)
}
