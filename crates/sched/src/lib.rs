//! Which task of a run starts when: a pure state machine, `step(event) -> actions`.
//!
//! ```text
//!            inputs and gates finished,          Finished
//! waiting ───── a slot and memory free ──▶ running ───▶ finished ──▶ released (last consumer ended)
//!    │                                        │ Failed
//!    └──▶ skipped (run stops)                 └──▶ ended
//! ```
//!
//! It starts nothing, reads no clock and knows no process. Invariants, each property-tested against a naive model:
//! a task starts at most once, and only after everything it needs has finished; never more than
//! [`Limits::parallel_max`] slots are taken; a table is released exactly once, when its last consumer has ended;
//! after a failure nothing starts, what runs is cancelled once, and [`Action::Done`] comes when nothing runs.

mod limits;
#[cfg(test)]
mod tests;

pub use limits::TASKS_MAX;

/// Index of a task.
pub type TaskId = usize;

/// One thing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Tasks whose tables it reads. They stay in memory until it has ended.
    pub inputs: Vec<TaskId>,
    /// Tasks that must have finished before it starts, without handing over anything (its environment).
    pub after: Vec<TaskId>,
    /// Slots it takes while it runs; 0 for work that waits on the network rather than on a processor.
    pub slots: usize,
    /// Memory it needs while it runs; 0: unknown, always admitted.
    pub memory_bytes: u64,
    /// Whether its table is wanted after the run, so that it is never released.
    pub kept: bool,
    /// Whether its process may be started before its inputs are there.
    pub warmable: bool,
}

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Slots taken at the same time; at least 1.
    pub parallel_max: usize,
    /// Memory of all running tasks together; a task that alone needs more runs alone.
    pub memory_bytes_max: Option<u64>,
    /// Processes started ahead of their inputs.
    pub warm_max: usize,
}

/// What happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The run begins.
    Begin,
    /// A running task has its result.
    Finished(TaskId),
    /// A running task ended without a result: it failed, or it was cancelled as asked.
    Failed(TaskId),
    /// The caller gives up.
    Cancel,
}

/// What to do now, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Run it.
    Start(TaskId),
    /// Start its process, without its inputs; [`Action::Start`] or [`Action::Skip`] follows.
    Warm(TaskId),
    /// Nobody needs its table any more.
    Release(TaskId),
    /// It will not run.
    Skip(TaskId),
    /// Kill it; it answers with `Finished` or `Failed`.
    Cancel(TaskId),
    /// Nothing runs and nothing will. Always the last action.
    Done,
}

/// Why a waiting task waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blocker {
    /// These tasks have not finished.
    Tasks(Vec<TaskId>),
    /// All slots are taken.
    Slots,
    /// It needs so many bytes, so many are free.
    Memory {
        /// Bytes it needs.
        needed: u64,
        /// Bytes not promised to a running task.
        free: u64,
    },
}

/// A graph that cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Tasks must come after what they need.
    #[error("task {task} needs task {needs}, which does not come before it")]
    Order {
        /// The task.
        task: TaskId,
        /// What it needs.
        needs: TaskId,
    },
    /// More than [`TASKS_MAX`] tasks.
    #[error("a run has at most {TASKS_MAX} functions, this one has {0}")]
    TooMany(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting {
        warm: bool,
    },
    Running,
    Finished,
    /// Failed, cancelled or skipped.
    Ended,
}

/// The state machine of one run.
#[derive(Debug, Clone)]
pub struct Scheduler {
    tasks: Vec<Task>,
    limits: Limits,
    states: Vec<State>,
    /// Consumers that have not ended, per task.
    consumers: Vec<usize>,
    stopping: bool,
    done: bool,
}

impl Scheduler {
    /// A run of `tasks`, which must be in topological order. Nothing happens before [`Event::Begin`].
    pub fn new(tasks: Vec<Task>, limits: Limits) -> Result<Self, Error> {
        if tasks.len() > TASKS_MAX {
            return Err(Error::TooMany(tasks.len()));
        }
        let mut consumers = vec![0; tasks.len()];
        for (task, spec) in tasks.iter().enumerate() {
            if let Some(&needs) = spec.inputs.iter().chain(&spec.after).find(|&&needs| needs >= task) {
                return Err(Error::Order { task, needs });
            }
            for &input in &spec.inputs {
                consumers[input] += 1;
            }
        }
        let states = vec![State::Waiting { warm: false }; tasks.len()];
        let limits = Limits { parallel_max: limits.parallel_max.max(1), ..limits };
        Ok(Self { tasks, limits, states, consumers, stopping: false, done: false })
    }

    /// Takes one event in, gives what to do because of it. Events of tasks that do not run are ignored:
    /// a cancelled task may still finish, and both may be reported.
    pub fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.done {
            return actions;
        }
        match event {
            Event::Begin => {}
            Event::Finished(id) if self.runs(id) => self.finish(id, &mut actions),
            Event::Failed(id) if self.runs(id) => {
                self.end(id, &mut actions);
                self.stop(&mut actions);
            }
            Event::Finished(_) | Event::Failed(_) => return actions,
            Event::Cancel => self.stop(&mut actions),
        }
        if !self.stopping {
            self.start_ready(&mut actions);
            self.warm_next(&mut actions);
        }
        if !self.states.iter().any(|state| matches!(state, State::Waiting { .. } | State::Running)) {
            self.done = true;
            actions.push(Action::Done);
        }
        actions
    }

    /// Why a task waits; `None` if it does not.
    #[must_use]
    pub fn blocker(&self, id: TaskId) -> Option<Blocker> {
        if !matches!(self.states.get(id)?, State::Waiting { .. }) {
            return None;
        }
        let missing = self.missing(id);
        if !missing.is_empty() {
            return Some(Blocker::Tasks(missing));
        }
        let task = &self.tasks[id];
        let (slots, memory) = self.in_use();
        if task.slots > 0 && slots + self.slots_of(task) > self.limits.parallel_max {
            return Some(Blocker::Slots);
        }
        let free = self.limits.memory_bytes_max?.saturating_sub(memory);
        // A task that is larger than the whole budget must still run once: alone.
        (task.memory_bytes > free && memory > 0).then_some(Blocker::Memory { needed: task.memory_bytes, free })
    }

    fn runs(&self, id: TaskId) -> bool {
        self.states.get(id) == Some(&State::Running)
    }

    fn missing(&self, id: TaskId) -> Vec<TaskId> {
        let task = &self.tasks[id];
        task.inputs.iter().chain(&task.after).copied().filter(|&n| self.states[n] != State::Finished).collect()
    }

    /// Slots and bytes of what runs.
    fn in_use(&self) -> (usize, u64) {
        let running = self.tasks.iter().zip(&self.states).filter(|(_, state)| **state == State::Running);
        running.fold((0, 0), |(slots, bytes), (task, _)| (slots + self.slots_of(task), bytes.saturating_add(task.memory_bytes)))
    }

    /// A task that asks for more slots than there are gets all of them.
    fn slots_of(&self, task: &Task) -> usize {
        task.slots.min(self.limits.parallel_max)
    }

    fn finish(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        self.states[id] = State::Finished;
        if self.consumers[id] == 0 && !self.tasks[id].kept {
            actions.push(Action::Release(id));
        }
        self.let_go_of_inputs(id, actions);
    }

    fn end(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        self.states[id] = State::Ended;
        self.let_go_of_inputs(id, actions);
    }

    fn let_go_of_inputs(&mut self, id: TaskId, actions: &mut Vec<Action>) {
        for input in self.tasks[id].inputs.clone() {
            self.consumers[input] -= 1;
            if self.consumers[input] == 0 && self.states[input] == State::Finished && !self.tasks[input].kept {
                actions.push(Action::Release(input));
            }
        }
    }

    fn stop(&mut self, actions: &mut Vec<Action>) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        for id in 0..self.tasks.len() {
            match self.states[id] {
                State::Waiting { .. } => {
                    actions.push(Action::Skip(id));
                    self.end(id, actions);
                }
                State::Running => actions.push(Action::Cancel(id)),
                State::Finished | State::Ended => {}
            }
        }
    }

    fn start_ready(&mut self, actions: &mut Vec<Action>) {
        for id in 0..self.tasks.len() {
            if matches!(self.states[id], State::Waiting { .. }) && self.blocker(id).is_none() {
                self.states[id] = State::Running;
                actions.push(Action::Start(id));
            }
        }
    }

    /// Warms the next tasks in order, as far as only their tables are missing.
    fn warm_next(&mut self, actions: &mut Vec<Action>) {
        let mut warm = self.states.iter().filter(|state| **state == State::Waiting { warm: true }).count();
        for id in 0..self.tasks.len() {
            if warm >= self.limits.warm_max {
                return;
            }
            let open = self.tasks[id].after.iter().all(|&gate| self.states[gate] == State::Finished);
            if self.tasks[id].warmable && open && self.states[id] == (State::Waiting { warm: false }) {
                self.states[id] = State::Waiting { warm: true };
                warm += 1;
                actions.push(Action::Warm(id));
            }
        }
    }
}
