//! Making an environment ahead: while the index is asked what is newest, what it said last time is made from uv's cache.
//!
//! ```text
//! uv pip compile ───────────── index ─────────────▶ lock ── the same? ─▶ done
//! uv pip compile --offline ─▶ lock ─▶ environment ─┘         └ another ─▶ given up, and the right one is made
//! ```
//!
//! Mostly the index says what it said before, and asking takes as long as making. Invariant: the index has the last word; an
//! environment that it did not confirm is at most one that nobody asks for, and removed as such.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use crate::build::Built;
use crate::lock::Lock;
use crate::resolve::{self, Question};
use crate::{Environment, Error, Tools, Trial, Watch, uv};

/// Resolves; with what `build` has made of the lock meanwhile, if it has.
pub(crate) fn resolve(
    tools: &Tools<'_>,
    question: &Question<'_>,
    build: &(dyn Fn(&Tools<'_>, &Lock) -> Result<Option<Built>, Error> + Sync),
) -> Result<(Lock, Option<Built>), Error> {
    if tools.offline || question.leaves_no_choice() {
        return Ok((resolve::resolve(tools, question)?, None));
    }
    let guess = Guess { watch: tools.watch, state: Mutex::default() };
    let make = || {
        // What is not in the cache is left to those who may download and build.
        let tools = Tools { offline: true, confinement: None, watch: &guess, ..*tools };
        let lock = resolve::resolve(&tools, question).ok()?;
        guess.lock().text = Some(lock.text.clone());
        Some((build(&tools, &lock), lock))
    };
    std::thread::scope(|scope| {
        // Without a thread nothing is made ahead.
        let made = Builder::new().name("ahead".to_owned()).spawn_scoped(scope, make);
        let lock = resolve::resolve(tools, question);
        if !matches!(&lock, Ok(lock) if guess.lock().text.as_deref() == Some(lock.text.as_str())) {
            guess.give_up();
        }
        let made = made.ok().and_then(|thread| thread.join().ok().flatten());
        let lock = lock?;
        match made {
            Some((Ok(built), made)) if made.text == lock.text => Ok((lock, built)),
            // Whatever went wrong is found again, and told, by who makes it in earnest.
            _ => Ok((lock, None)),
        }
    })
}

/// Watches what is made ahead, for as long as it may turn out to be right.
struct Guess<'a> {
    watch: &'a dyn Watch,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    text: Option<String>,
    given_up: bool,
    groups: HashSet<u32>,
}

impl Guess<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give_up(&self) {
        let mut state = self.lock();
        state.given_up = true;
        state.groups.iter().copied().for_each(uv::kill_group);
    }
}

impl Watch for Guess<'_> {
    fn progress(&self, text: &str) {
        // That it is resolved is said by the other one.
        if self.lock().text.is_some() {
            self.watch.progress(text);
        }
    }
    fn is_cancelled(&self) -> bool {
        self.watch.is_cancelled() || self.lock().given_up
    }
    fn child_started(&self, group: u32) {
        self.watch.child_started(group);
        let mut state = self.lock();
        state.groups.insert(group);
        if state.given_up {
            uv::kill_group(group);
        }
    }
    fn child_ended(&self, group: u32) {
        self.lock().groups.remove(&group);
        self.watch.child_ended(group);
    }
    fn assembled(&self, environment: &Environment) -> Option<Box<dyn Trial + '_>> {
        if self.lock().given_up { None } else { self.watch.assembled(environment) }
    }
}
