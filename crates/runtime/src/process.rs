//! One function process, from start to the last trace of it, seen from the supervisor.
//!
//! ```text
//! spawn ─▶ (waits for its call; may have imported already) ─▶ call ─▶ reply ─▶ exit ─▶ killpg ─▶ reap ─▶ trim, seal ─▶ Answer
//!                                                              │ exit, signal, time limit, cancel
//!                                                              └─▶ killpg ─▶ reap ─▶ Failure
//! ```
//!
//! Whoever calls [`FunctionProcess::call`] waits in one `poll` on both pipes, the reply and the exit; a second, short-lived
//! thread does the blocking exchange on the channel, so that a child that stops in the middle of a frame cannot hold
//! up its time limit. Invariants: the process group is killed before its leader is reaped, whatever happened, so
//! nothing of it is left; a segment is trimmed and sealed after the exit of the only process that could write to it, or not
//! published.

use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_sipc::call::{Call, Keep, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, prlimit};

use crate::cancel::{CancelToken, kill_group};
use crate::error::{Failure, told};
use crate::exchange::{Broken, Exchange, Line};
use crate::limits::EXIT_GRACE;
use crate::lines::{Lines, Stream};

/// Starts a Python function: `argv[1]` is the folder that holds the package `forebay`.
const BOOTSTRAP: &str =
    "import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[1:]; from forebay._function import main; main()";

/// The allocator of Python functions, in the folder that holds the package.
const PRELOAD: &str = "forebay/preload.so";

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Our own binary, for scans, SQL and writes.
    System {
        /// Its path.
        binary: PathBuf,
    },
    /// An interpreter.
    Python {
        /// `bin/python` of the environment.
        python: PathBuf,
        /// The folder that holds the package `forebay`.
        runtime: PathBuf,
        /// Packages to import while it waits for its call.
        warm: Vec<String>,
    },
}

/// Bounds of one process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ProcessLimits {
    /// From the call to the reply.
    pub timeout: Option<Duration>,
    /// Memory of its own, segments not counted.
    pub memory_bytes: Option<u64>,
    /// Threads its libraries should use.
    pub threads: Option<usize>,
}

/// Everything needed to start a process.
#[derive(Debug, Clone)]
pub struct Launch<'a> {
    /// Name of the node, for messages.
    pub node: &'a str,
    /// What is executed.
    pub program: &'a Program,
    /// The folder it starts in.
    pub folder: &'a Path,
    /// Its bounds.
    pub limits: ProcessLimits,
}

/// What a function gave back. Its process is gone.
#[derive(Debug)]
pub struct Answer {
    /// Its reply, never `Failed`.
    pub reply: Reply,
    /// The encoded table, if it made one.
    pub message: Option<Vec<u8>>,
    /// Its new segments, trimmed and sealed.
    pub segments: Vec<NewSegment>,
}

/// A segment nobody can change any more.
#[derive(Debug, Clone)]
pub struct NewSegment {
    /// Identity, as the function numbered it.
    pub id: u64,
    /// Bytes.
    pub length: u64,
    /// The memory file.
    pub file: Arc<OwnedFd>,
}

/// A process that was started and has not been called yet. Dropping it kills it.
pub struct FunctionProcess {
    node: String,
    limits: ProcessLimits,
    child: Child,
    /// Readable once the child has exited.
    pidfd: OwnedFd,
    line: Option<Line>,
    stdout: Lines<File>,
    stderr: Lines<File>,
    cancel: CancelToken,
    reaped: bool,
}

impl FunctionProcess {
    /// Starts the process. It ends with the calling thread, which must therefore stay until it has been reaped.
    pub fn spawn(launch: &Launch<'_>, cancel: &CancelToken) -> Result<Self, Failure> {
        let mut command = command(launch);
        let program = PathBuf::from(command.get_program());
        let failed = |source: io::Error| Failure::Start { node: launch.node.to_owned(), program: program.clone(), source };
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled { node: launch.node.to_owned() });
        }
        let (line, theirs) = Line::pair().map_err(failed)?;
        let (stdout, child_stdout) = pipe().map_err(failed)?;
        let (stderr, child_stderr) = pipe().map_err(failed)?;
        command.stdin(theirs).stdout(child_stdout).stderr(child_stderr).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        // The command holds our copies of the child's ends; while they are open, nothing here ever ends.
        drop(command);
        cancel.enter(child.id());
        let pidfd = pidfd(&child).inspect_err(|_| {
            kill_group(child.id());
            cancel.leave(child.id());
            // It was killed just now.
            let _ = child.wait();
        });
        let pidfd = pidfd.map_err(failed)?;
        limit_memory(&child, launch.limits.memory_bytes);
        Ok(Self {
            node: launch.node.to_owned(),
            limits: launch.limits,
            child,
            pidfd,
            line: Some(line),
            stdout: Lines::new(stdout, Stream::Stdout),
            stderr: Lines::new(stderr, Stream::Stderr),
            cancel: cancel.clone(),
            reaped: false,
        })
    }

    /// Makes its one call and waits until nothing of the process is left.
    pub fn call(
        mut self,
        call: &Call,
        blobs: Vec<Arc<Vec<u8>>>,
        fds: Vec<Arc<OwnedFd>>,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<Answer, Failure> {
        let line = self.line.take().expect("a process is called once");
        let exchange = Exchange::start(line, call, blobs, fds).map_err(|source| self.start_failure(source))?;
        let ended = self.watch(&exchange, on_line);
        let status = self.finish();
        self.stdout.drain(on_line);
        self.stderr.drain(on_line);
        let reply = exchange.finish();
        let status = status.map_err(|source| self.start_failure(source))?;
        match (ended, reply) {
            (Ended::TimedOut(limit), _) => Err(Failure::TimedOut { node: self.node.clone(), limit }),
            (Ended::Failed(source), _) => Err(self.start_failure(source)),
            (Ended::Exited, Ok(Some(frame))) => self.answer(frame),
            (Ended::Exited, _) if self.cancel.is_cancelled() => Err(Failure::Cancelled { node: self.node.clone() }),
            (Ended::Exited, Ok(None)) => Err(self.ending(status)),
            (Ended::Exited, Err(Broken::OutOfFiles(error))) => Err(self.start_failure(io::Error::other(error))),
            (Ended::Exited, Err(Broken::Other(why))) if status.success() => Err(Failure::Answer { node: self.node.clone(), why }),
            (Ended::Exited, Err(_)) => Err(self.ending(status)),
        }
    }

    /// Waits for the exit, passing on what is printed meanwhile.
    fn watch(&mut self, exchange: &Exchange, on_line: &mut dyn FnMut(Stream, &str)) -> Ended {
        let mut deadline = self.limits.timeout.map(|limit| (Instant::now() + limit, Some(limit)));
        let mut waiting_for_reply = true;
        loop {
            let events = match self.wait(exchange.done(), waiting_for_reply, deadline.map(|(at, _)| at)) {
                Ok(events) => events,
                Err(error) => return Ended::Failed(error),
            };
            if events.stdout {
                self.stdout.read(on_line);
            }
            if events.stderr {
                self.stderr.read(on_line);
            }
            if events.exited {
                return Ended::Exited;
            }
            if events.replied && waiting_for_reply {
                // Its time limit has been met; now it must only go.
                waiting_for_reply = false;
                deadline = Some((Instant::now() + EXIT_GRACE, None));
            }
            match deadline {
                Some((at, limit)) if Instant::now() >= at => {
                    kill_group(self.child.id());
                    match limit {
                        Some(limit) => return Ended::TimedOut(limit),
                        None => deadline = None,
                    }
                }
                _ => {}
            }
        }
    }

    fn wait(&self, done: BorrowedFd<'_>, for_reply: bool, until: Option<Instant>) -> io::Result<Events> {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 86_400, tv_nsec: 0 }));
        let sources = [
            (true, self.pidfd.as_fd()),
            (self.stdout.open, self.stdout.pipe.as_fd()),
            (self.stderr.open, self.stderr.pipe.as_fd()),
            (for_reply, done),
        ];
        let wanted = sources.iter().filter(|(wanted, _)| *wanted);
        let mut fds: Vec<PollFd<'_>> = wanted.map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        loop {
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut polled = fds.iter();
        let [exited, stdout, stderr, replied] =
            sources.map(|(wanted, _)| wanted && polled.next().is_some_and(|fd| !fd.revents().is_empty()));
        Ok(Events { exited, stdout, stderr, replied })
    }

    /// Kills what is left of the group and reaps its leader.
    fn finish(&mut self) -> io::Result<ExitStatus> {
        if !self.reaped {
            kill_group(self.child.id());
            self.cancel.leave(self.child.id());
            self.reaped = true;
        }
        self.child.wait()
    }

    fn answer(&self, frame: forebay_shm::Frame) -> Result<Answer, Failure> {
        let wrong = |why: String| Failure::Answer { node: self.node.clone(), why };
        let reply: Reply = serde_json::from_slice(&frame.header).map_err(|error| wrong(error.to_string()))?;
        if let Reply::Failed { code, message, causes, hint, traceback, fault } = reply {
            return Err(told(code, message, causes, hint, traceback, &fault));
        }
        let named = if let Reply::Table { segments, .. } = &reply { segments.as_slice() } else { &[] };
        let mut blobs = frame.blobs.into_iter();
        let message = blobs.next();
        if frame.fds.len() != named.len() || blobs.len() != named.len() {
            return Err(wrong(format!("{} segments, {} descriptors", named.len(), frame.fds.len())));
        }
        let mut segments = Vec::with_capacity(named.len());
        for ((id, file), keep) in named.iter().zip(frame.fds).zip(blobs) {
            let keep = Keep::decode(&keep).ok_or_else(|| wrong("it does not say what to keep of a segment".into()))?;
            forebay_shm::trim(&file, &keep).map_err(|error| wrong(format!("its segment could not be trimmed: {error}")))?;
            forebay_shm::seal(&file).map_err(|error| wrong(format!("its segment could not be sealed: {error}")))?;
            segments.push(NewSegment { id: *id, length: keep.length, file: Arc::new(file) });
        }
        Ok(Answer { reply, message, segments })
    }

    fn ending(&self, status: ExitStatus) -> Failure {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Failure::Killed { node: self.node.clone(), signal, memory_bytes: self.limits.memory_bytes },
            (None, code) => Failure::Exited { node: self.node.clone(), code: code.unwrap_or_default() },
        }
    }

    fn start_failure(&self, source: io::Error) -> Failure {
        Failure::Start { node: self.node.clone(), program: PathBuf::from("(running)"), source }
    }
}

impl Drop for FunctionProcess {
    fn drop(&mut self) {
        if !self.reaped {
            // Nobody is left to tell; the kernel reaps what cannot be waited for.
            let _ = self.finish();
        }
    }
}

enum Ended {
    Exited,
    TimedOut(Duration),
    Failed(io::Error),
}

struct Events {
    exited: bool,
    stdout: bool,
    stderr: bool,
    replied: bool,
}

fn command(launch: &Launch<'_>) -> Command {
    let mut command = match launch.program {
        Program::System { binary } => {
            let mut command = Command::new(binary);
            command.arg("function");
            command
        }
        Program::Python { python, runtime, warm } => {
            let mut command = Command::new(python);
            command.args(["-I", "-X", "utf8", "-c", BOOTSTRAP]).arg(runtime);
            user_environment(&mut command, python);
            // Its tables are born in shared memory; without the library they are copied there.
            let arena = runtime.join(PRELOAD);
            if arena.is_file() {
                command.env("LD_PRELOAD", arena);
                // Arrow's other allocators cut columns out of maps of a gigabyte, which get no huge pages.
                command.env("ARROW_DEFAULT_MEMORY_POOL", "system");
            }
            if !warm.is_empty() {
                command.env("FOREBAY_WARM", warm.join(","));
            }
            command
        }
    };
    if let Some(bytes) = launch.limits.memory_bytes {
        command.env("FOREBAY_ARENA_LIMIT", bytes.to_string());
    }
    if let Some(threads) = launch.limits.threads {
        for variable in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "FOREBAY_THREADS"] {
            command.env(variable, threads.to_string());
        }
    }
    command.current_dir(launch.folder);
    command
}

/// User code gets nothing of our environment but the time zone: it may hold secrets.
fn user_environment(command: &mut Command, python: &Path) {
    let bin = python.parent().unwrap_or(Path::new("/usr/bin"));
    command.env_clear();
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display()));
    command.env("HOME", "/tmp").env("LANG", "C.UTF-8").env("PYTHONUNBUFFERED", "1");
    if let Some(zone) = std::env::var_os("TZ") {
        command.env("TZ", zone);
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(File, Stdio)> {
    let (reader, writer) = io::pipe()?;
    let reader: OwnedFd = PipeReader::into(reader);
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((File::from(reader), writer.into()))
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A limit on private memory. A process that has ended already needs none, so errors mean nothing.
fn limit_memory(child: &Child, bytes: Option<u64>) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Some(bytes)) = (pid, bytes) {
        let _ = prlimit(Some(pid), Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) });
    }
}
