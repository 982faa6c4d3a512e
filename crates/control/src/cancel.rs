//! One-way switch that ends a job early. Any thread may throw it, any number of times; the first reason stays.

use std::sync::{Arc, Mutex, PoisonError};

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    why: Option<&'static str>,
    hooks: Vec<Hook>,
}

/// A handle to the switch of one job; clones share it.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

impl Cancel {
    /// Asks the job to end. Hooks run on the calling thread, once.
    pub fn cancel(&self, why: &'static str) {
        let hooks = {
            let mut state = self.lock();
            state.why.get_or_insert(why);
            std::mem::take(&mut state.hooks)
        };
        for hook in hooks {
            hook();
        }
    }

    /// Why the job shall end, if it shall.
    #[must_use]
    pub fn why(&self) -> Option<&'static str> {
        self.lock().why
    }

    /// Runs `hook` when the switch is thrown; at once if it was.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.lock();
            if state.why.is_none() {
                state.hooks.push(Box::new(hook));
                return;
            }
        }
        hook();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancel").field(&self.why()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn hooks_run_once_and_the_first_reason_stays() {
        let cancel = Cancel::default();
        let count = Arc::new(AtomicUsize::new(0));
        let hook = || {
            let count = Arc::clone(&count);
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        cancel.on_cancel(hook());
        assert_eq!(cancel.why(), None);
        cancel.cancel("first");
        cancel.cancel("second");
        cancel.on_cancel(hook());
        assert_eq!((cancel.why(), count.load(Ordering::SeqCst)), (Some("first"), 2));
    }
}
