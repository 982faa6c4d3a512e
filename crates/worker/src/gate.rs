//! Environments of a run: which ones its nodes need, and making them.

use std::collections::HashMap;
use std::path::PathBuf;

use forebay_envs::{Environment, EnvironmentRequest, Watch};
use forebay_plan::physical::{ArgumentValue, EnvironmentSpec, PhysicalPlan, Python, Returns, TableForm, Work};
use forebay_runtime::CancelToken;
use forebay_types::Coded;

use crate::event::{NodeError, WorkerEvent};
use crate::{Worker, run};

/// An environment that nodes wait for.
pub struct Gate {
    /// `Python 3.11 with pandas 2.0`
    pub label: String,
    request: EnvironmentRequest,
}

/// What a Python process is started with.
#[derive(Clone)]
pub struct Ready {
    /// The environment.
    pub environment: Environment,
    /// The folder that holds the package `forebay`.
    pub runtime: PathBuf,
}

/// The distinct environments of a plan, and the index of each node's.
pub fn gates(plan: &PhysicalPlan) -> (Vec<Gate>, Vec<Option<usize>>) {
    let mut gates = Vec::new();
    let mut known: HashMap<&EnvironmentSpec, usize> = HashMap::new();
    let gate_of = plan.nodes.iter().map(|node| {
        let Work::Python(python) = &node.work else { return None };
        Some(*known.entry(&python.environment).or_insert_with(|| {
            gates.push(gate(&python.environment));
            gates.len() - 1
        }))
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
        // Tables are handed over as pyarrow unless the function asks for something else, and pandas needs it too.
        request: EnvironmentRequest {
            python: spec.python.clone(),
            packages: spec.packages.clone(),
            needs: vec!["pyarrow".to_owned()],
        },
    }
}

/// Makes the environment, or finds it.
pub fn prepare(
    worker: &Worker,
    gate: &Gate,
    events: &(dyn Fn(WorkerEvent) + Sync),
    cancel: &CancelToken,
) -> Result<Ready, NodeError> {
    let watch = Progress { gate, events, cancel };
    let runtime = worker.runtime.folder().map_err(|failure| run::node_error(&failure))?;
    let environment = worker.environments.prepare(&gate.request, &watch);
    let environment = environment.map_err(|error| NodeError { report: error.report(), traceback: None })?;
    Ok(Ready { environment, runtime })
}

struct Progress<'a> {
    gate: &'a Gate,
    events: &'a (dyn Fn(WorkerEvent) + Sync),
    cancel: &'a CancelToken,
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
