//! The zygotes of a supervisor: which there are, which children wait, and which go when memory is short.
//!
//! ```text
//! function ─▶ a child that waits for a call ──────────────────────────┐
//!         └─▶ a child that waits to be told which function it is ────┤
//!              └─▶ fork of a zygote ─────────────────────────────────┼─▶ called once
//!                   └─▶ zygote is started; for a while the function waits, then it is started afresh
//! ```
//!
//! A zygote is named by all that its memory depends on: environment, our own package, modules, settings. What was learned about
//! modules that must not be in one is kept in the cache folder, per environment. Whatever goes wrong here, the function is
//! started afresh, as if there were no zygotes.
//!
//! Invariants: a child that waits for a call was forked for the same project and with the same limits as who gets it; the lock is not held
//! while a process is waited for (but when there are too many zygotes).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use forebay_envs::Trial;
use forebay_sandbox::Error;
use forebay_sandbox::zygote::Unborn;

use crate::cancel::CancelToken;
use crate::confine::{Access, Mode, Sandbox, Settings};
use crate::limits::{
    FORK_FAILURES_MAX, PARKED_BYTES, PARKED_MAX, TRIAL_WAIT, ZYGOTE_MODULES_MAX, ZYGOTE_WAIT, ZYGOTES_BYTES_MAX, ZYGOTES_MAX,
    ZYGOTES_MEMORY_PERCENT,
};
use crate::process::{Launch, Parts, ProcessLimits, Program};
use crate::zygote::{Stillborn, Zygote};

/// How soon a cancel is noticed while a zygote is waited for.
const CANCEL_CHECK: Duration = Duration::from_millis(50);

/// All that the memory of a zygote depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    python: PathBuf,
    runtime: PathBuf,
    modules: Vec<String>,
    threads: Option<usize>,
    /// A child that was made when less was enough is not for those who want everything.
    strict: bool,
    /// The folder that the projects lie in.
    projects: PathBuf,
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

enum Slot {
    Starting,
    Ready(Ready),
    /// None can be made, or no further one: functions are started afresh.
    Failed(String),
}

struct Ready {
    zygote: Arc<Zygote>,
    waiting: Waiting,
    uses: u64,
    used_at: Instant,
    /// For whom children are to wait: the functions that were called first since the last refill, which are likely to be called
    /// first again.
    ahead: Ahead,
}

/// Children that should wait: the project, and the limit of memory of each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Ahead {
    project: PathBuf,
    limits: Vec<Option<u64>>,
    /// The next function begins a new list.
    is_over: bool,
}

/// What a child that waits was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Purpose {
    project: PathBuf,
    memory_bytes: Option<u64>,
}

/// A zygote, and the children that are missing.
struct Wanted {
    key: Key,
    zygote: Arc<Zygote>,
    children: Vec<Purpose>,
    /// How many more that may become any function.
    unborn: usize,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<Key, Slot>,
    failures: BTreeMap<String, u32>,
}

/// The zygotes of one supervisor.
pub struct Zygotes {
    sandbox: Arc<Sandbox>,
    /// What was learned.
    denied: PathBuf,
    bytes_max: u64,
    state: Arc<(Mutex<State>, Condvar)>,
}

/// A zygote, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZygoteStatus {
    /// Hash of its environment.
    pub environment: String,
    /// What it has imported.
    pub modules: Vec<String>,
    /// `starting`, `ready`, or why there is none.
    pub state: String,
    /// Private memory, in bytes.
    pub bytes: u64,
    /// Children that wait for a call.
    pub parked: usize,
    /// Children so far.
    pub forks: u64,
}

impl Zygotes {
    /// None yet. What is learned is kept in this cache folder. `FOREBAY_WARM_MAX` says how much memory they may hold; with 0 there
    /// are none.
    #[must_use]
    pub fn new(sandbox: Arc<Sandbox>, cache_dir: &Path) -> Self {
        let told = std::env::var("FOREBAY_WARM_MAX").ok().and_then(|text| forebay_envs::parse_bytes(&text));
        let bytes_max = told.unwrap_or_else(|| crate::confine::share(ZYGOTES_MEMORY_PERCENT).min(ZYGOTES_BYTES_MAX));
        Self { sandbox, denied: cache_dir.join("zygotes").join("denied.json"), bytes_max, state: Arc::default() }
    }

    /// A process for this function, forked from a zygote; `None`: there is none, or not yet.
    pub(crate) fn function(&self, launch: &Launch<'_>, cancel: &CancelToken) -> Option<Parts> {
        let (zygote, unborn, key) = match self.find(launch, cancel)? {
            Found::Waiting(parts) => return Some(parts),
            Found::Zygote { zygote, unborn, key } => (zygote, unborn, key),
        };
        // One that was killed while it waited says nothing of its zygote.
        let delivered = unborn.and_then(|unborn| zygote.fork(launch, Some(unborn)).ok());
        match delivered.map_or_else(|| zygote.fork(launch, None), Ok) {
            Ok(parts) => Some(parts),
            Err(error) => {
                self.gone_wrong(&key, &zygote, &error);
                None
            }
        }
    }

    /// Starts a zygote for functions as this one, which will be called soon. Waits for nothing. `None`: there is one, or there can be
    /// none.
    pub fn expect(&self, launch: &Launch<'_>) -> Option<Expected> {
        let key = self.key(launch)?;
        let mut state = self.lock();
        if state.slots.contains_key(&key) {
            return None;
        }
        self.start(&mut state, &key, launch)?;
        Some(Expected { state: Arc::clone(&self.state), key })
    }

    /// A child that waits, or a zygote to fork; waits for one that imports, for a while.
    fn find(&self, launch: &Launch<'_>, cancel: &CancelToken) -> Option<Found> {
        let mut key = self.key(launch)?;
        let (since, mut started) = (Instant::now(), false);
        let mut state = self.lock();
        loop {
            match state.slots.get_mut(&key) {
                Some(Slot::Ready(ready)) => {
                    return Some(match ready.take(launch) {
                        Some(parts) => Found::Waiting(parts),
                        None => {
                            let unborn = ready.waiting.unborn.pop();
                            Found::Zygote { zygote: Arc::clone(&ready.zygote), unborn, key: key.clone() }
                        }
                    });
                }
                Some(Slot::Failed(_)) => return None,
                Some(Slot::Starting) => {}
                None => {
                    // It may be gone because something was learned about a module of it.
                    let now = self.key(launch)?;
                    if started && now == key {
                        return None;
                    }
                    key = now;
                    self.start(&mut state, &key, launch)?;
                    started = true;
                }
            }
            let left = ZYGOTE_WAIT.checked_sub(since.elapsed()).filter(|_| !cancel.is_cancelled())?;
            // A cancel is noticed now and then.
            let left = left.min(CANCEL_CHECK);
            state = self.state.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forks children ahead: `wanted` for the functions that were run last, and as many for what else may come; drops what there is no
    /// room for. To be called when the machine has time.
    pub fn refill(&self, wanted: usize) {
        for Wanted { key, zygote, children, unborn } in self.wanted(wanted.min(PARKED_MAX)) {
            let program = Program::Python {
                python: key.python.clone(),
                runtime: key.runtime.clone(),
                warm: Vec::new(),
                imports: key.modules.clone(),
            };
            // What its functions are called with, whatever the settings are now.
            let mode = if key.strict { Mode::Strict } else { Mode::Auto };
            let settings = Settings { mode, read: key.read.clone(), write: key.write.clone() };
            for purpose in children {
                let launch = Launch {
                    node: "(waiting)",
                    program: &program,
                    folder: &purpose.project,
                    limits: ProcessLimits { threads: key.threads, memory_bytes: purpose.memory_bytes, timeout: None },
                    sandbox: &self.sandbox,
                    settings: &settings,
                    access: &Access::default(),
                    zygotes: None,
                };
                match zygote.fork(&launch, None) {
                    Ok(parts) => self.park(&key, purpose, parts),
                    Err(error) => {
                        self.gone_wrong(&key, &zygote, &error);
                        break;
                    }
                }
            }
            for _ in 0..unborn {
                match zygote.conceive(&self.sandbox) {
                    Ok(unborn) => self.keep(&key, unborn),
                    Err(error) => {
                        self.gone_wrong(&key, &zygote, &error);
                        break;
                    }
                }
            }
        }
        self.make_room();
    }

    /// All of them.
    #[must_use]
    pub fn status(&self) -> Vec<ZygoteStatus> {
        let state = self.lock();
        let status = |(key, slot): (&Key, &Slot)| {
            let none = ZygoteStatus {
                environment: environment(&key.python),
                modules: key.modules.clone(),
                state: "starting".to_owned(),
                bytes: 0,
                parked: 0,
                forks: 0,
            };
            match slot {
                Slot::Starting => none,
                Slot::Failed(why) => ZygoteStatus { state: why.clone(), ..none },
                Slot::Ready(ready) => ZygoteStatus {
                    state: "ready".to_owned(),
                    bytes: ready.bytes(),
                    parked: ready.waiting.parked.len(),
                    forks: ready.zygote.forks.load(Ordering::Relaxed),
                    ..none
                },
            }
        };
        state.slots.iter().map(status).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a zygote for this function would be; `None`: it cannot have one.
    fn key(&self, launch: &Launch<'_>) -> Option<Key> {
        let Program::Python { python, runtime, warm, imports } = launch.program else { return None };
        if self.bytes_max == 0 || launch.access.internet || launch.settings.mode == Mode::Off {
            return None;
        }
        let denied = read(&self.denied).remove(&environment(python)).unwrap_or_default();
        if denied.contains_key(EVERY_MODULE) {
            return None;
        }
        let mut modules: Vec<String> = imports.iter().chain(warm).cloned().collect();
        modules.sort();
        modules.dedup();
        let within =
            |module: &str, name: &str| module.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let is_denied = |module: &str| denied.keys().map(String::as_str).chain(HOARDERS).any(|name| within(module, name));
        modules.retain(|module| !is_denied(module));
        modules.truncate(ZYGOTE_MODULES_MAX);
        Some(Key {
            python: python.clone(),
            runtime: runtime.clone(),
            modules,
            threads: launch.limits.threads,
            strict: launch.settings.mode == Mode::Strict,
            projects: launch.folder.parent()?.to_owned(),
            read: launch.settings.read.clone(),
            write: launch.settings.write.clone(),
        })
    }

    /// Has a zygote started by a thread of its own.
    fn start(&self, state: &mut State, key: &Key, launch: &Launch<'_>) -> Option<()> {
        if state.slots.contains_key(key) {
            return Some(());
        }
        if state.slots.len() >= ZYGOTES_MAX {
            state.slots.retain(|_, slot| !matches!(slot, Slot::Failed(_)));
            if state.slots.len() >= ZYGOTES_MAX {
                drop(forget_one(state));
            }
        }
        let (confined, host) = match self.sandbox.confine_zygote(launch) {
            Ok(Some(confined)) => confined,
            Ok(None) => return None,
            Err(error) => {
                state.slots.insert(key.clone(), Slot::Failed(error.to_string()));
                return None;
            }
        };
        let (sandbox, shared, denied, own) =
            (Arc::clone(&self.sandbox), Arc::clone(&self.state), self.denied.clone(), key.clone());
        let work = move || {
            let started = Zygote::start(sandbox.launcher(), confined, host, &own.modules);
            let mut state = shared.0.lock().unwrap_or_else(PoisonError::into_inner);
            match started {
                Ok(zygote) => {
                    let (zygote, used_at) = (Arc::new(zygote), Instant::now());
                    let ready = Ready { zygote, waiting: Waiting::default(), uses: 0, used_at, ahead: Ahead::default() };
                    state.slots.insert(own, Slot::Ready(ready));
                }
                // It is not finished, and may be taken away again: what does not import there says nothing of zygotes.
                Err(Stillborn::Denied { imported: false, .. }) if !forebay_envs::is_finished(&own.python) => {
                    state.slots.remove(&own);
                }
                Err(Stillborn::Denied { module, why, .. }) => {
                    tracing::info!(module, why, "a module that no zygote of its environment imports");
                    // The next function asks for a zygote without it.
                    state.slots.remove(&own);
                    learn(&denied, &environment(&own.python), &module, &why);
                }
                Err(Stillborn::Failed(why)) => {
                    tracing::warn!(why, "a zygote could not be started");
                    state.slots.insert(own, Slot::Failed(why));
                }
            }
            shared.1.notify_all();
        };
        std::thread::Builder::new().name("zygote".to_owned()).spawn(work).ok()?;
        state.slots.insert(key.clone(), Slot::Starting);
        Some(())
    }

    /// Takes note of a fork that failed. A zygote that hangs or has ended is no more.
    fn gone_wrong(&self, key: &Key, zygote: &Arc<Zygote>, error: &Error) {
        tracing::warn!(%error, cause = %error.cause(), "could not fork a zygote");
        let environment = environment(&key.python);
        let mut state = self.lock();
        let is_this = matches!(state.slots.get(key), Some(Slot::Ready(ready)) if Arc::ptr_eq(&ready.zygote, zygote));
        if !is_this {
            return;
        }
        match error {
            Error::Zygote(_) => {
                let failures = state.failures.entry(environment.clone()).or_insert(0);
                *failures += 1;
                let enough = *failures >= FORK_FAILURES_MAX;
                let gone = state.slots.remove(key);
                drop(state);
                drop(gone);
                if enough {
                    learn(&self.denied, &environment, EVERY_MODULE, "its zygotes do not fork");
                }
            }
            Error::Refused(_) | Error::Launcher(_) => {
                let gone = state.slots.insert(key.clone(), Slot::Failed(error.cause().to_string()));
                drop(state);
                drop(gone);
            }
        }
    }

    fn wanted(&self, wanted: usize) -> Vec<Wanted> {
        let mut state = self.lock();
        let (mut found, mut gone) = (Vec::new(), Vec::new());
        for (key, slot) in &mut state.slots {
            let Slot::Ready(ready) = slot else { continue };
            ready.ahead.is_over = true;
            let mut missing = ready.ahead.purposes(wanted);
            // Those of a project as it was before it was changed will not be asked for.
            let (keep, old): (Vec<_>, Vec<_>) = ready.waiting.parked.drain(..).partition(|(purpose, _)| {
                let place = missing.iter().position(|one| one == purpose);
                place.map(|place| missing.swap_remove(place)).is_some()
            });
            ready.waiting.parked = keep;
            gone.extend(old);
            let unborn = if ready.uses > 0 { wanted.saturating_sub(ready.waiting.unborn.len()) } else { 0 };
            if unborn > 0 || !missing.is_empty() {
                found.push(Wanted { key: key.clone(), zygote: Arc::clone(&ready.zygote), children: missing, unborn });
            }
        }
        drop(state);
        gone.into_iter().for_each(|(_, parts)| parts.end());
        found
    }

    fn park(&self, key: &Key, purpose: Purpose, parts: Parts) {
        let mut state = self.lock();
        if let Some(Slot::Ready(ready)) = state.slots.get_mut(key) {
            ready.waiting.parked.push((purpose, parts));
        } else {
            drop(state);
            parts.end();
        }
    }

    fn keep(&self, key: &Key, unborn: Unborn) {
        if let Some(Slot::Ready(ready)) = self.lock().slots.get_mut(key) {
            ready.waiting.unborn.push(unborn);
        }
    }

    /// Drops children that wait, then zygotes, until what is left fits: first what saves the least time per byte.
    fn make_room(&self) {
        let mut state = self.lock();
        let held = |state: &State| state.slots.values().map(Slot::bytes).sum::<u64>();
        let mut gone = Vec::new();
        while held(&state) > self.bytes_max {
            match forget_one(&mut state) {
                Some(one) => gone.push(one),
                None => break,
            }
        }
        drop(state);
        // Their processes are waited for here, where nobody waits for us.
        drop(gone);
    }
}

impl std::fmt::Debug for Zygotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Zygotes").field(&self.status()).finish()
    }
}

/// A zygote under way, for functions that will be called soon.
pub struct Expected {
    state: Arc<(Mutex<State>, Condvar)>,
    key: Key,
}

impl Trial for Expected {
    fn modules(&self) -> &[String] {
        &self.key.modules
    }

    fn has_succeeded(&self, is_cancelled: &dyn Fn() -> bool) -> bool {
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + TRIAL_WAIT;
        while matches!(state.slots.get(&self.key), Some(Slot::Starting)) && !is_cancelled() && Instant::now() < until {
            state = self.state.1.wait_timeout(state, CANCEL_CHECK).unwrap_or_else(PoisonError::into_inner).0;
        }
        matches!(state.slots.get(&self.key), Some(Slot::Ready(_)))
    }
}

/// Where a function may come from.
enum Found {
    Waiting(Parts),
    Zygote { zygote: Arc<Zygote>, unborn: Option<Unborn>, key: Key },
}

impl Ready {
    /// Takes note of a function, and gives a child that waits for it.
    fn take(&mut self, launch: &Launch<'_>) -> Option<Parts> {
        self.uses += 1;
        self.used_at = Instant::now();
        let purpose = Purpose { project: launch.folder.to_owned(), memory_bytes: launch.limits.memory_bytes };
        self.ahead.note(&purpose);
        // One that was killed while it waited is passed over.
        let fits = |(other, parts): &(Purpose, Parts)| *other == purpose && parts.lives();
        let parked = &mut self.waiting.parked;
        parked.iter().position(fits).map(|index| parked.swap_remove(index).1)
    }

    fn bytes(&self) -> u64 {
        self.zygote.bytes + PARKED_BYTES * self.waiting.count() as u64
    }

    fn benefit(&self) -> f64 {
        benefit(self.zygote.import_time, self.uses, self.used_at.elapsed(), self.zygote.bytes)
    }
}

impl Ahead {
    /// Takes note of a function that is called.
    fn note(&mut self, purpose: &Purpose) {
        if self.is_over || self.project != purpose.project {
            *self = Self { project: purpose.project.clone(), ..Self::default() };
        }
        if self.limits.len() < PARKED_MAX {
            self.limits.push(purpose.memory_bytes);
        }
    }

    /// So many children: for the functions that were called first, and more of the same.
    fn purposes(&self, count: usize) -> Vec<Purpose> {
        let purpose = |limit: &Option<u64>| Purpose { project: self.project.clone(), memory_bytes: *limit };
        self.limits.iter().cycle().take(if self.limits.is_empty() { 0 } else { count }).map(purpose).collect()
    }
}

impl Slot {
    fn bytes(&self) -> u64 {
        match self {
            Self::Ready(ready) => ready.bytes(),
            Self::Starting | Self::Failed(_) => 0,
        }
    }
}

/// What was given up; its processes end when it is dropped.
#[expect(dead_code, reason = "dropped")]
enum Given {
    Waiting(Waiting),
    Zygote(Slot),
}

/// Children that wait. They end when they are dropped.
#[derive(Default)]
struct Waiting {
    /// For a call, each for functions of one kind.
    parked: Vec<(Purpose, Parts)>,
    /// To be told which functions they will be.
    unborn: Vec<Unborn>,
}

impl Waiting {
    fn count(&self) -> usize {
        self.parked.len() + self.unborn.len()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.parked.drain(..).for_each(|(_, parts)| parts.end());
    }
}

/// Gives up what saves least: children that wait before any zygote. `None`: there is nothing to give up.
fn forget_one(state: &mut State) -> Option<Given> {
    let ready = |(key, slot): (&Key, &Slot)| match slot {
        Slot::Ready(ready) => Some((key.clone(), ready.benefit(), ready.waiting.count() == 0)),
        Slot::Starting | Slot::Failed(_) => None,
    };
    let all: Vec<(Key, f64, bool)> = state.slots.iter().filter_map(ready).collect();
    let some_wait = all.iter().any(|(_, _, none_waits)| !none_waits);
    let least = all.into_iter().filter(|(_, _, none_waits)| some_wait != *none_waits).min_by(|a, b| a.1.total_cmp(&b.1));
    let (key, _, none_waits) = least?;
    match state.slots.get_mut(&key) {
        Some(Slot::Ready(ready)) if !none_waits => Some(Given::Waiting(std::mem::take(&mut ready.waiting))),
        _ => state.slots.remove(&key).map(Given::Zygote),
    }
}

/// What a zygote is worth, per byte: the time it saves a function, as often as it is used, less the longer that is ago.
fn benefit(import_time: Duration, uses: u64, idle: Duration, bytes: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // both are far below 2^52
    let (uses, bytes) = (uses as f64, bytes.max(1) as f64);
    import_time.as_secs_f64() * uses / (1.0 + idle.as_secs_f64() / 60.0) / bytes
}

/// In the place of a module: the environment has no zygotes.
const EVERY_MODULE: &str = "*";

/// Packages with an allocator that takes memory in pieces of megabytes when it is loaded and hands it out later. In a zygote's
/// children what is left of such a piece is in no segment, so a part of their results would be copied: the children import these
/// themselves, and their arena serves them from the beginning.
const HOARDERS: [&str; 1] = ["polars"];

type Denied = BTreeMap<String, BTreeMap<String, String>>;

/// By environment and module: why no zygote imports it. What cannot be read is learned again.
fn read(file: &Path) -> Denied {
    std::fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

fn learn(file: &Path, environment: &str, module: &str, why: &str) {
    let mut denied = read(file);
    denied.entry(environment.to_owned()).or_default().insert(module.to_owned(), why.to_owned());
    let write = || {
        let folder = file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut new, &serde_json::to_vec_pretty(&denied)?)?;
        new.persist(file).map_err(|error| error.error)
    };
    if let Err(error) = write() {
        tracing::warn!(%error, "could not write down what a zygote must not import");
    }
}

/// What was learned, for people: environment, module, why.
#[must_use]
pub fn denied(cache_dir: &Path) -> Vec<(String, String, String)> {
    let all = read(&cache_dir.join("zygotes").join("denied.json"));
    let flat = |(environment, modules): (String, BTreeMap<String, String>)| {
        modules.into_iter().map(move |(module, why)| (environment.clone(), module, why))
    };
    all.into_iter().flat_map(flat).collect()
}

fn environment(python: &Path) -> String {
    let folder = python.parent().and_then(Path::parent).and_then(Path::file_name);
    folder.unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_saves_more_per_byte_is_worth_more() {
        let second = Duration::from_secs(1);
        let worth = |import: u32, uses, idle: u32, bytes| benefit(second * import, uses, second * idle, bytes);
        assert!(worth(2, 1, 0, 100) > worth(1, 1, 0, 100));
        assert!(worth(1, 2, 0, 100) > worth(1, 1, 0, 100));
        assert!(worth(1, 1, 0, 50) > worth(1, 1, 0, 100));
        assert!(worth(1, 1, 0, 100) > worth(1, 1, 600, 100));
        assert!(worth(1, 1, 0, 0).is_finite());
    }

    #[test]
    fn children_wait_for_the_functions_that_were_called_first() {
        let purpose = |project: &str, memory_bytes| Purpose { project: project.into(), memory_bytes };
        let mut ahead = Ahead::default();
        assert_eq!(ahead.purposes(2), []);
        for limit in [Some(1), None, Some(2), None, None, None] {
            ahead.note(&purpose("p", limit));
        }
        assert_eq!(ahead.purposes(2), [purpose("p", Some(1)), purpose("p", None)]);
        assert_eq!(ahead.limits.len(), PARKED_MAX);
        ahead.is_over = true;
        // A look without a run in between changes nothing.
        assert_eq!(ahead.purposes(1), [purpose("p", Some(1))]);
        ahead.note(&purpose("p", Some(7)));
        assert_eq!(ahead.purposes(2), [purpose("p", Some(7)), purpose("p", Some(7))]);
        ahead.note(&purpose("q", None));
        assert_eq!(ahead.purposes(1), [purpose("q", None)]);
    }

    #[test]
    fn what_was_learned_is_kept_and_broken_files_are_forgotten() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join("zygotes/denied.json");
        learn(&file, "e", "one", "hangs");
        learn(&file, "e", "two", "crashes");
        learn(&file, "f", EVERY_MODULE, "does not fork");
        let all = denied(cache.path());
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], ("e".to_owned(), "one".to_owned(), "hangs".to_owned()));
        std::fs::write(&file, "not JSON").unwrap();
        assert!(denied(cache.path()).is_empty());
        learn(&file, "e", "one", "hangs");
        assert_eq!(denied(cache.path()).len(), 1);
    }
}
