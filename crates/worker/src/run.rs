//! One run: the scheduler's actions become threads and processes, and what those report becomes its events.
//!
//! Tasks of the scheduler are the run's environments (`gates`, without slots), then the plan's nodes. All state of
//! the run belongs to the thread that called [`execute`]; the others only send messages.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, Scope};
use std::time::{Duration, Instant};

use forebay_envs::Trial;
use forebay_plan::physical::{Node, NodeId, Work};
use forebay_runtime::{Access, Answer, CancelToken, Failure, FunctionProcess, Launch, Program, monotonic_ns, query_memory_bytes};
use forebay_sched::{Action, Event, Limits, Scheduler, Task, TaskId};
use forebay_sipc::call::{Bytes, Call, Copied, Memory, Reply};
use forebay_types::{Coded, Fault, Report};

use crate::event::{KeptTable, NodeError, NodeOutcome, NodeStatus, Outcome, RunStatus, WorkerEvent, WrittenTable};
use crate::gate::{self, Gate, Ready};
use crate::query::Folder;
use crate::store::{Segment, Table, distinct};
use crate::{Error, Execution, Worker, access, call, process_limits};

/// Python processes that may wait for their inputs, per processor.
const WARM_PER_PROCESSOR_MAX: usize = 2;

/// What the run's other threads report.
enum Message {
    /// The caller gives up.
    Cancelled,
    /// An environment is ready, or not.
    Gate(usize, Result<Ready, NodeError>),
    /// A function has answered or failed.
    Ended(NodeId, Result<Answer, Failure>),
}

/// A call with everything that goes with it.
struct Job {
    call: Call,
    messages: Vec<Arc<Vec<u8>>>,
    files: Vec<Arc<OwnedFd>>,
}

/// A node that runs.
struct Running {
    since: Instant,
    segment_id: u64,
    given: Vec<Arc<Segment>>,
}

struct Run<'run> {
    worker: &'run Worker,
    execution: &'run Execution,
    events: &'run (dyn Fn(WorkerEvent) + Sync),
    cancel: &'run CancelToken,
    messages: Sender<Message>,
    gates: &'run [Gate],
    gate_of: Vec<Option<usize>>,
    ready: Vec<Option<Ready>>,
    /// Processes that were started and wait for their call.
    parked: HashMap<NodeId, Sender<Job>>,
    running: HashMap<NodeId, Running>,
    /// Where SQL models that run spill.
    spills: HashMap<NodeId, Folder>,
    tables: Vec<Option<Arc<Table>>>,
    nodes: Vec<Option<NodeOutcome>>,
    written: Vec<WrittenTable>,
    error: Option<(Option<String>, NodeError)>,
    failed_expectations: Vec<String>,
}

/// Runs a plan. See [`Worker::execute`].
pub fn execute(worker: &Worker, execution: &Execution, events: &(dyn Fn(WorkerEvent) + Sync), cancel: &CancelToken) -> Outcome {
    let (gates, gate_of) = gate::gates(&execution.plan);
    let limits = Limits {
        parallel_max: worker.parallelism,
        memory_bytes_max: worker.options.memory_bytes_max,
        warm_max: worker.parallelism * WARM_PER_PROCESSOR_MAX,
    };
    let (sender, receiver) = channel();
    // A token of its own: a failure ends this run's processes, and nobody else's.
    let own = CancelToken::default();
    let (hook_sender, hook_token) = (sender.clone(), own.clone());
    cancel.on_cancel(move || {
        hook_token.cancel();
        // A run that has ended needs no word.
        let _ = hook_sender.send(Message::Cancelled);
    });
    let count = execution.plan.nodes.len();
    let mut run = Run {
        worker,
        execution,
        events,
        cancel: &own,
        messages: sender,
        gates: &gates,
        ready: gates.iter().map(|_| None).collect(),
        parked: HashMap::new(),
        running: HashMap::new(),
        spills: HashMap::new(),
        tables: vec![None; count],
        nodes: vec![None; count],
        written: Vec::new(),
        error: None,
        failed_expectations: Vec::new(),
        gate_of,
    };
    match Scheduler::new(run.tasks(), limits) {
        Ok(scheduler) => std::thread::scope(|scope| run.drive(scope, scheduler, &receiver)),
        Err(error) => run.fail(None, NodeError { report: Error::Plan(error).report(), traceback: None }),
    }
    run.outcome(cancel)
}

impl<'run> Run<'run> {
    fn tasks(&self) -> Vec<Task> {
        let gates = self.gates.iter().map(|_| Task::default());
        let offset = self.gates.len();
        let node = |(id, node): (NodeId, &Node)| Task {
            inputs: node.inputs.iter().map(|input| offset + input.producer).collect(),
            after: self.gate_of[id].into_iter().collect(),
            slots: process_limits(&node.resources).threads.unwrap_or(1),
            memory_bytes: node.resources.memory_bytes.unwrap_or(0),
            kept: self.execution.keep.contains(&id),
            warmable: matches!(node.work, Work::Python(_)),
        };
        gates.chain(self.execution.plan.nodes.iter().enumerate().map(node)).collect()
    }

    fn drive<'scope>(&mut self, scope: &'scope Scope<'scope, 'run>, mut scheduler: Scheduler, messages: &Receiver<Message>) {
        let mut event = Event::Begin;
        loop {
            for action in scheduler.step(event) {
                match action {
                    Action::Done => return,
                    other => self.act(other, scope),
                }
            }
            let message = messages.recv().expect("the run holds a sender itself");
            event = self.digest(message);
        }
    }

    fn act<'scope>(&mut self, action: Action, scope: &'scope Scope<'scope, 'run>) {
        let node_of = |task: TaskId| task.checked_sub(self.gates.len());
        match action {
            Action::Start(task) => match node_of(task) {
                None => self.start_gate(task, scope),
                Some(node) => self.start(node, scope),
            },
            Action::Warm(task) => {
                let node = node_of(task).expect("environments are not warmable");
                // What cannot be started ahead is tried again when it is its turn.
                let _ = self.launch(node, scope);
            }
            Action::Release(task) => {
                if let Some(node) = node_of(task) {
                    self.tables[node] = None;
                }
            }
            Action::Skip(task) => {
                if let Some(node) = node_of(task) {
                    // Its process, if there is one already, is killed by the thread that waits for the call.
                    self.parked.remove(&node);
                    self.end(node, NodeStatus::Skipped, Measured::default(), None);
                }
            }
            // After a failure everything that runs is cancelled, so the whole token is thrown.
            Action::Cancel(_) => self.cancel.cancel(),
            Action::Done => {}
        }
    }

    fn start_gate<'scope>(&self, index: usize, scope: &'scope Scope<'scope, 'run>) {
        let (gate, worker, events, cancel) = (&self.gates[index], self.worker, self.events, self.cancel);
        let (sender, execution) = (self.messages.clone(), self.execution);
        let first = self.gate_of.iter().position(|gate| *gate == Some(index)).map(|id| &execution.plan.nodes[id]);
        // A zygote for the first function is the trial of its imports.
        let ahead = move |ready: Ready| -> Option<Box<dyn Trial>> {
            let node = first?;
            let access = access::node(node, execution, None);
            let program = program(node, Some(ready), worker);
            let expected = worker.zygotes.expect(&launch(worker, execution, node, &program, &access))?;
            Some(Box::new(expected))
        };
        let work = move || {
            let result = gate::prepare(worker, gate, &execution.project_dir, events, cancel, &ahead);
            // The run waits for this message.
            let _ = sender.send(Message::Gate(index, result));
        };
        if let Err(error) = Builder::new().name("environment".into()).spawn_scoped(scope, work) {
            let failure = Failure::Start { node: gate.label.clone(), program: "(thread)".into(), source: error };
            let _ = self.messages.send(Message::Gate(index, Err(node_error(&failure))));
        }
    }

    /// Starts a node's process on a thread of its own, which then waits for the call.
    fn launch<'scope>(&mut self, id: NodeId, scope: &'scope Scope<'scope, 'run>) -> io::Result<()> {
        let node: &'run Node = &self.execution.plan.nodes[id];
        let program = program(node, self.gate_of[id].and_then(|gate| self.ready[gate].clone()), self.worker);
        let (jobs, inbox) = channel::<Job>();
        let (worker, execution, events, cancel) = (self.worker, self.execution, self.events, self.cancel);
        let sender = self.messages.clone();
        let spill = self.spill(id);
        let work = move || {
            let access = access::node(node, execution, spill.as_deref());
            let process = FunctionProcess::spawn(&launch(worker, execution, node, &program, &access), cancel);
            // No job: the node is skipped, and dropping the process kills it.
            let Ok(job) = inbox.recv() else { return };
            let mut on_line =
                |stream, line: &str| events(WorkerEvent::Log { node: node.name.clone(), stream, line: line.to_owned() });
            let result = process.and_then(|process| process.call(&job.call, job.messages, job.files, &mut on_line));
            let (result, remains) =
                result.map_or_else(|failure| (Err(failure), None), |(answer, remains)| (Ok(answer), Some(remains)));
            // The run waits for this message, and in the end for this thread, not in between.
            let _ = sender.send(Message::Ended(id, result));
            drop(remains);
        };
        Builder::new().name(format!("node {id}")).spawn_scoped(scope, work)?;
        self.parked.insert(id, jobs);
        Ok(())
    }

    /// A folder for what a SQL model spills. Where none can be made it has to do with its memory, as most do.
    fn spill(&mut self, id: NodeId) -> Option<PathBuf> {
        if !matches!(self.execution.plan.nodes[id].work, Work::Sql(_)) {
            return None;
        }
        let folder = Folder::make(&self.execution.bounds.spill_folder).ok()?;
        let path = folder.0.clone();
        self.spills.insert(id, folder);
        Some(path)
    }

    /// What the operators of a SQL model may use: half of the memory that it declares, as its table needs some, too; else what is
    /// configured, or a share of what queries have.
    fn memory(&self, id: NodeId) -> Memory {
        let spill = self.spills.get(&id).map(|folder| folder.0.as_path());
        let share = query_memory_bytes() / self.worker.parallelism.max(1) as u64;
        let memory = self.execution.bounds.memory(share, spill);
        match self.execution.plan.nodes[id].resources.memory_bytes {
            Some(bytes) => Memory { bytes: bytes / 2, ..memory },
            None => memory,
        }
    }

    fn start<'scope>(&mut self, id: NodeId, scope: &'scope Scope<'scope, 'run>) {
        let execution = self.execution;
        let node = &execution.plan.nodes[id];
        let launched = if self.parked.contains_key(&id) { Ok(()) } else { self.launch(id, scope) };
        let inputs: Vec<Arc<Table>> = node
            .inputs
            .iter()
            .map(|input| {
                Arc::clone(self.tables[input.producer].as_ref().expect("a table is held until its last consumer has ended"))
            })
            .collect();
        let (given, segments) = distinct(&inputs);
        let segment_id = self.worker.segment_ids.next();
        let context = call::Context {
            project: &execution.project_dir,
            tables_root: &execution.tables_root,
            strict: execution.strict,
            secrets: &execution.secrets,
            memory: self.memory(id),
        };
        let is_shown = matches!(node.work, Work::Python(_) | Work::Sql(_)) && !node.name.contains(':');
        let call = Call {
            node: node.name.clone(),
            segments,
            inputs: call::inputs(node),
            work: call::work(node, &context),
            output_segment: segment_id,
            preview: execution.preview.filter(|_| is_shown),
            storage: access::storage(node, execution),
        };
        let files = given.iter().map(|segment| Arc::clone(&segment.file)).collect();
        let messages = inputs.iter().map(|table| Arc::clone(&table.message)).collect();
        self.running.insert(id, Running { since: Instant::now(), segment_id, given });
        (self.events)(WorkerEvent::NodeStarted { node: id });
        match (launched, self.parked.remove(&id)) {
            (Err(source), _) => {
                let failure = Failure::Start { node: node.name.clone(), program: "(thread)".into(), source };
                // The run itself holds the receiver.
                let _ = self.messages.send(Message::Ended(id, Err(failure)));
            }
            // A thread waits for its job until it gets one or the sender is dropped.
            (Ok(()), Some(jobs)) => drop(jobs.send(Job { call, messages, files })),
            (Ok(()), None) => unreachable!("a launched process is parked"),
        }
    }

    fn digest(&mut self, message: Message) -> Event {
        match message {
            Message::Cancelled => Event::Cancel,
            Message::Gate(index, Ok(ready)) => {
                self.ready[index] = Some(ready);
                Event::Finished(index)
            }
            Message::Gate(index, Err(error)) => {
                if !self.cancel.is_cancelled() {
                    let first = self.gate_of.iter().position(|gate| *gate == Some(index));
                    self.fail(first, error);
                }
                Event::Failed(index)
            }
            Message::Ended(id, result) => {
                let task = self.gates.len() + id;
                if self.ended(id, result) { Event::Finished(task) } else { Event::Failed(task) }
            }
        }
    }

    /// Takes the end of a process in. Whether the run goes on as planned.
    fn ended(&mut self, id: NodeId, result: Result<Answer, Failure>) -> bool {
        let running = self.running.remove(&id).expect("only running nodes end");
        self.spills.remove(&id);
        let mut measured = Measured { seconds: Some(running.since.elapsed().as_secs_f64()), ..Measured::default() };
        let delivered = result.map_err(|failure| (failure.is_cancelled(), node_error(&failure)));
        let delivered =
            delivered.and_then(|answer| self.deliver(id, answer, running, &mut measured).map_err(|error| (false, error)));
        match delivered {
            Ok(Verdict::Good) => self.end(id, NodeStatus::Done, measured, None),
            Ok(Verdict::Tolerated(error)) => self.end(id, NodeStatus::Failed, measured, Some(error)),
            Err((true, _)) => {
                self.end(id, NodeStatus::Cancelled, measured, None);
                return false;
            }
            Err((false, error)) => {
                // What dies while a run is being cancelled did not fail by itself.
                if self.cancel.is_cancelled() {
                    self.end(id, NodeStatus::Cancelled, measured, None);
                } else {
                    self.end(id, NodeStatus::Failed, measured, Some(error.clone()));
                    self.fail(Some(id), error);
                }
                return false;
            }
        }
        true
    }

    fn deliver(&mut self, id: NodeId, answer: Answer, running: Running, measured: &mut Measured) -> Result<Verdict, NodeError> {
        let node = &self.execution.plan.nodes[id];
        let preview = match (&answer.reply, &node.work) {
            (Reply::Table { .. }, Work::Scan(_) | Work::Sql(_)) => self.table(id, answer, running, measured)?,
            (Reply::Table { .. }, Work::Python(_)) if node.work.kind() == "python" => {
                self.table(id, answer, running, measured)?
            }
            (Reply::Truth { value, message }, Work::Python(_)) if node.work.kind() == "expectation" => {
                return self.verdict(node, *value, message.as_deref());
            }
            (Reply::Written { metadata_location, rows, file_bytes, changes, preview }, Work::Write(write)) => {
                for text in changes {
                    let (node, line) = (node.name.clone(), format!("{text} of `{}`", write.table));
                    (self.events)(WorkerEvent::Log { node, stream: forebay_runtime::Stream::System, line });
                }
                measured.rows = Some(*rows);
                measured.total_bytes = Some(*file_bytes);
                let (table, base) = (write.table.clone(), write.base.clone());
                self.written.push(WrittenTable { table, metadata_location: metadata_location.clone(), base });
                preview.clone()
            }
            _ => return Err(wrong_answer(&node.name, "it answered with something else than it was asked for")),
        };
        if let Some(text) = preview {
            (self.events)(WorkerEvent::Preview { node: node.name.clone(), text });
        }
        Ok(Verdict::Good)
    }

    /// Publishes a table; gives its preview.
    fn table(
        &mut self,
        id: NodeId,
        answer: Answer,
        running: Running,
        measured: &mut Measured,
    ) -> Result<Option<String>, NodeError> {
        let name = &self.execution.plan.nodes[id].name;
        let Reply::Table { rows, bytes, copies, preview, warnings, times, converted_bytes, .. } = answer.reply else {
            return Err(wrong_answer(name, "it gave no table"));
        };
        let message = answer.message.ok_or_else(|| wrong_answer(name, "its table is missing"))?;
        let table = Table::publish(message, &answer.segments, running.segment_id, &running.given);
        self.tables[id] = Some(Arc::new(table.map_err(|why| wrong_answer(name, &why))?));
        let published = Duration::from_nanos(monotonic_ns().saturating_sub(times.returned_at_ns));
        *measured = Measured {
            rows: Some(rows),
            total_bytes: Some(bytes.total()),
            bytes,
            copies,
            converted_bytes,
            publish_seconds: Some(published.as_secs_f64()),
            receive_seconds: Some(Duration::from_nanos(times.received_ns).as_secs_f64()),
            ..std::mem::take(measured)
        };
        for text in warnings {
            (self.events)(WorkerEvent::Warning { text: format!("{name}: {text}") });
        }
        Ok(preview)
    }

    fn verdict(&mut self, node: &Node, holds: bool, assertion: Option<&str>) -> Result<Verdict, NodeError> {
        if holds {
            return Ok(Verdict::Good);
        }
        self.failed_expectations.push(node.name.clone());
        let mut report = Report::new("RUN0021", Fault::Request, format!("expectation `{}` does not hold", node.name))
            .with_hint("look at the data it checks: in the failed run's branch if it was written, else with `--dry-run --preview head`; or go on with `--no-strict`");
        report.at.clone_from(&node.at);
        report.causes.extend(assertion.map(str::to_owned));
        let error = NodeError { report, traceback: None };
        if self.execution.strict {
            return Err(error);
        }
        (self.events)(WorkerEvent::Warning { text: format!("expectation `{}` does not hold", node.name) });
        Ok(Verdict::Tolerated(error))
    }

    fn end(&mut self, id: NodeId, status: NodeStatus, measured: Measured, error: Option<NodeError>) {
        let node = &self.execution.plan.nodes[id];
        let outcome = NodeOutcome {
            node: id,
            name: node.name.clone(),
            kind: node.work.kind(),
            status,
            rows: measured.rows,
            total_bytes: measured.total_bytes,
            bytes: measured.bytes,
            copies: measured.copies,
            converted_bytes: measured.converted_bytes,
            receive_seconds: measured.receive_seconds,
            publish_seconds: measured.publish_seconds,
            seconds: measured.seconds,
            error,
        };
        self.nodes[id] = Some(outcome.clone());
        (self.events)(WorkerEvent::NodeFinished { outcome });
    }

    /// The first failure is the run's error.
    fn fail(&mut self, node: Option<NodeId>, mut error: NodeError) {
        let node = node.map(|id| &self.execution.plan.nodes[id]);
        if error.report.at.is_none() {
            error.report.at = node.and_then(|node| node.at.clone());
        }
        self.error.get_or_insert((node.map(|node| node.name.clone()), error));
    }

    fn outcome(mut self, cancel: &CancelToken) -> Outcome {
        for id in 0..self.nodes.len() {
            if self.nodes[id].is_none() {
                self.end(id, NodeStatus::Skipped, Measured::default(), None);
            }
        }
        let nodes: Vec<NodeOutcome> = self.nodes.into_iter().flatten().collect();
        let whole = nodes.iter().all(|node| !matches!(node.status, NodeStatus::Cancelled | NodeStatus::Skipped));
        let status = match &self.error {
            Some(_) => RunStatus::Failed,
            None if whole => RunStatus::Success,
            None => RunStatus::Cancelled,
        };
        debug_assert!(status != RunStatus::Cancelled || cancel.is_cancelled());
        let keep = |id: &NodeId| {
            let table = self.tables.get(*id)?.as_ref()?;
            let segments = table.segments.iter().map(|s| (s.id, s.length, Arc::clone(&s.file))).collect();
            Some(KeptTable { node: *id, message: Arc::clone(&table.message), segments })
        };
        let kept = match status {
            RunStatus::Success => self.execution.keep.iter().filter_map(keep).collect(),
            RunStatus::Failed | RunStatus::Cancelled => Vec::new(),
        };
        Outcome { status, error: self.error, nodes, written: self.written, kept, failed_expectations: self.failed_expectations }
    }
}

/// What a node's process executes.
fn program(node: &Node, ready: Option<Ready>, worker: &Worker) -> Program {
    match (&node.work, ready) {
        (Work::Python(python), Some(ready)) => Program::Python {
            warm: gate::warm(python, &ready.environment),
            imports: ready.imports,
            python: ready.environment.python,
            runtime: ready.runtime,
        },
        _ => worker.system_program(),
    }
}

fn launch<'a>(
    worker: &'a Worker,
    execution: &'a Execution,
    node: &'a Node,
    program: &'a Program,
    access: &'a Access,
) -> Launch<'a> {
    Launch {
        node: &node.name,
        program,
        folder: &execution.project_dir,
        limits: process_limits(&node.resources),
        sandbox: &worker.sandbox,
        settings: &execution.sandbox,
        access,
        zygotes: Some(&worker.zygotes),
    }
}

/// What a node delivered is as it should be, or the run goes on although it is not.
enum Verdict {
    Good,
    Tolerated(NodeError),
}

/// Numbers of a node.
#[derive(Default)]
struct Measured {
    rows: Option<u64>,
    total_bytes: Option<u64>,
    bytes: Bytes,
    copies: Vec<Copied>,
    converted_bytes: u64,
    receive_seconds: Option<f64>,
    publish_seconds: Option<f64>,
    seconds: Option<f64>,
}

/// A failure as it is reported.
pub fn node_error(failure: &Failure) -> NodeError {
    NodeError { report: failure.report(), traceback: failure.traceback().map(str::to_owned) }
}

/// An answer that makes no sense.
pub fn wrong_answer(node: &str, why: &str) -> NodeError {
    node_error(&Failure::Answer { node: node.to_owned(), why: why.to_owned() })
}
