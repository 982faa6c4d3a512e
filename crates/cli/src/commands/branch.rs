//! `branch …` and `checkout`.

use forebay_control::api::{CommitWords, Op, Ref};
use forebay_control::config::Config;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{moved, removed, table};
use crate::args::{BranchCommand, CheckoutArgs};
use crate::context::{Context, Session};
use crate::error::Result;
use crate::render::table::columns;
use crate::render::text::short_hash;

pub fn run(context: &Context, command: BranchCommand) -> Result<()> {
    if let BranchCommand::Checkout(args) = command {
        return checkout(context, args);
    }
    let mut session = context.session()?;
    match command {
        BranchCommand::Checkout(_) => unreachable!("handled above"),
        BranchCommand::Ls { pattern, name, limit } => list(context, &mut session, pattern.or(name), limit),
        BranchCommand::Create { name, from_ref, if_not_exists } => {
            let from = session.or_active(from_ref);
            let made: Ref = session.call(Op::BranchCreate { name: name.clone(), from, if_not_exists })?;
            moved(context, &format!("branch `{name}` is"), "branch", &made)
        }
        BranchCommand::Rm { name, if_exists } => remove(context, &mut session, name, if_exists),
        BranchCommand::Get { name, namespace } => get(context, &mut session, name, namespace),
        BranchCommand::Diff { a, b, namespace } => {
            let b = session.or_active(b);
            diff(context, &mut session, Op::BranchDiff { a, b, namespace })
        }
        BranchCommand::Merge { source, into, commit_message, words } => {
            let into = session.or_active(into);
            let properties = words.properties();
            let words = CommitWords { message: commit_message, body: words.commit_body, properties };
            let merged: Ref = session.call(Op::BranchMerge { source: source.clone(), into: into.clone(), words })?;
            moved(context, &format!("merged `{source}`: `{into}` is"), "branch", &merged)
        }
        BranchCommand::Rename { name, new_name } => rename(context, &mut session, name, new_name),
    }
}

fn list(context: &Context, session: &mut Session, name: Option<String>, limit: Option<u64>) -> Result<()> {
    let branches: Vec<Ref> = session.call(Op::BranchList { name, limit })?;
    if context.out.is_json() {
        return context.out.object(json!({ "branches": branches }));
    }
    let active = &session.settings.active_branch;
    let note = |branch: &Ref| match &branch.failed_job {
        Some(job) => format!("kept from failed job {job}"),
        None if branch.name == *active => "active".to_owned(),
        None => String::new(),
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

#[derive(Debug, Deserialize)]
struct Diff {
    added: Vec<String>,
    removed: Vec<String>,
    changed: Vec<String>,
}

fn diff(context: &Context, session: &mut Session, op: Op) -> Result<()> {
    let answer: Value = session.call(op)?;
    if context.out.is_json() {
        return context.out.object(answer);
    }
    let diff: Diff = serde_json::from_value(answer).map_err(|error| crate::error::Error::Answer { why: error.to_string() })?;
    let text = diff_lines(context.out.data_style, &diff);
    if text.is_empty() {
        context.out.talk("no table differs");
    }
    context.out.data(&text)
}

fn diff_lines(style: crate::render::style::Style, diff: &Diff) -> String {
    let lines = |mark: &str, names: &[String], paint: &dyn Fn(&str) -> String| -> Vec<String> {
        names.iter().map(|name| paint(&format!("{mark} {name}"))).collect()
    };
    let added = lines("+", &diff.added, &|line| style.good(line));
    let removed = lines("-", &diff.removed, &|line| style.bad(line));
    let changed = lines("~", &diff.changed, &|line| style.warn(line));
    [added, removed, changed].concat().join("\n")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::style::Style;

    #[test]
    fn diffs_read_like_diffs() {
        let diff = Diff { added: vec!["a.x".into()], removed: vec!["a.y".into()], changed: vec!["a.z".into()] };
        assert_eq!(diff_lines(Style::PLAIN, &diff), "+ a.x\n- a.y\n~ a.z");
    }
}
