//! `run`: a project from start to its one commit, told as it happens.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use forebay_control::api::{Bytes, Event, Job, Op, Run, RunResult};
use serde_json::{Value, json};

use super::plan::request;
use crate::args::RunArgs;
use crate::context::Context;
use crate::error::{Error, Failure, Result};
use crate::exit::Exit;
use crate::interrupt::on_interrupt;
use crate::output::SCHEMA;
use crate::render::errors;
use crate::render::progress::Progress;
use crate::render::run::{Ending, ending};
use crate::secrets::Wanted;

pub fn run(context: &Context, args: RunArgs) -> Result<Exit> {
    let began = Instant::now();
    match execute(context, args, began) {
        Err(Failure::Error(error)) if context.out.is_json() => {
            // It failed before there was a job. stdout still gets its one object, of the usual shape.
            context.out.insist(&errors::error(context.out.talk_style, &error));
            context.out.object(json!({
                "job_id": null, "status": "FAILED", "ref": null, "nodes": [], "bytes": Bytes::default(), "error": error
            }))?;
            Ok(error.fault_kind().into())
        }
        other => other,
    }
}

fn execute(context: &Context, args: RunArgs, began: Instant) -> Result<Exit> {
    let wanted = Wanted::of_project(&args.plan.project_dir, &args.plan.parameters)?;
    let mut session = context.session()?;
    let target = session.or_active(args.plan.at.clone());
    let mut run = Run {
        dry_run: args.dry_run,
        preview: args.preview.as_str().to_owned(),
        detach: args.detach,
        cpus: args.cpus,
        memory_bytes: args.memory,
        ..request(&args.plan, target.clone())?
    };
    wanted.attach(&mut session, &mut run)?;
    let job = Arc::new(Mutex::new(None));
    cancel_on_interrupt(context, &job)?;
    let mut progress = Progress::new(context.out);
    let result: RunResult = session.watch(Op::Run(run), &mut |event| {
        if let Event::Job { job_id } = &event {
            *job.lock().unwrap_or_else(PoisonError::into_inner) = Some(job_id.clone());
        }
        progress.show(&event);
    })?;
    drop(progress);
    let end = Ending { target: &target, dry_run: args.dry_run, seconds: began.elapsed().as_secs_f64() };
    tell(context, end, &result)
}

/// At the first Ctrl-C the job is stopped over a second connection; the first one then brings its result, CANCELLED.
fn cancel_on_interrupt(context: &Context, job: &Arc<Mutex<Option<String>>>) -> Result<()> {
    let (context, job) = (context.clone(), Arc::clone(job));
    on_interrupt(move || {
        let job = job.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(id) = job else {
            // There is nothing to wait for: the closed connection cancels what was asked for.
            std::process::exit(Exit::Failed.code().into());
        };
        context.out.talk("cancelling; Ctrl-C again leaves at once");
        let stopped: Result<Job> = context.session().and_then(|mut session| session.call(Op::JobStop { id }));
        if let Err(Failure::Error(error)) = stopped {
            // The run may have ended in the meantime; if not, the second Ctrl-C is still there.
            context.out.talk(&errors::error(context.out.talk_style, &error));
        }
    })
}

fn tell(context: &Context, end: Ending<'_>, result: &RunResult) -> Result<Exit> {
    let style = context.out.talk_style;
    let failed = result.error.as_ref().filter(|_| result.status == "FAILED");
    if let Some(error) = failed {
        context.out.insist(&format!("\n{}\n", errors::error(style, error)));
    }
    context.out.talk(&ending(style, end, result));
    if context.out.is_json() {
        context.out.object(object(result)?)?;
    }
    Ok(match result.status.as_str() {
        "SUCCESS" | "RUNNING" => Exit::Done,
        "CANCELLED" => Exit::Failed,
        _ => result.error.as_ref().map_or(Exit::Failed, |error| error.fault_kind().into()),
    })
}

/// The one object of `-o json`.
fn object(result: &RunResult) -> Result<Value> {
    if result.schema != SCHEMA {
        return Err(Error::Answer { why: format!("its shape is of version {}, not {SCHEMA}", result.schema) }.into());
    }
    Ok(serde_json::to_value(result).map_err(|error| Error::Answer { why: error.to_string() })?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::error_code;

    fn result(schema: u32) -> RunResult {
        RunResult {
            schema,
            job_id: "j".into(),
            status: "SUCCESS".into(),
            at: None,
            nodes: Vec::new(),
            environments: Vec::new(),
            bytes: Bytes::default(),
            error: None,
            failed_branch: None,
            kept_tables: Vec::new(),
        }
    }

    #[test]
    fn the_one_object_has_the_promised_fields() {
        let object = crate::output::versioned(object(&result(SCHEMA)).unwrap());
        let expected = concat!(
            r#"{"schema":1,"job_id":"j","status":"SUCCESS","ref":null,"nodes":[],"#,
            r#""bytes":{"referenced":0,"reshared":0,"copied":0,"inline":0},"error":null}"#
        );
        assert_eq!(object.to_string(), expected);
    }

    #[test]
    fn an_object_of_another_shape_is_not_passed_on() {
        assert_eq!(error_code(object(&result(SCHEMA + 1))), "CLI0009");
    }
}
