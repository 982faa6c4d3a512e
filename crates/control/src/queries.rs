//! One SELECT at a ref: a plan of one SQL node, whose table goes back beside the answer, in the segments it was made in.

use forebay_sipc::{Limits, Message};
use forebay_worker::{Execution, KeptTable, RunStatus};
use serde_json::json;

use crate::api::{self, QueryResult};
use crate::config::DEFAULT_NAMESPACE;
use crate::connection::Answer;
use crate::error::Error;
use crate::jobs::{self, JobHandle, NewJob};
use crate::service::{Session, reports};
use crate::{runs, snapshots};

/// What is asked.
pub(crate) struct Query {
    pub(crate) sql: String,
    pub(crate) at: String,
    pub(crate) namespace: Option<String>,
    pub(crate) max_rows: Option<u64>,
}

/// Answers `query`.
pub(crate) fn query(session: &Session<'_>, query: &Query) -> Result<Answer, api::Error> {
    let new = NewJob { kind: "query", user: &session.author.name, lake: &session.lake.uri, at: &query.at };
    let job = session.service.jobs.start(&new)?;
    let _watch = session.connection.watch(job.cancel()).map_err(Error::storage("watch", "the connection"))?;
    let answer = select(session, query, &job);
    match answer {
        Ok(answer) => {
            job.finish(jobs::SUCCESS, None, None);
            Ok(answer)
        }
        Err(error) => {
            let cancelled = job.cancel().why().map(|why| api::Error::from(Error::Cancelled { why }));
            let status = if cancelled.is_some() { jobs::CANCELLED } else { jobs::FAILED };
            let error = cancelled.unwrap_or(error);
            job.finish(status, Some(error.clone()), None);
            Err(error)
        }
    }
}

fn select(session: &Session<'_>, query: &Query, job: &JobHandle) -> Result<Answer, api::Error> {
    let at = session.resolve(&query.at)?;
    let namespace = query.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
    let logical = forebay_plan::query(&query.sql, namespace, query.max_rows).map_err(reports)?;
    let snapshot = snapshots::take(session, &logical, &at.hash)?;
    let plan = forebay_plan::physical(&logical, &snapshot).map_err(reports)?;
    // Nodes come after their inputs, so the SELECT is the last one.
    let last = plan.nodes.len().checked_sub(1).ok_or_else(|| defect("its plan is empty"))?;
    let execution = Execution {
        plan,
        project_dir: session.service.home.projects_dir(),
        job_id: job.id().to_owned(),
        tables_root: session.lake.tables_root.clone(),
        strict: true,
        preview: None,
        keep: vec![last],
        sandbox: session.service.sandbox()?,
        storage: session.worker_storage(),
        secrets: forebay_worker::Secrets::default(),
    };
    let mut outcome = runs::execute(session, job, &execution)?;
    if outcome.status != RunStatus::Success {
        return Err(runs::outcome_error(&outcome));
    }
    let table = outcome.kept.pop().ok_or_else(|| defect("its table was not kept"))?;
    answer(job.id(), table)
}

fn defect(why: &str) -> api::Error {
    Error::Defect { op: "query".to_owned(), why: why.to_owned() }.into()
}

/// The table's description; its rows are not looked at here.
fn answer(job: &str, table: KeptTable) -> Result<Answer, api::Error> {
    let message = Message::decode(&table.message, &Limits::default()).map_err(|error| defect(&error.to_string()))?;
    let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
        let mut map = serde_json::Map::new();
        map.insert("name".to_owned(), field.name().as_str().into());
        map.insert("type".to_owned(), field.data_type().to_string().into());
        map.insert("nullable".to_owned(), field.is_nullable().into());
        map
    };
    let result = QueryResult {
        job_id: job.to_owned(),
        fields: message.schema().fields().iter().map(field).collect(),
        rows: message.rows(),
        segments: table.segments.iter().map(|(id, length, _)| json!({ "id": id, "length": length })).collect(),
    };
    let segments = table.segments.into_iter().map(|(_, _, file)| file).collect();
    Ok(Answer { message: Some(table.message), segments, ..Answer::of(result)? })
}
