//! `job …`

use forebay_control::api::{Job, Op};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{JobCommand, JobListArgs};
use crate::context::{Context, Session};
use crate::error::{Error, Result};
use crate::render::errors;
use crate::render::run::{log, name_width};
use crate::render::style::Style;
use crate::render::table::{columns, pairs};
use crate::render::text::{duration, seconds_between, time};

pub fn run(context: &Context, command: JobCommand) -> Result<()> {
    let mut session = context.session()?;
    match command {
        JobCommand::Ls(args) => list(context, &mut session, args),
        JobCommand::Get { id } => {
            let job: Job = session.call(Op::JobGet { id })?;
            print(context, &job)
        }
        JobCommand::Logs { id } => logs(context, &mut session, id),
        JobCommand::Stop { id } => {
            let job: Job = session.call(Op::JobStop { id })?;
            context.out.talk(&format!("job {} ended as {}", job.id, job.status.to_lowercase()));
            if context.out.is_json() { context.out.object(json!({ "job": job })) } else { Ok(()) }
        }
    }
}

fn list(context: &Context, session: &mut Session, args: JobListArgs) -> Result<()> {
    let words = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
    let op = Op::JobList {
        ids: args.ids,
        kinds: words(args.kinds.iter().map(|kind| kind.as_str()).collect()),
        statuses: words(args.statuses.iter().map(|status| status.as_str()).collect()),
        limit: Some(args.max_count),
    };
    let jobs: Vec<Job> = session.call(op)?;
    if context.out.is_json() {
        return context.out.object(json!({ "jobs": jobs }));
    }
    let rows: Vec<Vec<String>> = jobs.iter().map(|job| row(job, args.utc)).collect();
    let headings = ["ID", "KIND", "USER", "STATUS", "CREATED", "FINISHED", "DURATION"];
    context.out.data(&columns(context.out.data_style, &headings, &["DURATION"], &rows))
}

fn row(job: &Job, utc: bool) -> Vec<String> {
    let finished = job.finished_at.as_deref();
    let took = finished.and_then(|end| seconds_between(&job.created_at, end)).map(duration);
    vec![
        job.id.clone(),
        job.kind.clone(),
        job.user.clone(),
        job.status.clone(),
        time(&job.created_at, utc),
        finished.map(|end| time(end, utc)).unwrap_or_default(),
        took.unwrap_or_default(),
    ]
}

fn print(context: &Context, job: &Job) -> Result<()> {
    if context.out.is_json() {
        return context.out.object(json!({ "job": job }));
    }
    context.out.data(&described(context.out.data_style, job))
}

fn described(style: Style, job: &Job) -> String {
    let mut facts = vec![("job", job.id.clone()), ("kind", job.kind.clone()), ("user", job.user.clone())];
    facts.push(("status", style.status(&job.status)));
    facts.extend(job.at.as_ref().map(|at| ("ref", at.clone())));
    facts.push(("lake", job.lake.clone()));
    facts.push(("created", time(&job.created_at, false)));
    if let Some(end) = &job.finished_at {
        facts.push(("finished", time(end, false)));
        facts.extend(seconds_between(&job.created_at, end).map(|seconds| ("duration", duration(seconds))));
    }
    let mut text = pairs(style, &facts);
    if let Some(error) = &job.error {
        text.push_str("\n\n");
        text.push_str(&errors::error(style, error));
    }
    text
}

/// A line that a function of the job printed.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    timestamp: String,
    node: String,
    stream: String,
    line: String,
}

fn logs(context: &Context, session: &mut Session, id: String) -> Result<()> {
    let lines: Vec<Value> = session.call(Op::JobLogs { id })?;
    if context.out.is_json() {
        return context.out.stream(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")));
    }
    let lines: Vec<Line> =
        serde_json::from_value(Value::Array(lines)).map_err(|error| Error::Answer { why: error.to_string() })?;
    let width = name_width(lines.iter().map(|line| line.node.as_str()));
    let style = context.out.data_style;
    context.out.stream(|out| {
        lines.iter().try_for_each(|line| {
            let stamp = style.faint(&time(&line.timestamp, false));
            writeln!(out, "{stamp}  {}", log(style, width, &line.node, &line.stream, &line.line))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            id: "0199".into(),
            kind: "run".into(),
            user: "ann".into(),
            status: "SUCCESS".into(),
            created_at: "2026-11-21T09:00:00Z".into(),
            finished_at: Some("2026-11-21T09:00:02.5Z".into()),
            lake: "file:///l".into(),
            at: Some("main".into()),
            error: None,
            result: None,
        }
    }

    #[test]
    fn jobs_in_rows() {
        let expected = ["0199", "run", "ann", "SUCCESS", "2026-11-21 09:00:00Z", "2026-11-21 09:00:02Z", "2.50 s"];
        assert_eq!(row(&job(), true), expected);
        let running = Job { finished_at: None, ..job() };
        assert_eq!(row(&running, true)[5..], ["", ""]);
    }

    #[test]
    fn a_failed_job_tells_its_error() {
        let error = forebay_types::Report::new("RUN0001", forebay_types::Fault::Request, "it raised").into();
        let failed = Job { error: Some(error), created_at: "then".into(), finished_at: None, ..job() };
        let text = described(Style::PLAIN, &failed);
        assert!(text.starts_with("job      0199\nkind     run\n"), "{text}");
        assert!(text.ends_with("created  then\n\nerror[RUN0001]: it raised"), "{text}");
    }
}
