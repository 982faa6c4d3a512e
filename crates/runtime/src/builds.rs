//! Packages that are built from sources, in the sandbox of user code: with the network, without the host's files.
//!
//! A build executes what others wrote, before any function does. It sees the system's programs (compilers), its interpreter and one
//! folder to write to; it has a limit on memory, processes and time, and ends with all it has started.

use std::fs::File;
use std::io::{self, PipeReader, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitStatus, Output};
use std::sync::Arc;
use std::time::Instant;

use forebay_envs::{Confined, Confinement, Unconfined, Watch};
use forebay_sandbox::limits::{PROCESSES_MAX, TMP_BYTES_MAX};
use forebay_sandbox::{Command, Ending, Feature, Identity, Order, Policy, plan, resource};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::confine::{Sandbox, interpreter, share};
use crate::limits::{BUILD_CANCEL_CHECK, BUILD_OUTPUT_BYTES_MAX, BUILD_TIME_MAX, FUNCTION_MEMORY_PERCENT};

/// Builds packages in sandboxes.
#[derive(Debug)]
pub struct Builds {
    sandbox: Arc<Sandbox>,
}

impl Builds {
    /// In sandboxes of this kind.
    #[must_use]
    pub fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox }
    }

    fn order(&self, command: &Confined<'_>) -> Result<(Order, Option<forebay_sandbox::group::Group>), Unconfined> {
        let host = self.sandbox.host().map_err(Unconfined::System)?;
        for feature in [Feature::Files, Feature::Processes, Feature::Calls] {
            if let Some(why) = host.lost.get(&feature) {
                return Err(Unconfined::Host(format!("this host has no {feature}: {why}")));
            }
        }
        let mut found = interpreter(&command.python, host).map_err(Unconfined::System)?;
        // The environment that is built lies in the folder to write to.
        found.read.retain(|path| !path.starts_with(command.folder));
        let memory_bytes = share(FUNCTION_MEMORY_PERCENT);
        let policy = Policy {
            read: command.read.iter().cloned().chain(found.read).collect(),
            write: vec![command.folder.to_owned()],
            links: found.links,
            internet: true,
            identity: Identity::Apart,
            tmp_bytes: TMP_BYTES_MAX.min(memory_bytes / 2),
            processes_max: PROCESSES_MAX,
        };
        let groups = self.sandbox.groups().as_ref().ok();
        let group = groups.map(|groups| groups.create(Some(memory_bytes), PROCESSES_MAX)).transpose();
        let group = group.map_err(Unconfined::System)?;
        let text = |path: &PathBuf| path.to_string_lossy().into_owned();
        let program = text(&command.program);
        let started = Command {
            arguments: std::iter::once(program.clone()).chain(command.arguments.iter().cloned()).collect(),
            environment: command.environment.clone(),
            folder: command.folder.to_string_lossy().into_owned(),
            program,
        };
        let order = Order {
            plan: plan(&policy, host, self.sandbox.next_number()),
            groups: group.as_ref().map(forebay_sandbox::group::Group::doors).unwrap_or_default(),
            limits: vec![(resource::CORE, 0), (resource::PROCESSES, PROCESSES_MAX)],
            command: Some(started),
            role: forebay_sandbox::Role::Function,
        };
        Ok((order, group))
    }
}

impl Confinement for Builds {
    fn run(&self, command: &Confined<'_>, watch: &dyn Watch) -> Result<Output, Unconfined> {
        let (order, _group) = self.order(command)?;
        let nothing = File::open("/dev/null").map_err(Unconfined::System)?;
        let (stdout, child_stdout) = io::pipe().map_err(Unconfined::System)?;
        let (stderr, child_stderr) = io::pipe().map_err(Unconfined::System)?;
        let standard = [nothing.as_fd(), child_stdout.as_fd(), child_stderr.as_fd()];
        let mut started = self.sandbox.launcher().start(&order, standard).map_err(|error| Unconfined::System(error.cause()))?;
        let killer = started.killer().map_err(Unconfined::System)?;
        drop((child_stdout, child_stderr));
        let (stdout, stderr) = std::thread::scope(|scope| {
            let threads = [stdout, stderr].map(|pipe| scope.spawn(|| read(pipe)));
            let until = Instant::now() + BUILD_TIME_MAX;
            let tick = Timespec::try_from(BUILD_CANCEL_CHECK).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
            let mut ended = [PollFd::from_borrowed_fd(started.pidfd(), PollFlags::IN)];
            while !matches!(poll(&mut ended, Some(&tick)), Ok(1..)) {
                if watch.is_cancelled() || Instant::now() >= until {
                    killer.kill();
                }
            }
            let [stdout, stderr] = threads.map(|thread| thread.join().unwrap_or_default());
            (stdout, stderr)
        });
        let status = match started.ending() {
            Some(Ending::Ended { status, .. }) => status,
            Some(Ending::Refused(refusal)) => return Err(Unconfined::System(refusal.cause())),
            // Its first process was killed: for memory, or because it was given up.
            None => 9,
        };
        Ok(Output { status: ExitStatus::from_raw(status), stdout, stderr })
    }
}

/// What was printed, but for what is too much.
fn read(mut pipe: PipeReader) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while let Ok(length @ 1..) = pipe.read(&mut chunk) {
        let left = BUILD_OUTPUT_BYTES_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..length.min(left)]);
    }
    kept
}
