//! One SELECT at a ref, in one process that reads the tables it needs. Rows go back as they come, through a pipe to the client, or
//! as a table beside the answer, in the segments it was made in; the daemon sees none of them.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use forebay_plan::physical::{PhysicalPlan, Scan, Work};
use forebay_sipc::{Limits, Message};
use forebay_worker::{Answered, KeptTable, QueryTable, WorkerEvent};
use serde_json::json;

use crate::api::{self, Event, QueryResult};
use crate::config::{Config, DEFAULT_NAMESPACE};
use crate::connection::Answer;
use crate::error::Error;
use crate::home::Home;
use crate::jobs::{self, JobHandle, NewJob};
use crate::limits::PIPE_BYTES;
use crate::service::{Session, reports};
use crate::{runs, snapshots};

/// What is asked.
pub(crate) struct Query {
    pub(crate) sql: String,
    pub(crate) at: String,
    pub(crate) namespace: Option<String>,
    pub(crate) max_rows: Option<u64>,
    pub(crate) stream: bool,
    pub(crate) memory_bytes: Option<u64>,
}

/// Removes what queries of a killed daemon have spilled.
pub(crate) fn remove_spilled(home: &Home) {
    // A configuration that cannot be read is told to whoever needs it.
    let configured = Config::load(home).ok().map(|config| config.query(home).spill_folder);
    for folder in [Some(home.spill_dir(None)), configured].into_iter().flatten() {
        // Most of the time there is none.
        let _ = std::fs::remove_dir_all(folder);
    }
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
    let taken = snapshots::take(session, &logical, &at.hash)?;
    let plan = forebay_plan::physical(&logical, &taken.snapshot).map_err(reports)?;
    let (sql, tables) = read(&plan)?;
    let mut bounds = Config::load(&session.service.home)?.query(&session.service.home);
    bounds.memory_bytes = query.memory_bytes.or(bounds.memory_bytes);
    let asked = forebay_worker::Query {
        sql,
        tables,
        tables_root: session.lake.tables_root.clone(),
        external_roots: taken.external_roots,
        bounds,
        pipe: query.stream.then(|| pipe(session, job)).transpose()?,
        sandbox: session.service.sandbox()?,
        storage: session.worker_storage(),
    };
    let events = |event: WorkerEvent| {
        if let WorkerEvent::Log { node, stream, line } = event {
            session.emit(job, &Event::Log { node, stream: stream.as_str().to_owned(), line });
        }
    };
    let token = runs::worker_token(job);
    let answered = session.service.worker()?.query(asked, &events, &token).map_err(|error| runs::node_error(&error, None))?;
    match answered {
        Answered::Table(table) => answer(job.id(), table),
        Answered::Streamed { rows } => {
            Answer::of(QueryResult { job_id: job.id().to_owned(), fields: Vec::new(), rows, segments: Vec::new() })
        }
    }
}

/// The statement and its tables: the plan is one SELECT over scans, which the query's process does itself.
fn read(plan: &PhysicalPlan) -> Result<(String, Vec<QueryTable>), api::Error> {
    // Nodes come after their inputs, so the SELECT is the last one.
    let Some((last, Work::Sql(sql))) = plan.nodes.last().map(|last| (last, &last.work)) else {
        return Err(defect("its plan does not end with a SELECT"));
    };
    let mut tables = BTreeMap::new();
    for input in &last.inputs {
        let Work::Scan(Scan { metadata_location, snapshot_id, .. }) = &plan.nodes[input.producer].work else {
            return Err(defect("an input is not a table of the lake"));
        };
        let (name, metadata_location) = (input.name.clone(), metadata_location.clone());
        tables.insert(name.clone(), QueryTable { name, metadata_location, snapshot_id: *snapshot_id });
    }
    Ok((sql.query.clone(), tables.into_values().collect()))
}

/// Makes a pipe, sends one end to the client and gives the other.
fn pipe(session: &Session<'_>, job: &JobHandle) -> Result<Arc<OwnedFd>, api::Error> {
    let failed = |error: std::io::Error| api::Error::from(Error::storage("make a pipe in", "/proc/self/fd")(error));
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    // A user has so many large pipes; a small one works as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES);
    if !session.connection.stream(job.id(), &reader) {
        job.cancel().cancel("its client went away");
    }
    Ok(Arc::new(writer))
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
