//! `namespace …`

use forebay_control::api::{CommitWords, Op, Ref};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::moved;
use crate::args::{NamespaceCommand, Words};
use crate::context::Context;
use crate::error::Result;
use crate::render::table::columns;

#[derive(Debug, Serialize, Deserialize)]
struct Namespace {
    name: String,
}

pub fn run(context: &Context, command: NamespaceCommand) -> Result<()> {
    let mut session = context.session()?;
    match command {
        NamespaceCommand::Ls { name, at, limit } => {
            let at = session.or_active(at);
            let found: Vec<Namespace> = session.call(Op::NamespaceList { at, name, limit })?;
            if context.out.is_json() {
                return context.out.object(json!({ "namespaces": found }));
            }
            let rows: Vec<Vec<String>> = found.into_iter().map(|namespace| vec![namespace.name]).collect();
            context.out.data(&columns(context.out.data_style, &["NAME"], &[], &rows))
        }
        NamespaceCommand::Create { name, branch, if_not_exists, words } => {
            let branch = session.or_active(branch);
            let op = Op::NamespaceCreate { name: name.clone(), branch: branch.clone(), if_not_exists, words: words.into() };
            let at: Ref = session.call(op)?;
            moved(context, &format!("namespace `{name}` is there, `{branch}`"), "branch", &at)
        }
        NamespaceCommand::Rm { name, branch, if_exists, words } => {
            let branch = session.or_active(branch);
            let op = Op::NamespaceDelete { name: name.clone(), branch: branch.clone(), if_exists, words: words.into() };
            let at: Ref = session.call(op)?;
            moved(context, &format!("namespace `{name}` is gone, `{branch}`"), "branch", &at)
        }
    }
}

impl From<Words> for CommitWords {
    fn from(words: Words) -> Self {
        Self { message: None, properties: words.properties(), body: words.commit_body }
    }
}
