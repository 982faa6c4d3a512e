//! Environments of a run: which ones its nodes need, and making them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use forebay_envs::{Environment, EnvironmentRequest, LOCK_FILE, Lock, ProjectLock, Trial, Watch};
use forebay_plan::physical::{ArgumentValue, EnvironmentSpec, PhysicalPlan, Python, Returns, TableForm, Work};
use forebay_runtime::CancelToken;
use forebay_types::Coded;

use crate::event::{NodeError, WorkerEvent};
use crate::{Worker, run};

/// Files of a project that are looked at for what they import.
const FILES_READ_MAX: usize = 200;

/// An environment that nodes wait for.
pub struct Gate {
    /// `Python 3.11 with pandas 2.0`
    pub label: String,
    request: EnvironmentRequest,
    /// Files of the nodes that wait for it.
    files: BTreeSet<String>,
}

impl Gate {
    /// What those files import, and what the project's files that they import do.
    fn imports(&self, project: &Path) -> Vec<String> {
        let mut modules = BTreeSet::new();
        let mut files: Vec<PathBuf> = self.files.iter().map(|file| project.join(file)).collect();
        let mut seen = BTreeSet::new();
        while let Some(file) = files.pop() {
            if seen.len() >= FILES_READ_MAX || !seen.insert(file.clone()) {
                continue;
            }
            let Ok(text) = std::fs::read_to_string(&file) else { continue };
            for module in forebay_plan::imported(&text) {
                let path = module.replace('.', "/");
                let beside = [project, file.parent().unwrap_or(project)];
                let own =
                    beside.iter().flat_map(|folder| [folder.join(format!("{path}.py")), folder.join(&path).join("__init__.py")]);
                match own.into_iter().find(|file| file.is_file()) {
                    Some(file) => files.push(file),
                    None => drop(modules.insert(module)),
                }
            }
        }
        modules.into_iter().collect()
    }
}

/// What a Python process is started with.
#[derive(Clone)]
pub struct Ready {
    /// The environment.
    pub environment: Environment,
    /// The folder that holds the package `forebay`.
    pub runtime: PathBuf,
    /// Modules that the nodes which wait for it import.
    pub imports: Vec<String>,
}

/// The distinct environments of a plan, and the index of each node's.
pub fn gates(plan: &PhysicalPlan) -> (Vec<Gate>, Vec<Option<usize>>) {
    let mut gates = Vec::new();
    let mut known: HashMap<&EnvironmentSpec, usize> = HashMap::new();
    let gate_of = plan.nodes.iter().map(|node| {
        let Work::Python(python) = &node.work else { return None };
        let index = *known.entry(&python.environment).or_insert_with(|| {
            gates.push(gate(&python.environment));
            gates.len() - 1
        });
        gates[index].files.insert(python.file.clone());
        Some(index)
    });
    let gate_of = gate_of.collect();
    (gates, gate_of)
}

fn gate(spec: &EnvironmentSpec) -> Gate {
    let packages: Vec<String> =
        spec.packages.iter().map(|(name, version)| format!("{name} {version}").trim().to_owned()).collect();
    let with = if packages.is_empty() { String::new() } else { format!(" with {}", packages.join(", ")) };
    Gate {
        label: format!("Python {}{with}", spec.python),
        request: EnvironmentRequest { python: spec.python.clone(), packages: spec.packages.clone(), needs: spec.needs.clone() },
        files: BTreeSet::new(),
    }
}

/// Makes the environment, or finds it: with the versions of the project's `forebay.lock`, if that has them. While a new one is
/// tried, `ahead` may get ready for it, which is part of trying it.
pub fn prepare(
    worker: &Worker,
    gate: &Gate,
    project: &Path,
    events: &(dyn Fn(WorkerEvent) + Sync),
    cancel: &CancelToken,
    ahead: &(dyn Fn(Ready) -> Option<Box<dyn Trial>> + Sync),
) -> Result<Ready, NodeError> {
    let runtime = worker.runtime.folder().map_err(|failure| run::node_error(&failure))?;
    let ready = |environment: &Environment| {
        let imports = forebay_runtime::installed(&environment.python, &gate.imports(project));
        Ready { environment: environment.clone(), runtime: runtime.clone(), imports }
    };
    let assembled = |environment: &Environment| ahead(ready(environment));
    let watch = Progress { gate, events, cancel, assembled: &assembled };
    let found = pinned(gate, project, events).and_then(|pinned| {
        let environment = worker.environments.prepare(&gate.request, pinned.as_ref(), &watch)?;
        Ok((environment, pinned.is_some()))
    });
    let (environment, pinned) = found.map_err(|error| NodeError { report: error.report(), traceback: None })?;
    events(WorkerEvent::EnvironmentReady { environment: environment.clone(), pinned });
    Ok(ready(&environment))
}

/// What the project's `forebay.lock` says about an environment; if it is stale, the user is told.
fn pinned(gate: &Gate, project: &Path, events: &dyn Fn(WorkerEvent)) -> Result<Option<Lock>, forebay_envs::Error> {
    let Some(project_lock) = ProjectLock::load(project)? else { return Ok(None) };
    let found = project_lock.find(&gate.request)?;
    if found.is_none() {
        let text = format!("`{LOCK_FILE}` is stale: it says nothing about {}; write it anew with `forebay env lock`", gate.label);
        events(WorkerEvent::Warning { text });
    }
    Ok(found)
}

struct Progress<'a> {
    gate: &'a Gate,
    events: &'a (dyn Fn(WorkerEvent) + Sync),
    cancel: &'a CancelToken,
    assembled: &'a (dyn Fn(&Environment) -> Option<Box<dyn Trial>> + Sync),
}

impl Watch for Progress<'_> {
    fn progress(&self, text: &str) {
        (self.events)(WorkerEvent::EnvironmentProgress { environment: self.gate.label.clone(), text: text.to_owned() });
    }
    fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }
    fn child_started(&self, group: u32) {
        self.cancel.enter(group);
    }
    fn child_ended(&self, group: u32) {
        self.cancel.leave(group);
    }
    fn assembled(&self, environment: &Environment) -> Option<Box<dyn Trial + '_>> {
        (self.assembled)(environment)
    }
}

/// Packages a process imports while it waits for its call: those the hand-over of its tables needs anyway.
pub fn warm(python: &Python, environment: &Environment) -> Vec<String> {
    let forms = python.arguments.iter().filter_map(|argument| match &argument.value {
        ArgumentValue::Table(form) => Some(*form),
        ArgumentValue::Literal(_) => None,
    });
    let mut packages = Vec::new();
    for form in forms {
        packages.extend_from_slice(match form {
            TableForm::PyArrow | TableForm::RecordBatchReader => &["pyarrow"],
            TableForm::Pandas => &["pyarrow", "pandas"],
            TableForm::Polars | TableForm::PolarsLazy => &["polars"],
            TableForm::DuckDb => &["pyarrow", "duckdb"],
        });
    }
    if packages.is_empty() && python.returns == Returns::Table {
        packages.push("pyarrow");
    }
    let mut seen = Vec::new();
    for package in packages {
        if environment.package(package).is_some() && !seen.contains(&package) {
            seen.push(package);
        }
    }
    seen.into_iter().map(str::to_owned).collect()
}
