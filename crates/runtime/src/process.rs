//! One function process, from start to the last trace of it, seen from the supervisor.
//!
//! ```text
//! spawn ─▶ (waits for its call; may have imported already) ─▶ call ─▶ reply ─▶ lets go ─▶ trim, seal ─▶ Answer ─▶ kill ─▶ sandbox gone
//!                                                              │ exit, signal, time limit, cancel
//!                                                              └─▶ kill ─▶ sandbox gone ─▶ Failure
//! ```
//!
//! Whoever calls [`FunctionProcess::call`] waits in one `poll` on both pipes, the reply and the exit; a second, short-lived
//! thread does the blocking exchange on the channel, so that a child that stops in the middle of a frame cannot hold
//! up its time limit. A function that has replied makes its memory private and says so; its segments are sealed while it exits.
//! The kernel refuses to seal what a process still maps for writing: then its exit is waited for.
//!
//! Invariants: what a function has started ends with it, as its sandbox does, and whoever holds its [`Remains`] waits for that; a
//! function of which the kernel kills one process for its memory ends as a whole, at once; a segment is trimmed and sealed before anybody reads it, or not published.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_sandbox::group::Group;
use forebay_sandbox::{Ending, Killer, Sandboxed};
use forebay_sipc::call::{Call, Keep, Reply};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::cancel::CancelToken;
use crate::confine::{Access, Confined, Refusal, Sandbox, Settings};
use crate::error::{Failure, Memory, told};
use crate::exchange::{Broken, Exchange, Line, News};
use crate::limits::{EXIT_GRACE, LAST_LINE_CHARS_MAX, LAST_LINES_MAX, STARVED_LOOK, STARVED_LOOKS_MAX};
use crate::lines::{Lines, Stream};
use crate::zygotes::Zygotes;

/// Starts a Python function: `argv[1]` is the folder that holds the package `forebay`.
pub(crate) const BOOTSTRAP: &str =
    "import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[1:]; from forebay._function import main; main()";

/// Starts a zygote, with the same argument.
pub(crate) const ZYGOTE_BOOTSTRAP: &str =
    "import sys; sys.path.insert(0, sys.argv[1]); del sys.argv[1:]; from forebay._zygote import main; main()";

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
        /// Modules that the project's functions in this environment import.
        imports: Vec<String>,
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
    /// Who starts it, confined.
    pub sandbox: &'a Sandbox,
    /// How much of the sandbox must be there.
    pub settings: &'a Settings,
    /// What it may use.
    pub access: &'a Access,
    /// Warm interpreters to fork it from; `None`: it is started afresh.
    pub zygotes: Option<&'a Zygotes>,
}

/// A process that runs, and its lines to here.
pub(crate) struct Parts {
    pub confined: Confined,
    pub function: Sandboxed,
    pub line: Line,
    pub stdout: File,
    pub stderr: File,
}

/// What a function gave back.
#[derive(Debug)]
pub struct Answer {
    /// Its reply, never `Failed`.
    pub reply: Reply,
    /// The encoded table, if it made one.
    pub message: Option<Vec<u8>>,
    /// Its new segments, trimmed and sealed.
    pub segments: Vec<NewSegment>,
}

/// A function that has answered and may still be about to exit. Dropping it ends it, and waits until nothing of it is left.
pub struct Remains(#[expect(dead_code, reason = "held to be dropped")] FunctionProcess);

impl std::fmt::Debug for Remains {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Remains")
    }
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
    program: PathBuf,
    limits: ProcessLimits,
    confined: Confined,
    function: Sandboxed,
    killer: Arc<Killer>,
    /// Its place in the token.
    guarded: u64,
    line: Option<Line>,
    stdout: Lines<File>,
    stderr: Lines<File>,
    last_lines: VecDeque<String>,
    cancel: CancelToken,
    /// Counted up by the kernel when the function's memory is used up and one of its processes must die for it.
    starved: Option<OwnedFd>,
    /// How often to look yet whether it was this function that the kernel took a process of.
    looks_left: u32,
    ended: bool,
}

impl FunctionProcess {
    /// Starts the process. It ends with this process.
    pub fn spawn(launch: &Launch<'_>, cancel: &CancelToken) -> Result<Self, Failure> {
        let node = || launch.node.to_owned();
        let program = launch.program.path();
        let failed = |source: io::Error| Failure::Start { node: node(), program: program.to_owned(), source };
        if cancel.is_cancelled() {
            return Err(Failure::Cancelled { node: node() });
        }
        let forked = launch.zygotes.and_then(|zygotes| zygotes.function(launch, cancel));
        let parts = forked.map_or_else(|| Self::start(launch, &failed), Ok)?;
        let Parts { confined, function, line, stdout, stderr } = parts;
        let killer = Arc::new(function.killer().map_err(failed)?);
        let starved = confined.group.as_ref().and_then(|group| {
            let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
            group.tell_out_of_memory(event.as_fd()).ok().map(|()| event)
        });
        Ok(Self {
            node: node(),
            program: program.to_owned(),
            limits: launch.limits,
            confined,
            guarded: cancel.guard(&killer),
            function,
            killer,
            line: Some(line),
            stdout: Lines::new(stdout, Stream::Stdout),
            stderr: Lines::new(stderr, Stream::Stderr),
            last_lines: VecDeque::new(),
            cancel: cancel.clone(),
            starved,
            looks_left: 0,
            ended: false,
        })
    }

    /// A process of its own from the beginning.
    fn start(launch: &Launch<'_>, failed: &dyn Fn(io::Error) -> Failure) -> Result<Parts, Failure> {
        let node = || launch.node.to_owned();
        let confined = launch.sandbox.confine(launch, None).map_err(|refusal| match refusal {
            Refusal::Strict(missing) => Failure::Strict { node: node(), missing },
            Refusal::System(error) => failed(error),
        })?;
        let (ours, theirs) = lines().map_err(failed)?;
        let standard = [theirs[0].as_fd(), theirs[1].as_fd(), theirs[2].as_fd()];
        let function = launch.sandbox.launcher().start(&confined.order, standard).map_err(|error| match error {
            forebay_sandbox::Error::Refused(refusal) if refusal.feature.is_some() => Failure::sandbox(node(), refusal),
            error => failed(error.cause()),
        })?;
        let (line, stdout, stderr) = ours;
        Ok(Parts { confined, function, line, stdout, stderr })
    }

    /// Makes its one call and waits for what it answers, or, if it fails, until nothing of the process is left.
    pub fn call(
        mut self,
        call: &Call,
        blobs: Vec<Arc<Vec<u8>>>,
        fds: Vec<Arc<OwnedFd>>,
        on_line: &mut dyn FnMut(Stream, &str),
    ) -> Result<(Answer, Remains), Failure> {
        let line = self.line.take().expect("a process is called once");
        let exchange = Exchange::start(line, call, blobs, fds).map_err(|source| self.start_failure(source))?;
        let mut last_lines = VecDeque::new();
        let mut on_line = |stream, line: &str| {
            remember(&mut last_lines, line);
            on_line(stream, line);
        };
        let ended = self.watch(&exchange, &mut on_line);
        let ending = if matches!(ended, Ended::LetGo) { None } else { self.finish() };
        self.stdout.drain(&mut on_line);
        self.stderr.drain(&mut on_line);
        self.last_lines = last_lines;
        let reply = exchange.finish();
        match (ended, reply) {
            (Ended::TimedOut(limit), _) => {
                Err(Failure::TimedOut { node: self.node.clone(), limit, last_lines: Vec::from(self.last_lines.clone()) })
            }
            (Ended::Failed(source), _) => Err(self.start_failure(source)),
            (Ended::Exited | Ended::LetGo, Ok(Some(frame))) => self.answer(frame),
            (_, _) if self.cancel.is_cancelled() => Err(Failure::Cancelled { node: self.node.clone() }),
            (_, Ok(None)) => Err(self.failure(ending)),
            (_, Err(Broken::OutOfFiles(error))) => Err(self.start_failure(io::Error::other(error))),
            (_, Err(Broken::Other(why))) if matches!(ending, Some(Ending::Ended { status: 0, .. })) => {
                Err(Failure::Answer { node: self.node.clone(), why })
            }
            (_, Err(_)) => Err(self.failure(ending)),
        }
    }

    /// Waits until it has answered and let go, or is gone, passing on what is printed meanwhile.
    fn watch(&mut self, exchange: &Exchange, on_line: &mut dyn FnMut(Stream, &str)) -> Ended {
        let mut deadline = self.limits.timeout.map(|limit| (Instant::now() + limit, Some(limit)));
        let (mut replied, mut over) = (false, false);
        loop {
            let events = match self.wait(exchange.done(), !over, deadline.map(|(at, _)| at)) {
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
            self.look_for_starvation(events.starved);
            if events.news {
                over = matches!(exchange.news(), News::Over);
                if over && replied {
                    return Ended::LetGo;
                }
                // Its time limit has been met; now it must only go.
                replied = true;
                deadline = Some((Instant::now() + EXIT_GRACE, None));
            }
            match deadline {
                Some((at, limit)) if Instant::now() >= at => {
                    self.killer.kill();
                    match limit {
                        Some(limit) => return Ended::TimedOut(limit),
                        None => deadline = None,
                    }
                }
                _ => {}
            }
        }
    }

    fn wait(&self, done: BorrowedFd<'_>, for_news: bool, until: Option<Instant>) -> io::Result<Events> {
        let look_at = (self.looks_left > 0).then(|| Instant::now() + STARVED_LOOK);
        let until = [until, look_at].into_iter().flatten().min();
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let timeout = timeout.map(|left| Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 86_400, tv_nsec: 0 }));
        let sources = [
            (true, self.function.pidfd()),
            (self.stdout.open, self.stdout.pipe.as_fd()),
            (self.stderr.open, self.stderr.pipe.as_fd()),
            (for_news, done),
            (self.starved.is_some(), self.starved.as_ref().map_or(done, AsFd::as_fd)),
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
        let [exited, stdout, stderr, news, starved] =
            sources.map(|(wanted, _)| wanted && polled.next().is_some_and(|fd| !fd.revents().is_empty()));
        Ok(Events { exited, stdout, stderr, news, starved })
    }

    /// The kernel takes one process for the memory of all, and the others may wait for it for ever: they end, too. It tells before
    /// it does so, and tells every function when it is their common limit that was met, so the one whose process went is
    /// looked for.
    fn look_for_starvation(&mut self, told: bool) {
        if told {
            if let Some(event) = &self.starved {
                // Its count is of no interest; read, it is not told again.
                let _ = rustix::io::read(event, &mut [0; 8]);
            }
            self.looks_left = STARVED_LOOKS_MAX;
        }
        if self.looks_left > 0 {
            self.looks_left -= 1;
            if self.confined.group.as_ref().is_some_and(Group::ran_out_of_memory) {
                self.looks_left = 0;
                self.killer.kill();
            }
        }
    }

    /// Waits until nothing is left of it, after killing what is still there.
    fn finish(&mut self) -> Option<Ending> {
        if !self.ended {
            self.killer.kill();
            self.cancel.release(self.guarded);
            self.ended = true;
        }
        let mut gone = [PollFd::from_borrowed_fd(self.function.pidfd(), PollFlags::IN)];
        while let Err(Errno::INTR) = poll(&mut gone, None) {}
        self.function.ending()
    }

    fn answer(mut self, frame: forebay_shm::Frame) -> Result<(Answer, Remains), Failure> {
        let node = self.node.clone();
        let wrong = |why: String| Failure::Answer { node: node.clone(), why };
        let reply: Reply = serde_json::from_slice(&frame.header).map_err(|error| wrong(error.to_string()))?;
        if let Reply::Failed { code, message, causes, hint, traceback, fault } = reply {
            self.finish();
            let failure = told(code, message, causes, hint, traceback, &fault);
            return Err(failure.beside(self.out_of_memory()));
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
            let publish = || forebay_shm::publish(&file, &keep).map_err(|error| wrong(format!("of its segment: {error}")));
            if !publish()? {
                // A process of it maps the segment for writing, and so has to go first.
                self.finish();
                if !publish()? {
                    return Err(wrong("its segment could not be sealed".into()));
                }
            }
            segments.push(NewSegment { id: *id, length: keep.length, file: Arc::new(file) });
        }
        Ok((Answer { reply, message, segments }, Remains(self)))
    }

    /// What it used, if the kernel has killed a process of it for its memory.
    fn out_of_memory(&self) -> Option<Memory> {
        let group = self.confined.group.as_ref().filter(|group| group.ran_out_of_memory())?;
        Some(Memory { limit_bytes: self.confined.memory_bytes, peak_bytes: group.peak_bytes() })
    }

    fn failure(&self, ending: Option<Ending>) -> Failure {
        let (node, last_lines) = (self.node.clone(), Vec::from(self.last_lines.clone()));
        let status = match ending {
            Some(Ending::Refused(refusal)) if refusal.feature.is_some() => return Failure::sandbox(node, refusal),
            Some(Ending::Refused(refusal)) => return self.start_failure(refusal.cause()),
            Some(Ending::Ended { status, .. }) => ExitStatus::from_raw(status),
            // Its first process was killed, from outside or for memory.
            None => ExitStatus::from_raw(9),
        };
        match (status.signal(), status.code(), self.out_of_memory()) {
            (Some(9), _, Some(memory)) => Failure::OutOfMemory { node, memory, last_lines },
            (Some(signal), ..) => Failure::Killed { node, signal, memory_bytes: self.limits.memory_bytes, last_lines },
            (None, code, _) => Failure::Exited { node, code: code.unwrap_or_default(), last_lines },
        }
    }

    fn start_failure(&self, source: io::Error) -> Failure {
        Failure::Start { node: self.node.clone(), program: self.program.clone(), source }
    }
}

impl Drop for FunctionProcess {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.finish();
        }
    }
}

enum Ended {
    Exited,
    /// It has replied, and closed the channel.
    LetGo,
    TimedOut(Duration),
    Failed(io::Error),
}

struct Events {
    exited: bool,
    stdout: bool,
    stderr: bool,
    news: bool,
    starved: bool,
}

impl Program {
    /// What is executed.
    fn path(&self) -> &Path {
        match self {
            Self::System { binary } => binary,
            Self::Python { python, .. } => python,
        }
    }

    /// The program, its arguments and its environment. User code gets nothing of our environment but the time zone: it may
    /// hold secrets. `scratch` stands in for `/tmp`.
    pub(crate) fn command(&self, scratch: Option<&Path>) -> (PathBuf, Vec<PathBuf>, Vec<(String, String)>) {
        let variable = |name: &str, value: String| (name.to_owned(), value);
        let zone = std::env::var("TZ").ok().map(|zone| variable("TZ", zone));
        let Self::Python { python, runtime, warm, .. } = self else {
            let Self::System { binary } = self else { unreachable!("there are two kinds of program") };
            let inherited = ["FOREBAY_LOG", "RUST_BACKTRACE"];
            let inherited = inherited.iter().filter_map(|name| Some(variable(name, std::env::var(name).ok()?)));
            return (binary.clone(), vec!["function".into()], inherited.chain(zone).collect());
        };
        let bin = python.parent().unwrap_or(Path::new("/usr/bin"));
        let tmp = scratch.map_or_else(|| "/tmp".to_owned(), |scratch| scratch.display().to_string());
        let home = if scratch.is_some() { tmp.clone() } else { format!("{tmp}/home") };
        let mut environment = vec![
            variable("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", bin.display())),
            variable("HOME", home),
            variable("TMPDIR", tmp),
            variable("LANG", "C.UTF-8".into()),
            variable("PYTHONUNBUFFERED", "1".into()),
        ];
        environment.extend(zone);
        // Its tables are born in shared memory; without the library they are copied there.
        let arena = runtime.join(PRELOAD);
        if arena.is_file() {
            environment.push(variable("LD_PRELOAD", arena.display().to_string()));
            // Arrow's other allocators cut columns out of maps of a gigabyte, which get no huge pages.
            environment.push(variable("ARROW_DEFAULT_MEMORY_POOL", "system".into()));
        }
        if !warm.is_empty() {
            environment.push(variable("FOREBAY_WARM", warm.join(",")));
        }
        let arguments = ["-I", "-X", "utf8", "-c", BOOTSTRAP].iter().map(PathBuf::from).chain([runtime.clone()]);
        (python.clone(), arguments.collect(), environment)
    }
}

/// Keeps the last of what was printed.
fn remember(last_lines: &mut VecDeque<String>, line: &str) {
    if line.trim().is_empty() {
        return;
    }
    if last_lines.len() == LAST_LINES_MAX {
        last_lines.pop_front();
    }
    last_lines.push_back(line.chars().take(LAST_LINE_CHARS_MAX).collect());
}

/// Our ends of a function's lines, and the function's: its standard input, output and error.
pub(crate) fn lines() -> io::Result<((Line, File, File), [OwnedFd; 3])> {
    let (line, theirs) = Line::pair()?;
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    Ok(((line, stdout, stderr), [theirs, child_stdout, child_stderr]))
}

/// A pipe whose reading end does not block.
fn pipe() -> io::Result<(File, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader: OwnedFd = PipeReader::into(reader);
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((File::from(reader), writer.into()))
}
