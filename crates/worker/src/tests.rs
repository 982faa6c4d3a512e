//! Runs whose functions are other programs (they never answer), and what a function may publish. Whole runs are
//! tested through the built binary, in `tests/` of the repository.

use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch, StringArray};
use forebay_plan::physical::{Input, Node, Resources, Scan, Sql, Work};
use forebay_runtime::NewSegment;
use forebay_shm::{Inputs, seal};
use forebay_types::TableName;

use crate::store::{Segment, Table, distinct};
use crate::*;

fn node(name: &str, work: Work, producers: &[NodeId]) -> Node {
    let input = |producer: &NodeId| Input { producer: *producer, name: "t".into(), columns: None, dictionary: vec![] };
    Node { name: name.into(), work, inputs: producers.iter().map(input).collect(), resources: Resources::default(), at: None }
}

fn scan(name: &str) -> Node {
    let table = TableName::parse("t", "default").unwrap();
    let (metadata_location, dictionary) = ("/nowhere.json".into(), vec![]);
    let scan = Scan { table, metadata_location, snapshot_id: None, columns: None, filter: None, dictionary, views: false };
    node(name, Work::Scan(scan), &[])
}

fn run(executor: &str, nodes: Vec<Node>, cancel: &CancelToken) -> (Outcome, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let options =
        Options { executor: Some(executor.into()), parallelism: Some(2), forked_launcher: true, ..Options::new(folder.path()) };
    let commit = "0".repeat(64).parse().unwrap();
    let execution = Execution {
        plan: PhysicalPlan { project: "p".into(), commit, nodes },
        project_dir: folder.path().to_owned(),
        job_id: "job".into(),
        tables_root: folder.path().join("tables").to_string_lossy().into_owned(),
        external_roots: vec![],
        strict: true,
        preview: None,
        keep: vec![],
        sandbox: SandboxSettings::default(),
        storage: crate::Storage::default(),
        secrets: Secrets::default(),
        bounds: Bounds { spill_folder: folder.path().join("spill"), ..Bounds::default() },
    };
    let seen = Mutex::new(Vec::new());
    let events = |event| {
        if let WorkerEvent::NodeFinished { outcome } = event {
            seen.lock().unwrap().push(format!("{} {}", outcome.name, outcome.status.as_str()));
        }
    };
    let outcome = Worker::new(options).unwrap().execute(&execution, &events, cancel);
    (outcome, seen.into_inner().unwrap())
}

fn code(outcome: &Outcome) -> &str {
    outcome.error.as_ref().map_or("", |(_, error)| &error.report.code.0)
}

#[test]
fn a_function_that_exits_ends_the_run_and_its_dependants_are_skipped() {
    let sql = node("m", Work::Sql(Sql { query: "SELECT 1".into(), views: false }), &[0]);
    let (outcome, seen) = run("/bin/false", vec![scan("scan:a"), sql], &CancelToken::default());
    assert_eq!((outcome.status, code(&outcome)), (RunStatus::Failed, "RUN0010"));
    assert_eq!(outcome.error.as_ref().unwrap().0.as_deref(), Some("scan:a"));
    assert_eq!(seen, ["scan:a failed", "m skipped"]);
    assert!(outcome.written.is_empty() && outcome.kept.is_empty());
}

#[test]
fn a_program_that_is_not_there_is_run0014() {
    let (outcome, _) = run("/nowhere/forebay", vec![scan("scan:a")], &CancelToken::default());
    assert_eq!((outcome.status, code(&outcome)), (RunStatus::Failed, "RUN0014"));
}

#[test]
fn a_cancelled_run_says_so_and_starts_nothing() {
    let cancel = CancelToken::default();
    cancel.cancel();
    let (outcome, seen) = run("/bin/false", vec![scan("scan:a"), scan("scan:b")], &cancel);
    assert_eq!(outcome.status, RunStatus::Cancelled);
    assert!(outcome.error.is_none() && outcome.nodes.len() == 2, "{seen:?}");
    assert!(outcome.nodes.iter().all(|node| matches!(node.status, NodeStatus::Cancelled | NodeStatus::Skipped)));
}

#[test]
fn an_empty_plan_succeeds_and_a_disordered_one_is_run0022() {
    assert_eq!(run("/bin/false", vec![], &CancelToken::default()).0.status, RunStatus::Success);
    let sql = || Work::Sql(Sql { query: "SELECT 1".into(), views: false });
    let (outcome, seen) = run("/bin/false", vec![node("a", sql(), &[1]), node("b", sql(), &[])], &CancelToken::default());
    assert_eq!((outcome.status, code(&outcome)), (RunStatus::Failed, "RUN0022"));
    assert_eq!(seen, ["a skipped", "b skipped"]);
}

#[test]
fn an_import_that_does_not_answer_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { executor: Some("/bin/false".into()), forked_launcher: true, ..Options::new(folder.path()) };
    let import = Import {
        name: "t".into(),
        base: String::new(),
        files: vec![],
        best_effort: false,
        continue_on_error: false,
        properties: vec![],
        sandbox: SandboxSettings::default(),
        storage: crate::Storage::default(),
    };
    let error = Worker::new(options).unwrap().import(&import, &|_| {}, &CancelToken::default()).unwrap_err();
    assert_eq!(error.report.code.0, "RUN0010", "{error:?}");
}

/// A table written by a function with these segment identities, over what it was given.
fn write(id: u64, batch: &RecordBatch, inputs: &Arc<Inputs>) -> (Vec<u8>, Vec<NewSegment>) {
    let written = forebay_shm::write(id, inputs, &batch.schema(), vec![batch.clone()]).unwrap();
    let sealed = |segment: forebay_shm::NewSegment| {
        seal(&segment.file).unwrap();
        NewSegment { id: segment.id, length: segment.keep.length, file: Arc::new(segment.file) }
    };
    (written.message.encode(), written.segments.into_iter().map(sealed).collect())
}

#[test]
fn a_function_publishes_only_what_it_wrote_or_was_given() {
    let numbers = Arc::new(Int64Array::from_iter_values(0..1000));
    let strings = Arc::new(StringArray::from_iter_values((0..1000).map(|n| format!("row {n}"))));
    let batch = RecordBatch::try_from_iter([("n", numbers as _), ("s", strings as _)]).unwrap();
    let (message, files) = write(7, &batch, &Inputs::none());
    let first = Arc::new(Table::publish(message.clone(), &files, 7, &[]).unwrap());
    assert_eq!(first.segments.len(), 1);
    assert!(Table::publish(message.clone(), &[], 7, &[]).is_err(), "without its file");
    assert!(Table::publish(message.clone(), &files, 8, &[]).is_err(), "under an identity it may not use");
    assert!(Table::publish(message[..40].to_vec(), &files, 7, &[]).is_err(), "cut off");
    let short = Arc::new(Segment { id: 7, length: 8, file: Arc::clone(&first.segments[0].file) });
    assert!(Table::publish(message, &[], 9, &[short]).is_err(), "in a segment that is shorter than it says");
}

#[test]
fn children_share_the_segment_of_their_parent() {
    let numbers = Arc::new(Int64Array::from_iter_values(0..1000));
    let batch = RecordBatch::try_from_iter([("n", numbers as _)]).unwrap();
    let (message, files) = write(1, &batch, &Inputs::none());
    let parent = Arc::new(Table::publish(message, &files, 1, &[]).unwrap());
    drop(files);
    let (given, names) = distinct(&[Arc::clone(&parent), Arc::clone(&parent)]);
    assert_eq!((given.len(), names.len()), (1, 1));
    let children: Vec<Table> = (2..5)
        .map(|id| {
            let inputs = Inputs::map(&names, &[&*given[0].file]).unwrap();
            let decoded = forebay_sipc::Message::decode(&parent.message, &forebay_sipc::Limits::default()).unwrap();
            let table = inputs.rebuild(&decoded).unwrap();
            let (message, files) = write(id * 1000, &table.batches[0], &inputs);
            assert!(files.is_empty(), "nothing is copied");
            Table::publish(message, &files, id * 1000, &given).unwrap()
        })
        .collect();
    drop((given, parent));
    assert!(children.iter().all(|child| Arc::ptr_eq(&child.segments[0], &children[0].segments[0])));
    assert_eq!(Arc::strong_count(&children[0].segments[0]), 3, "held by the children, and by nobody else");
}
