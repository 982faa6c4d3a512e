//! The launcher: a small process with one thread that starts every function of a supervisor, from both ends.
//!
//! It is there because the parent of a sandbox should be small, hold no secrets and have one thread: its children copy its
//! memory, the first process of each sandbox for good. A supervisor is none of these.
//!
//! Invariants: it ends with its supervisor; what it starts ends with the supervisor too, whether or not the launcher lives.

use std::io::{self, PipeReader, Read as _, Write as _};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::Error;
use crate::init::{self, Given};
use crate::limits::{ENDING_BYTES_MAX, ORDER_BYTES_MAX, ORDER_FDS, OUT_OF_MEMORY_SCORE};
use crate::order::{Answer, Ending, Order, Refusal};
use crate::policy::Feature;
use crate::sys;

/// Where the launcher's program is told what it is.
pub const ROLE: &str = "launcher";

/// The supervisor's end. Started when it is first needed, and again if it is lost.
#[derive(Debug)]
pub struct Launcher {
    program: Option<PathBuf>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    socket: OwnedFd,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Executed(Child),
    Forked(OwnedFd),
}

/// A function that was started, by its first process. Dropping it does not end it.
#[derive(Debug)]
pub struct Sandboxed {
    pidfd: OwnedFd,
    told: PipeReader,
    alone: bool,
}

impl Launcher {
    /// A launcher that is this program, called with the word [`ROLE`], upon which it must call [`serve`].
    #[must_use]
    pub fn new(program: &Path) -> Self {
        Self { program: Some(program.to_owned()), running: Mutex::new(None) }
    }

    /// A launcher that is a fork of this process: for tests, whose program has no such role.
    #[must_use]
    pub fn forked() -> Self {
        Self { program: None, running: Mutex::new(None) }
    }

    /// Starts a function with these descriptors as its standard input, output and error.
    ///
    /// # Errors
    /// [`Error::Refused`] if the host refuses the first steps, [`Error::Launcher`] if there is no launcher.
    pub fn start(&self, order: &Order, standard: [BorrowedFd<'_>; 3]) -> Result<Sandboxed, Error> {
        let bytes = serde_json::to_vec(order).map_err(|error| Error::Launcher(error.into()))?;
        if bytes.len() > ORDER_BYTES_MAX {
            return Err(Error::Launcher(io::Error::from_raw_os_error(libc::E2BIG)));
        }
        let (told, tell) = io::pipe().map_err(Error::Launcher)?;
        let alone = order.plan.processes;
        let [stdin, stdout, stderr] = standard;
        let descriptors = [stdin, stdout, stderr, tell.as_fd()];
        let mut running = self.lock();
        for attempt in 0.. {
            let answer = match &mut *running {
                Some(there) => there.ask(&bytes, &descriptors),
                none => {
                    let started = self.launch().map_err(Error::Launcher)?;
                    none.insert(started).ask(&bytes, &descriptors)
                }
            };
            match answer {
                Ok((Answer::Started, Some(pidfd))) => {
                    return Ok(Sandboxed { pidfd, told, alone });
                }
                Ok((Answer::Refused(refusal), _)) => return Err(Error::Refused(refusal)),
                Ok((Answer::Started, None)) => return Err(Error::Launcher(io::ErrorKind::InvalidData.into())),
                // Killed, for memory or by hand: what it had started goes on, and a new one takes its place.
                Err(_) if attempt == 0 => drop(running.take()),
                Err(error) => return Err(Error::Launcher(error)),
            }
        }
        unreachable!("the second attempt returns")
    }

    /// The launcher's process, if it runs.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        match &self.lock().as_ref()?.process {
            Process::Executed(child) => Some(child.id()),
            Process::Forked(_) => None,
        }
    }

    /// Ends the launcher, behind its own back.
    #[cfg(test)]
    pub(crate) fn kill_for_test(&self) {
        if let Some(Running { process: Process::Forked(pidfd), .. }) = &*self.lock() {
            let _ = sys::kill(pidfd.as_fd());
        }
    }

    /// Starts a zygote: its first process takes orders through the other end of `orders`, its program has `control` as standard
    /// input.
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub(crate) fn start_nest(&self, order: &Order, control: &OwnedFd, orders: &OwnedFd) -> Result<Sandboxed, Error> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").map_err(Error::Launcher)?;
        self.start(order, [control.as_fd(), orders.as_fd(), null.as_fd()])
    }

    fn launch(&self) -> io::Result<Running> {
        let (ours, theirs) = sys::channel()?;
        let process = match &self.program {
            Some(program) => {
                let mut command = std::process::Command::new(program);
                command.arg(ROLE).env_clear().current_dir("/").stdin(theirs).stdout(Stdio::null());
                Process::Executed(command.spawn()?)
            }
            None => {
                let supervisor = i32::try_from(std::process::id()).map_err(io::Error::other)?;
                // Not `sys::clone`: other threads of this process may hold locks of libc's, which its fork takes care of.
                match sys::fork()? {
                    Some(process) => Process::Forked(sys::pidfd(process)?),
                    None => {
                        // A fork has copies of everything that was open then; they would keep what others wait for open.
                        let own = socket_number(&theirs);
                        let _ = sys::close_between(3, own - 1);
                        let _ = sys::close_between(own + 1, u32::MAX);
                        std::mem::forget(ours);
                        serve_on(&theirs, supervisor);
                        sys::exit(0)
                    }
                }
            }
        };
        Ok(Running { socket: ours, process })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn ask(&self, order: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<(Answer, Option<OwnedFd>)> {
        ask(&self.socket, order, descriptors)
    }
}

/// Sends an order and takes the answer.
pub fn ask(socket: &OwnedFd, order: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<(Answer, Option<OwnedFd>)> {
    sys::send(socket, order, descriptors)?;
    let mut answer = Vec::new();
    let descriptors = sys::receive(socket, &mut answer)?;
    Ok((serde_json::from_slice(&answer)?, descriptors.into_iter().next()))
}

impl Drop for Running {
    fn drop(&mut self) {
        // It ends when it sees the end of the channel; that it does is not waited for where nobody could be left behind.
        match &mut self.process {
            Process::Executed(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Process::Forked(pidfd) => {
                let _ = sys::kill(pidfd.as_fd());
                sys::reap_one(pidfd.as_fd());
            }
        }
    }
}

impl Sandboxed {
    /// One that was started otherwise, alone in its namespaces.
    pub(crate) fn new(pidfd: OwnedFd, told: PipeReader) -> Self {
        Self { pidfd, told, alone: true }
    }

    /// Readable when nothing of the function is left.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// A means to end it that may be given to others.
    ///
    /// # Errors
    /// Too many open files.
    pub fn killer(&self) -> io::Result<Killer> {
        Ok(Killer { pidfd: self.pidfd.try_clone()?, alone: self.alone })
    }

    /// How it ended. To be called when [`Sandboxed::pidfd`] is readable; `None`: it was killed from outside.
    #[must_use]
    pub fn ending(&mut self) -> Option<Ending> {
        let mut text = Vec::new();
        let limit = u64::try_from(ENDING_BYTES_MAX).unwrap_or(u64::MAX);
        (&mut self.told).take(limit).read_to_end(&mut text).ok()?;
        let first = text.split(|byte| *byte == b'\n').next()?;
        serde_json::from_slice(first).ok()
    }
}

/// Ends one function, whoever holds it. It cannot hit anything else, however late it comes.
#[derive(Debug)]
pub struct Killer {
    pidfd: OwnedFd,
    alone: bool,
}

impl Killer {
    /// Ends the function and all that it has started.
    pub fn kill(&self) {
        // What has ended already is what was wanted.
        let _ = if self.alone { sys::kill(self.pidfd.as_fd()) } else { sys::ask_to_end(self.pidfd.as_fd()) };
    }
}

/// Another role of the launcher's binary, which a function may have: what it returns is the exit code.
pub type Own = fn() -> i32;

pub(crate) static OWN: OnceLock<Own> = OnceLock::new();

/// The program of an order that stands for this role: the binary that runs, not the file that may have replaced it since.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// What the launcher was started with.
pub(crate) fn own() -> Option<Own> {
    OWN.get().copied()
}

/// The launcher's main program: takes orders from descriptor 0 until its other end is closed. A function that is to execute
/// [`OWN_PROGRAM`] goes on as `own` instead: this binary is there already, with all its pointers in place.
pub fn serve(own: Own) {
    let _ = OWN.set(own);
    sys::set_name(c"forebay-launch");
    let supervisor = sys::parent();
    let Ok(socket) = sys::move_up(io::stdin().as_fd(), 3) else { return };
    // Nobody but us should hold the channel; programs expect something there.
    if let Ok(null) = std::fs::File::open("/dev/null") {
        let _ = sys::place(null.as_fd(), 0);
    }
    serve_on(&socket, supervisor);
}

fn serve_on(socket: &OwnedFd, supervisor: i32) {
    let Ok(supervisor) = sys::pidfd(supervisor) else { return };
    sys::forget_children();
    // Where the machine runs out of memory, functions go first. Without the right to say so, they go like others.
    let _ = std::fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE.to_string());
    let mut message = Vec::new();
    loop {
        let Ok(descriptors) = sys::receive(socket, &mut message) else { return };
        if message.is_empty() {
            return;
        }
        let own = socket_number(socket);
        if serve_one(&message, descriptors, socket, own..=own, &supervisor).is_err() {
            return;
        }
    }
}

/// Carries out an order and answers it. In the process that is started, the `own` descriptors are closed first.
///
/// # Errors
/// The supervisor is gone. Whoever was started knows.
pub fn serve_one(
    message: &[u8],
    descriptors: Vec<OwnedFd>,
    socket: &OwnedFd,
    own: RangeInclusive<u32>,
    supervisor: &OwnedFd,
) -> io::Result<Option<i32>> {
    let (answer, started) = match answer(message, descriptors, own, supervisor) {
        Ok(started) => (Answer::Started, Some(started)),
        Err(refusal) => (Answer::Refused(refusal), None),
    };
    let bytes = serde_json::to_vec(&answer).expect("an answer has string keys only");
    let descriptors: Vec<BorrowedFd<'_>> = started.iter().map(|(_, pidfd)| pidfd.as_fd()).collect();
    sys::send(socket, &bytes, &descriptors)?;
    Ok(started.map(|(process, _)| process))
}

fn answer(
    message: &[u8],
    descriptors: Vec<OwnedFd>,
    own: RangeInclusive<u32>,
    supervisor: &OwnedFd,
) -> Result<(i32, OwnedFd), Refusal> {
    let refuse = |feature: Option<Feature>, what: &str, error: &io::Error| Refusal {
        feature,
        what: what.to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    let order: Order = serde_json::from_slice(message).map_err(|error| refuse(None, "read the order", &error.into()))?;
    let Ok::<[OwnedFd; ORDER_FDS], _>([stdin, stdout, stderr, told]) = descriptors.try_into() else {
        return Err(refuse(None, "take the descriptors", &io::ErrorKind::InvalidInput.into()));
    };
    let failed = |error: io::Error| refuse(None, "start a process", &error);
    let (ready, mut go) = io::pipe().map_err(failed)?;
    let supervisor = supervisor.try_clone().map_err(failed)?;
    let flag = |wanted, flag| if wanted { flag } else { 0 };
    let flags = flag(order.plan.user.is_some(), libc::CLONE_NEWUSER) | flag(order.plan.processes, libc::CLONE_NEWPID);
    let child =
        sys::clone(flags).map_err(|error| refuse((flags != 0).then_some(Feature::Users), "make a user namespace", &error))?;
    let Some((process, pidfd)) = child else {
        drop(go);
        let _ = sys::close_between(*own.start(), *own.end());
        init::run(Given { order, standard: [stdin, stdout, stderr], told, ready: ready.into(), supervisor });
    };
    if let Some((uid, gid)) = order.plan.user {
        map_users(process, uid, gid, order.plan.others).map_err(|(what, error)| {
            let _ = sys::kill(pidfd.as_fd());
            let own = sys::who() == (uid, gid);
            refuse(Some(if own { Feature::Users } else { Feature::Identity }), what, &error)
        })?;
    }
    // If it is gone already, its end says why.
    let _ = go.write_all(&[1]);
    Ok((process, pidfd))
}

fn socket_number(socket: &OwnedFd) -> u32 {
    use std::os::fd::AsRawFd as _;
    socket.as_raw_fd().cast_unsigned()
}

/// Lets [`INSIDE_ID`](crate::limits::INSIDE_ID) stand for a user and a group of the outside, and the others for themselves.
fn map_users(process: i32, uid: u32, gid: u32, others: Option<(u32, u32)>) -> Result<(), (&'static str, io::Error)> {
    let inside = crate::limits::INSIDE_ID;
    let write =
        |file: &'static str, text: String| std::fs::write(format!("/proc/{process}/{file}"), text).map_err(|error| (file, error));
    if sys::who() == (uid, gid) {
        // The kernel's condition for whoever maps nobody but themselves.
        write("setgroups", "deny".into())?;
    }
    let others = others.map(|(first, count)| format!("\n{first} {first} {count}")).unwrap_or_default();
    write("uid_map", format!("{inside} {uid} 1{others}"))?;
    write("gid_map", format!("{inside} {gid} 1{others}"))
}
