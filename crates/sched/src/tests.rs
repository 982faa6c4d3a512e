//! The scheduler against a naive model: a list of facts that must hold whatever the order of events.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn task(inputs: &[TaskId]) -> Task {
    Task { inputs: inputs.to_vec(), slots: 1, ..Task::default() }
}

fn limits(parallel_max: usize) -> Limits {
    Limits { parallel_max, memory_bytes_max: None, warm_max: 0 }
}

#[test]
fn a_chain_runs_in_order_and_lets_go() {
    let mut scheduler = Scheduler::new(vec![task(&[]), task(&[0]), task(&[1])], limits(2)).unwrap();
    assert_eq!(scheduler.step(Event::Begin), [Action::Start(0)]);
    assert_eq!(scheduler.blocker(2), Some(Blocker::Tasks(vec![1])));
    assert_eq!(scheduler.step(Event::Finished(0)), [Action::Start(1)]);
    assert_eq!(scheduler.step(Event::Finished(1)), [Action::Release(0), Action::Start(2)]);
    assert_eq!(scheduler.step(Event::Finished(2)), [Action::Release(2), Action::Release(1), Action::Done]);
    assert_eq!(scheduler.step(Event::Finished(2)), []);
}

#[test]
fn a_failure_stops_everything() {
    let mut scheduler = Scheduler::new(vec![task(&[]), task(&[]), task(&[0]), task(&[])], limits(2)).unwrap();
    assert_eq!(scheduler.step(Event::Begin), [Action::Start(0), Action::Start(1)]);
    assert_eq!(scheduler.blocker(3), Some(Blocker::Slots));
    assert_eq!(scheduler.step(Event::Failed(0)), [Action::Cancel(1), Action::Skip(2), Action::Skip(3)]);
    assert_eq!(scheduler.step(Event::Cancel), []);
    assert_eq!(scheduler.step(Event::Failed(1)), [Action::Done]);
}

#[test]
fn memory_admits_what_fits_and_names_the_blocker() {
    let needs = |memory_bytes| Task { memory_bytes, slots: 1, ..Task::default() };
    let bounds = Limits { parallel_max: 8, memory_bytes_max: Some(10), warm_max: 0 };
    let mut scheduler = Scheduler::new(vec![needs(6), needs(6), needs(4), needs(99)], bounds).unwrap();
    assert_eq!(scheduler.step(Event::Begin), [Action::Start(0), Action::Start(2)]);
    assert_eq!(scheduler.blocker(1), Some(Blocker::Memory { needed: 6, free: 0 }));
    assert_eq!(scheduler.step(Event::Finished(2)), [Action::Release(2)]);
    assert_eq!(scheduler.step(Event::Finished(0)), [Action::Release(0), Action::Start(1)]);
    assert_eq!(scheduler.step(Event::Finished(1)), [Action::Release(1), Action::Start(3)]);
}

#[test]
fn gates_hold_back_and_processes_start_ahead() {
    let gate = Task::default();
    let model = |inputs: &[TaskId]| Task { after: vec![0], warmable: true, ..task(inputs) };
    let bounds = Limits { parallel_max: 1, memory_bytes_max: None, warm_max: 1 };
    let mut scheduler = Scheduler::new(vec![gate, task(&[]), model(&[1]), model(&[2])], bounds).unwrap();
    assert_eq!(scheduler.step(Event::Begin), [Action::Start(0), Action::Start(1)]);
    assert_eq!(scheduler.step(Event::Finished(0)), [Action::Release(0), Action::Warm(2)]);
    assert_eq!(scheduler.step(Event::Finished(1)), [Action::Start(2), Action::Warm(3)]);
}

#[test]
fn disorder_and_excess_are_refused() {
    assert_eq!(Scheduler::new(vec![task(&[1]), task(&[])], limits(1)).unwrap_err(), Error::Order { task: 0, needs: 1 });
    let many = vec![Task::default(); TASKS_MAX + 1];
    assert_eq!(Scheduler::new(many, limits(1)).unwrap_err(), Error::TooMany(TASKS_MAX + 1));
}

#[test]
fn an_empty_run_is_done_at_once() {
    assert_eq!(Scheduler::new(vec![], limits(1)).unwrap().step(Event::Begin), [Action::Done]);
}

/// Everything that happened, kept apart from the scheduler's own books.
#[derive(Default)]
struct World {
    started: BTreeSet<TaskId>,
    running: BTreeSet<TaskId>,
    finished: BTreeSet<TaskId>,
    skipped: BTreeSet<TaskId>,
    cancelled: BTreeSet<TaskId>,
    warmed: BTreeSet<TaskId>,
    released: BTreeMap<TaskId, usize>,
    ended: BTreeSet<TaskId>,
    failed: bool,
    done: bool,
}

impl World {
    fn apply(&mut self, tasks: &[Task], bounds: Limits, actions: &[Action]) {
        for action in actions {
            assert!(!self.done, "nothing comes after Done");
            match *action {
                Action::Start(id) => {
                    assert!(!self.failed, "nothing starts after a failure");
                    assert!(self.started.insert(id), "a task starts once");
                    let needs = tasks[id].inputs.iter().chain(&tasks[id].after);
                    assert!(needs.into_iter().all(|n| self.finished.contains(n)), "inputs first");
                    self.running.insert(id);
                    let slots: usize = self.running.iter().map(|&r| tasks[r].slots.min(bounds.parallel_max)).sum();
                    assert!(slots <= bounds.parallel_max, "never more than the limit");
                    let bytes: u64 = self.running.iter().map(|&r| tasks[r].memory_bytes).sum();
                    let demanding = self.running.iter().filter(|&&r| tasks[r].memory_bytes > 0).count();
                    assert!(bounds.memory_bytes_max.is_none_or(|max| bytes <= max || demanding == 1));
                }
                Action::Warm(id) => {
                    assert!(tasks[id].warmable && !self.started.contains(&id) && self.warmed.insert(id));
                    assert!(tasks[id].after.iter().all(|gate| self.finished.contains(gate)));
                }
                Action::Release(id) => {
                    assert!(self.finished.contains(&id) && !tasks[id].kept);
                    *self.released.entry(id).or_default() += 1;
                }
                Action::Skip(id) => {
                    assert!(self.failed && !self.started.contains(&id) && self.skipped.insert(id));
                    self.ended.insert(id);
                }
                Action::Cancel(id) => assert!(self.running.contains(&id) && self.cancelled.insert(id)),
                Action::Done => self.done = true,
            }
        }
        let waiting_warm = self.warmed.iter().filter(|id| !self.started.contains(id) && !self.skipped.contains(id)).count();
        assert!(waiting_warm <= bounds.warm_max);
        for id in 0..tasks.len() {
            let in_use = tasks.iter().enumerate().any(|(c, t)| t.inputs.contains(&id) && !self.ended.contains(&c));
            let free = self.finished.contains(&id) && !in_use && !tasks[id].kept;
            assert_eq!(self.released.get(&id).copied().unwrap_or(0), usize::from(free), "released exactly when unused: {id}");
        }
    }
}

prop_compose! {
    fn graph()(raw in prop::collection::vec((prop::collection::vec(any::<prop::sample::Index>(), 0..4), 0usize..3, 0u64..5, any::<(bool, bool, bool)>()), 1..12)) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::new();
        for (id, (edges, slots, memory_bytes, (kept, warmable, gated))) in raw.into_iter().enumerate() {
            let mut inputs: Vec<TaskId> = if id == 0 { vec![] } else { edges.iter().map(|e| e.index(id)).collect() };
            let after = if gated { inputs.pop().into_iter().collect() } else { vec![] };
            tasks.push(Task { inputs, after, slots, memory_bytes, kept, warmable });
        }
        tasks
    }
}

proptest! {
    #[test]
    fn holds_for_any_graph_and_any_order(
        tasks in graph(),
        parallel_max in 1usize..4,
        memory in prop::option::of(1u64..8),
        warm_max in 0usize..3,
        choices in prop::collection::vec((any::<prop::sample::Index>(), 0u8..20), 40),
    ) {
        let bounds = Limits { parallel_max, memory_bytes_max: memory, warm_max };
        let mut scheduler = Scheduler::new(tasks.clone(), bounds).unwrap();
        let mut world = World::default();
        let actions = scheduler.step(Event::Begin);
        world.apply(&tasks, bounds, &actions);
        for (choice, fate) in choices {
            if world.done { break; }
            prop_assert!(!world.running.is_empty(), "a run that is not done has something running");
            let id = *choice.get(&world.running.iter().copied().collect::<Vec<_>>());
            let event = match fate {
                0 => Event::Cancel,
                1 => Event::Failed(id),
                _ if world.cancelled.contains(&id) && fate % 2 == 0 => Event::Failed(id),
                _ => Event::Finished(id),
            };
            match event {
                Event::Finished(_) => { world.running.remove(&id); world.finished.insert(id); world.ended.insert(id); }
                Event::Failed(_) => { world.running.remove(&id); world.ended.insert(id); world.failed = true; }
                Event::Cancel | Event::Begin => world.failed = true,
            }
            let actions = scheduler.step(event);
            world.apply(&tasks, bounds, &actions);
        }
        if world.done {
            prop_assert!(world.running.is_empty());
            prop_assert_eq!(world.ended.len(), tasks.len());
            prop_assert!(world.failed || world.finished.len() == tasks.len());
        }
    }
}
