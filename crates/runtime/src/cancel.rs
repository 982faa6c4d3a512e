//! A one-way switch that ends a run: throwing it kills every process group and every function that runs for it, at once.
//!
//! A function is named by a descriptor, which means nothing else, ever. A group is registered from its start until just before its leader is reaped, so that its number cannot have been
//! given to another process when it is killed. Whoever registers after the switch was thrown is killed on registration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forebay_sandbox::Killer;
use rustix::process::{Pid, Signal, kill_process_group};

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    groups: BTreeSet<u32>,
    functions: BTreeMap<u64, Arc<Killer>>,
    next: u64,
    hooks: Vec<Hook>,
}

/// The switch; clones share it.
#[derive(Clone, Default)]
pub struct CancelToken {
    thrown: Arc<AtomicBool>,
    state: Arc<Mutex<State>>,
}

impl CancelToken {
    /// Ends everything that runs under this token. Returns when all groups have been sent SIGKILL.
    pub fn cancel(&self) {
        let hooks = {
            let mut state = self.lock();
            self.thrown.store(true, Ordering::SeqCst);
            state.groups.iter().copied().for_each(kill_group);
            state.functions.values().for_each(|function| function.kill());
            std::mem::take(&mut state.hooks)
        };
        hooks.into_iter().for_each(|hook| hook());
    }

    /// Whether the switch was thrown.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.thrown.load(Ordering::SeqCst)
    }

    /// Runs `hook` on the thread that throws the switch; at once if it was thrown.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.lock();
            if !self.is_cancelled() {
                state.hooks.push(Box::new(hook));
                return;
            }
        }
        hook();
    }

    /// Registers a process group whose leader has this id.
    pub fn enter(&self, group: u32) {
        let mut state = self.lock();
        state.groups.insert(group);
        if self.is_cancelled() {
            kill_group(group);
        }
    }

    /// Forgets a group. Its leader may be reaped after this.
    pub fn leave(&self, group: u32) {
        self.lock().groups.remove(&group);
    }

    /// Registers a function; gives its place, for [`CancelToken::release`].
    pub(crate) fn guard(&self, function: &Arc<Killer>) -> u64 {
        let mut state = self.lock();
        state.next += 1;
        let place = state.next;
        state.functions.insert(place, Arc::clone(function));
        if self.is_cancelled() {
            function.kill();
        }
        place
    }

    /// Forgets a function.
    pub(crate) fn release(&self, place: u64) {
        self.lock().functions.remove(&place);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CancelToken").field(&self.is_cancelled()).finish()
    }
}

/// Kills a process group whose leader has not been reaped. A group that has ended already is what was wanted.
fn kill_group(group: u32) {
    if let Some(pid) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::{Child, Command};
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").process_group(0).spawn().unwrap()
    }

    #[test]
    fn kills_what_runs_and_what_comes_later() {
        let (mut early, mut gone, mut late) = (sleeper(), sleeper(), sleeper());
        let token = CancelToken::default();
        token.enter(early.id());
        token.enter(gone.id());
        token.leave(gone.id());
        token.cancel();
        assert_eq!(early.wait().unwrap().signal(), Some(9));
        assert!(gone.try_wait().unwrap().is_none(), "a group that left is not touched");
        token.enter(late.id());
        assert_eq!(late.wait().unwrap().signal(), Some(9));
        gone.kill().unwrap();
        gone.wait().unwrap();
    }

    #[test]
    fn hooks_run_once() {
        let token = CancelToken::default();
        let count = Arc::new(AtomicUsize::new(0));
        let hook = || {
            let count = Arc::clone(&count);
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        token.on_cancel(hook());
        token.cancel();
        token.cancel();
        token.on_cancel(hook());
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }
}
