//! `tag …`

use forebay_control::api::{Op, Ref};
use serde_json::json;

use super::branch::Deleted;
use super::{moved, removed};
use crate::args::TagCommand;
use crate::context::Context;
use crate::error::Result;
use crate::render::table::columns;
use crate::render::text::short_hash;

pub fn run(context: &Context, command: TagCommand) -> Result<()> {
    let mut session = context.session()?;
    match command {
        TagCommand::Ls { name, limit } => {
            let tags: Vec<Ref> = session.call(Op::TagList { name, limit })?;
            if context.out.is_json() {
                return context.out.object(json!({ "tags": tags }));
            }
            let rows: Vec<Vec<String>> =
                tags.iter().map(|tag| vec![tag.name.clone(), short_hash(&tag.hash).to_owned()]).collect();
            context.out.data(&columns(context.out.data_style, &["NAME", "HASH"], &[], &rows))
        }
        TagCommand::Get { name } => {
            let tag: Ref = session.call(Op::TagGet { name })?;
            if context.out.is_json() {
                return context.out.object(json!({ "tag": tag }));
            }
            context.out.data(&format!("{}  {}", tag.name, tag.hash))
        }
        TagCommand::Create { name, from_ref, if_not_exists } => {
            let from = session.or_active(from_ref);
            let tag: Ref = session.call(Op::TagCreate { name: name.clone(), from, if_not_exists })?;
            moved(context, &format!("tag `{name}` is"), "tag", &tag)
        }
        TagCommand::Rm { name, if_exists } => {
            let answer: Deleted = session.call(Op::TagDelete { name: name.clone(), if_exists })?;
            removed(context, &format!("tag `{name}`"), answer.deleted)
        }
        TagCommand::Rename { name, new_name } => {
            let tag: Ref = session.call(Op::TagRename { name: name.clone(), new_name: new_name.clone() })?;
            moved(context, &format!("tag `{name}` is now `{new_name}`,"), "tag", &tag)
        }
    }
}
