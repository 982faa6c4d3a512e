//! One zygote: an interpreter that has imported what the functions of a project import, and from which they are forked.
//!
//! ```text
//! start ─▶ importing ─▶ ready: fork, fork, … ─▶ dropped
//!             └─▶ a module after which forks are not safe, that hangs or crashes: Denied, and the next zygote goes without it
//! ```
//!
//! Invariants: it is told which modules to import and nothing else; what it is asked has a deadline; it is ready only when every
//! module was found harmless.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use forebay_sandbox::zygote::{Birth, Outfit, Unborn};
use forebay_sandbox::{Error, Host, Launcher, beginning};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::json;

use crate::confine::{Confined, Sandbox};
use crate::limits::{FORK_PATIENCE, IMPORT_PATIENCE};
use crate::process::{Launch, Parts, lines};

/// A zygote that is ready.
#[derive(Debug)]
pub(crate) struct Zygote {
    zygote: forebay_sandbox::Zygote,
    host: Host,
    /// Limits the zygote, as long as it lives.
    #[expect(dead_code, reason = "removed when it is dropped")]
    confined: Confined,
    /// Private memory, in bytes.
    pub bytes: u64,
    /// What its imports took: what a child saves.
    pub import_time: Duration,
    /// Children so far.
    pub forks: AtomicU64,
}

/// Why a zygote did not become ready.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stillborn {
    /// A module that no zygote should import, and whether it was imported.
    Denied { module: String, why: String, imported: bool },
    /// Something else, in words.
    Failed(String),
}

/// What a zygote says.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Word {
    Importing { importing: String },
    Imported { imported: String, seconds: f64, why: Option<String>, raised: bool },
    Ready { ready: bool, bytes: u64 },
}

impl Zygote {
    /// Starts one, and waits until it has imported these modules.
    pub fn start(launcher: &Launcher, confined: Confined, host: Host, modules: &[String]) -> Result<Self, Stillborn> {
        let failed = |error: &dyn std::fmt::Display| Stillborn::Failed(error.to_string());
        let zygote = forebay_sandbox::Zygote::start(launcher, &confined.order).map_err(|error| failed(&error))?;
        let heard = zygote.say(json!({ "modules": modules }).to_string().as_bytes()).map_err(|error| failed(&error));
        match heard.and_then(|()| listen(&zygote)) {
            Ok((bytes, import_time)) => Ok(Self { zygote, host, confined, bytes, import_time, forks: AtomicU64::new(0) }),
            Err(stillborn) => {
                zygote.kill();
                Err(stillborn)
            }
        }
    }

    /// A child for whatever function, which waits to be told which.
    pub fn conceive(&self, sandbox: &Sandbox) -> Result<Unborn, Error> {
        self.zygote.conceive(&beginning(&self.host, sandbox.next_number()), FORK_PATIENCE)
    }

    /// A child for this function, which waits for its call: the one that is there, or a new one.
    pub fn fork(&self, launch: &Launch<'_>, unborn: Option<Unborn>) -> Result<Parts, Error> {
        let system = Error::Launcher;
        let confined = launch.sandbox.confine(launch, Some(&self.host)).map_err(|_| system(std::io::Error::other("refused")))?;
        let word = json!({ "limit": launch.limits.memory_bytes }).to_string();
        let order = &confined.order;
        let birth = Birth::new(order.plan.clone(), order.limits.clone(), launch.folder.to_owned(), word);
        let ((line, stdout, stderr), theirs) = lines().map_err(system)?;
        let doors = confined.group.as_ref().map_or(Ok(Vec::new()), |group| group.open_doors()).map_err(system)?;
        let outfit = Outfit { standard: [theirs[0].as_fd(), theirs[1].as_fd(), theirs[2].as_fd()], doors: &doors };
        let born = match unborn {
            Some(unborn) => unborn.deliver(&birth, outfit, FORK_PATIENCE)?,
            None => self.zygote.fork(&beginning(&self.host, launch.sandbox.next_number()), &birth, outfit, FORK_PATIENCE)?,
        };
        let parts = Parts { confined, function: born.sandbox, line, stdout, stderr };
        // Before it is called, and whether or not it has joined by itself: what it uses from then on is counted as its own.
        if let Some(Err(error)) = parts.confined.group.as_ref().map(|group| group.admit(born.function.as_fd())) {
            parts.end();
            return Err(system(error));
        }
        self.forks.fetch_add(1, Ordering::Relaxed);
        Ok(parts)
    }
}

/// Private memory and time of the imports, when all is done.
fn listen(zygote: &forebay_sandbox::Zygote) -> Result<(u64, Duration), Stillborn> {
    let (mut at, mut time) = (None, Duration::ZERO);
    let denied = |module, why: &str| Stillborn::Denied { module, why: why.to_owned(), imported: false };
    loop {
        let word = zygote.hear(Instant::now() + IMPORT_PATIENCE);
        let word = word.map(|message| serde_json::from_slice::<Word>(&message));
        match (word, at.take()) {
            (Ok(Ok(Word::Importing { importing })), None) => at = Some(importing),
            (Ok(Ok(Word::Imported { imported, why: Some(why), raised, .. })), Some(module)) if imported == module => {
                return Err(Stillborn::Denied { module, why, imported: !raised });
            }
            (Ok(Ok(Word::Imported { imported, seconds, why: None, .. })), Some(module)) if imported == module => {
                time += Duration::try_from_secs_f64(seconds).unwrap_or_default();
            }
            (Ok(Ok(Word::Ready { ready: true, bytes })), None) => return Ok((bytes, time)),
            (Err(error), Some(module)) if error.kind() == std::io::ErrorKind::TimedOut => {
                return Err(denied(module, "importing it hangs"));
            }
            (_, Some(module)) => return Err(denied(module, "importing it ends the process")),
            (Err(error), None) => return Err(Stillborn::Failed(error.to_string())),
            (Ok(_), None) => return Err(Stillborn::Failed("it ended, or says what it should not".to_owned())),
        }
    }
}

impl Parts {
    /// Whether it has not ended.
    pub fn lives(&self) -> bool {
        let mut ended = [PollFd::from_borrowed_fd(self.function.pidfd(), PollFlags::IN)];
        matches!(poll(&mut ended, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    /// Ends a function that was not called.
    pub fn end(mut self) {
        if let Ok(killer) = self.function.killer() {
            killer.kill();
        }
        forebay_sandbox::wait(self.function.pidfd());
        let _ = self.function.ending();
    }
}

/// Which of these modules an environment has: top-level names that its packages brought.
#[must_use]
pub fn installed(python: &Path, modules: &[String]) -> Vec<String> {
    let Some(environment) = python.parent().and_then(Path::parent) else { return Vec::new() };
    let libraries = environment.join("lib").read_dir().into_iter().flatten().filter_map(Result::ok);
    let folders: Vec<_> =
        libraries.map(|library| library.path().join("site-packages")).filter(|folder| folder.is_dir()).collect();
    let has = |module: &&String| {
        let root = module.split('.').next().unwrap_or(module);
        let is_name = !root.is_empty() && root.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        is_name && folders.iter().any(|folder| folder.join(root).is_dir() || folder.join(format!("{root}.py")).is_file())
    };
    modules.iter().filter(has).cloned().collect()
}
