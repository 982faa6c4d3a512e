//! `commit`: the history of a ref.

use forebay_control::api::{Commit, Op};
use serde_json::json;

use crate::args::CommitArgs;
use crate::context::Context;
use crate::error::Result;
use crate::render::commits;

pub fn run(context: &Context, args: CommitArgs) -> Result<()> {
    let mut session = context.session()?;
    let op = Op::CommitList {
        at: session.or_active(args.at),
        message: args.message,
        author_name: args.author_name,
        author_email: args.author_email,
        properties: args.properties.into_iter().collect(),
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
