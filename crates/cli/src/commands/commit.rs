//! `commit`: the history of a ref. `revert`: undoing what is in it. `gc`: removing what is in none.

use forebay_control::api::{Commit, CommitWords, Garbage, Op, Ref};
use serde_json::json;

use super::moved;
use crate::args::{CommitArgs, GcArgs, RevertArgs};
use crate::context::Context;
use crate::error::Result;
use crate::render::commits;
use crate::render::text::{bytes, count, counted};

pub fn run(context: &Context, args: CommitArgs) -> Result<()> {
    let mut session = context.session()?;
    let op = Op::CommitList {
        at: session.or_active(args.at),
        message: args.message,
        author_name: args.author_name,
        author_email: args.author_email,
        properties: args.properties.into_iter().collect(),
        authored_date: None,
        since: args.since,
        until: args.until,
        parent: args.parent,
        limit: Some(args.max_count),
    };
    let found: Vec<Commit> = session.call(op)?;
    if context.out.is_json() {
        return context.out.object(json!({ "commits": found }));
    }
    let style = context.out.data_style;
    let lines: Vec<String> = found.iter().map(|commit| commits::commit(style, args.format, commit)).collect();
    context.out.data(lines.join("\n").trim_end())
}

/// Undoes a commit or a job on a branch.
pub fn revert(context: &Context, args: RevertArgs) -> Result<()> {
    let mut session = context.session()?;
    let branch = session.or_active(args.branch);
    let properties = args.words.properties();
    let words = CommitWords { message: args.commit_message, body: args.words.commit_body, properties };
    let what = args
        .job
        .as_ref()
        .map_or_else(|| format!("`{}`", args.at.as_deref().unwrap_or_default()), |job| format!("the job `{job}`"));
    let at: Ref = session.call(Op::CommitRevert { branch: branch.clone(), at: args.at, job: args.job, words })?;
    moved(context, &format!("reverted {what}: `{branch}` is"), "branch", &at)
}

/// Removes what no ref leads to.
pub fn collect(context: &Context, args: &GcArgs) -> Result<()> {
    let mut session = context.session()?;
    let found: Garbage = session.call(Op::Gc { grace_seconds: args.grace, dry_run: args.dry_run })?;
    let verb = if args.dry_run { "would remove" } else { "removed" };
    context.out.talk(&format!("{verb} {}, {} stay", counted(found.removed, "catalog object"), count(found.kept)));
    let size = bytes(found.table_bytes);
    context.out.talk(&format!(
        "{verb} {} ({size}), {} stay",
        counted(found.table_files, "table file"),
        count(found.table_files_kept)
    ));
    if context.out.is_json() { context.out.object(json!(found)) } else { Ok(()) }
}
