//! `explain`: how the tables of a run got from function to function, and why bytes were copied.

use forebay_control::api::{Job, Op, RunResult};
use serde_json::json;

use crate::context::{Context, Session};
use crate::error::{Error, Result};
use crate::render::explain::{account, explanation};
use crate::render::table::pairs;
use crate::render::text::time;

pub fn run(context: &Context, id: Option<String>) -> Result<()> {
    let mut session = context.session()?;
    let job = match id {
        Some(id) => session.call(Op::JobGet { id })?,
        None => latest(&mut session)?,
    };
    let result = result(&job)?;
    let account = account(&result.nodes);
    if context.out.is_json() {
        return context.out.object(json!({
            "job_id": job.id,
            "status": job.status,
            "nodes": result.nodes,
            "bytes": account.bytes,
            "uncopied_share": account.uncopied_share,
            "copies": account.copies,
        }));
    }
    let style = context.out.data_style;
    let mut facts = vec![("job", job.id.clone()), ("status", style.status(&job.status))];
    facts.extend(job.at.as_ref().map(|at| ("ref", at.clone())));
    facts.push(("created", time(&job.created_at, false)));
    context.out.data(&format!("{}\n\n{}", pairs(style, &facts), explanation(style, &result.nodes, &account)))
}

/// The run of this lake that was started last.
fn latest(session: &mut Session) -> Result<Job> {
    let op = Op::JobList { ids: Vec::new(), kinds: vec!["run".to_owned()], statuses: Vec::new(), limit: None };
    let jobs: Vec<Job> = session.call(op)?;
    let lake = &session.settings.lake;
    jobs.into_iter().find(|job| job.lake == *lake).ok_or_else(|| Error::NoRun { lake: lake.clone() }.into())
}

/// What a run left on record.
fn result(job: &Job) -> Result<RunResult> {
    let not = |why: &str| Error::NothingToExplain { id: job.id.clone(), why: why.to_owned() };
    match (&job.result, job.kind.as_str(), job.status.as_str()) {
        (_, kind, _) if kind != "run" => Err(not(&format!("it is a {kind}, not a run")).into()),
        (_, _, "RUNNING") => Err(not("it has not ended yet").into()),
        (None, ..) => Err(not("it has left no result: its background process was killed").into()),
        (Some(result), ..) => {
            serde_json::from_value(result.clone()).map_err(|error| Error::Answer { why: error.to_string() }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::error_code;

    fn job(kind: &str, status: &str, result: Option<serde_json::Value>) -> Job {
        Job {
            id: "0199".into(),
            kind: kind.into(),
            user: "ann".into(),
            status: status.into(),
            created_at: "then".into(),
            finished_at: None,
            lake: "file:///l".into(),
            at: None,
            error: None,
            result,
        }
    }

    #[test]
    fn only_runs_that_ended_are_explained() {
        let run = json!({ "schema": 1, "job_id": "0199", "status": "FAILED", "ref": null, "nodes": [], "error": null });
        assert!(result(&job("run", "FAILED", Some(run.clone()))).is_ok());
        for (kind, status, value) in [
            ("query", "SUCCESS", Some(run.clone())),
            ("run", "RUNNING", None),
            ("run", "FAILED", None),
            ("table-import", "SUCCESS", None),
        ] {
            assert_eq!(error_code(result(&job(kind, status, value))), "CLI0011", "{kind} {status}");
        }
        assert_eq!(error_code(result(&job("run", "SUCCESS", Some(json!(7))))), "CLI0009");
    }
}
