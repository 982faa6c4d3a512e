//! A zygote, from both ends: a warm process in a sandbox of its own, whose children go on in sandboxes of theirs.
//!
//! ```text
//! supervisor                  nest (first process of the zygote)     zygote                 first process of a child's sandbox
//!  start ───────────────────▶ steps ── fork ──────────────────────▶ imports, waits
//!  conceive ─ Order(Child) ─▶ clone ─────────────────────────────────────────────────────▶ namespaces
//!        ◀── most of them ─────────────────────────────────────────────────────────────────┤
//!        ── namespaces ───────────────────────────────────────────▶ `twin` ─▶ child        ╎
//!        ◀── "forked" ─────────────────────────────────────────────┘           ╎           ╎
//!  deliver ─ Birth, standard descriptors ─────────────────────────────────────────────────▶ steps
//!                                                                              │ ◀─ Birth, files
//!                                                                              └─ lands ──▶ checked, limited
//!        ◀── pidfd of the function ────────────────────────────────────────────────────────┘
//! ```
//!
//! What is conceived waits for its delivery, before it is known which function it will be ([`Unborn`]); where none waits, both is
//! done at once ([`Zygote::fork`]), and the child is forked while its sandbox is finished.
//!
//! A child is in namespaces, under a user id, in a root, and under limits of its own, as a function that was executed is. It has a
//! copy of the zygote's memory and none of its descriptors. What it does reaches neither the zygote nor another child.
//!
//! Invariants: the zygote holds no right but that to join namespaces it was handed; every wait of the supervisor has a deadline.

use std::io::{self, PipeReader, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::child::{LANDED, WAY_IN};
use crate::enter::{Refused, enter};
use crate::launcher::{Launcher, Sandboxed, ask};
use crate::limits::{BIRTH_FDS, CHILD_FDS, DOORS_MAX, NAMESPACES};
use crate::order::{Answer, Order, Role};
use crate::planning::landing;
use crate::step::{Plan, Step};
use crate::{error::Error, sys, twin};

/// What a zygote says when it has forked; anything else it says is why it could not.
const FORKED: &[u8] = b"forked";

/// What a zygote is told when it is to have a child.
const CHILD: &[u8] = b"child";

/// What an unborn child and the first process of its sandbox are told: which function it will be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// What is left to do for its sandbox.
    pub steps: Vec<Step>,
    /// What the child does itself when it has joined its sandbox.
    pub landing: Vec<Step>,
    /// Limits of each of its processes: numbers of `setrlimit`, and values.
    pub limits: Vec<(u32, u64)>,
    /// The folder it starts in.
    pub folder: PathBuf,
    /// What else its program should know.
    pub word: String,
}

impl Birth {
    /// A function confined by `plan`, of which the [`beginning`](crate::beginning) is made.
    #[must_use]
    pub fn new(plan: Plan, limits: Vec<(u32, u64)>, folder: PathBuf, word: String) -> Self {
        let landing = landing(&plan);
        let steps = plan.steps.into_iter().filter(|step| !matches!(step, Step::Unshare { .. })).collect();
        Self { steps, landing, limits, folder, word }
    }
}

/// What a child is given to hold.
#[derive(Debug, Clone, Copy)]
pub struct Outfit<'a> {
    /// Standard input, output and error.
    pub standard: [BorrowedFd<'a>; 3],
    /// Of the control groups that it joins before anything else, see [`Group::open_doors`](crate::group::Group::open_doors). Whether it did is
    /// not known here.
    pub doors: &'a [OwnedFd],
}

/// The supervisor's end of a zygote. Dropping it lets the zygote end; children that run go on.
#[derive(Debug)]
pub struct Zygote {
    nest: Sandboxed,
    orders: Mutex<OwnedFd>,
    control: Mutex<OwnedFd>,
}

/// A child that waits for its birth. Dropping it ends it.
#[derive(Debug)]
pub struct Unborn {
    sandbox: Sandboxed,
    /// To the first process of its sandbox.
    line: OwnedFd,
}

/// A child that has landed, and waits for what comes through its standard input.
#[derive(Debug)]
pub struct Born {
    /// Its sandbox.
    pub sandbox: Sandboxed,
    /// The function itself.
    pub function: OwnedFd,
}

impl Zygote {
    /// Starts one. Its program says what it likes through its standard input, see [`Zygote::hear`].
    ///
    /// # Errors
    /// As [`Launcher::start`].
    pub fn start(launcher: &Launcher, order: &Order) -> Result<Self, Error> {
        let (orders, their_orders) = sys::channel().map_err(Error::Launcher)?;
        let (control, their_control) = sys::channel().map_err(Error::Launcher)?;
        let nest = launcher.start_nest(order, &their_control, &their_orders)?;
        Ok(Self { nest, orders: Mutex::new(orders), control: Mutex::new(control) })
    }

    /// Readable when nothing is left of it and of its children.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.nest.pidfd()
    }

    /// Ends it and all its children, at once.
    pub fn kill(&self) {
        // What has ended already is what was wanted.
        let _ = sys::kill(self.nest.pidfd());
    }

    /// Says something to the program before it serves.
    ///
    /// # Errors
    /// It is gone.
    pub fn say(&self, message: &[u8]) -> io::Result<()> {
        sys::send(&lock(&self.control), message, &[])
    }

    /// The next thing that the program says; empty: it has ended.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`], or it is gone.
    pub fn hear(&self, deadline: Instant) -> io::Result<Vec<u8>> {
        receive(&lock(&self.control), deadline).map(|(message, _)| message)
    }

    /// Makes a child, for whatever function, in a sandbox that has this [`beginning`](crate::beginning).
    ///
    /// # Errors
    /// [`Error::Refused`] if that cannot be made; [`Error::Zygote`] if it is not forked in time. What was begun is ended.
    pub fn conceive(&self, beginning: &Plan, patience: Duration) -> Result<Unborn, Error> {
        self.beget(beginning, |_| Ok(()), Instant::now() + patience)
    }

    /// Makes a child for this function.
    ///
    /// # Errors
    /// [`Error::Refused`] if its sandbox cannot be made; [`Error::Zygote`] if it did not land in time, or is not what it should
    /// be. What was begun is ended.
    pub fn fork(&self, beginning: &Plan, birth: &Birth, outfit: Outfit<'_>, patience: Duration) -> Result<Born, Error> {
        let deadline = Instant::now() + patience;
        self.beget(beginning, |unborn| unborn.tell(birth, outfit), deadline)?.land(deadline)
    }

    /// Has a child forked; does something for it in the `meantime`.
    fn beget(
        &self,
        beginning: &Plan,
        meantime: impl FnOnce(&Unborn) -> io::Result<()>,
        deadline: Instant,
    ) -> Result<Unborn, Error> {
        let (unborn, meeting) = self.sandbox(beginning)?;
        let forked = receive(&unborn.line, deadline).and_then(|(word, namespaces)| {
            if word != WAY_IN || namespaces.len() != NAMESPACES {
                return Err(ended());
            }
            let descriptors: Vec<_> = std::iter::once(&meeting).chain(&namespaces).map(|descriptor| descriptor.as_fd()).collect();
            let control = lock(&self.control);
            sys::send(&control, CHILD, &descriptors)?;
            let done = meantime(&unborn);
            let (answer, _) = receive(&control, deadline)?;
            if answer == FORKED { done } else { Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())) }
        });
        match forked {
            Ok(()) => Ok(unborn),
            Err(error) => Err(unborn.end(error)),
        }
    }

    /// A sandbox with nobody in it but its first process; and where its function will meet that.
    fn sandbox(&self, beginning: &Plan) -> Result<(Unborn, OwnedFd), Error> {
        let order = Order { plan: beginning.clone(), groups: vec![], limits: vec![], command: None, role: Role::Child };
        let bytes = serde_json::to_vec(&order).map_err(|error| Error::Launcher(error.into()))?;
        let (told, tell): (PipeReader, _) = io::pipe().map_err(Error::Launcher)?;
        let (line, their_line) = sys::channel().map_err(Error::Launcher)?;
        let (meeting, their_meeting) = sys::channel().map_err(Error::Launcher)?;
        let descriptors = [their_meeting.as_fd(), their_line.as_fd(), their_line.as_fd(), tell.as_fd()];
        match ask(&lock(&self.orders), &bytes, &descriptors).map_err(Error::Zygote)? {
            (Answer::Started, Some(pidfd)) => Ok((Unborn { sandbox: Sandboxed::new(pidfd, told), line }, meeting)),
            (Answer::Refused(refusal), _) => Err(Error::Refused(refusal)),
            (Answer::Started, None) => Err(Error::Zygote(io::ErrorKind::InvalidData.into())),
        }
    }
}

impl Unborn {
    /// Readable when nothing is left of it.
    #[cfg(test)]
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        self.sandbox.pidfd()
    }

    /// It becomes this function.
    ///
    /// # Errors
    /// As [`Zygote::fork`].
    pub fn deliver(self, birth: &Birth, outfit: Outfit<'_>, patience: Duration) -> Result<Born, Error> {
        match self.tell(birth, outfit) {
            Ok(()) => self.land(Instant::now() + patience),
            Err(error) => Err(self.end(error)),
        }
    }

    fn tell(&self, birth: &Birth, outfit: Outfit<'_>) -> io::Result<()> {
        if outfit.doors.len() > DOORS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut descriptors = outfit.standard.to_vec();
        descriptors.extend(outfit.doors.iter().map(|door| door.as_fd()));
        sys::send(&self.line, &serde_json::to_vec(birth)?, &descriptors)
    }

    fn land(self, deadline: Instant) -> Result<Born, Error> {
        let landed = receive(&self.line, deadline).and_then(|(word, descriptors)| match descriptors.into_iter().next() {
            Some(function) if word == LANDED => Ok(function),
            _ => Err(ended()),
        });
        match landed {
            Ok(function) => Ok(Born { sandbox: self.sandbox, function }),
            Err(error) => Err(self.end(error)),
        }
    }

    /// Ends it, after that error or after what was behind it.
    fn end(mut self, error: io::Error) -> Error {
        let _ = sys::kill(self.sandbox.pidfd());
        let _ = sys::wait_readable([self.sandbox.pidfd()]);
        match self.sandbox.ending() {
            Some(crate::Ending::Refused(refusal)) => Error::Refused(refusal),
            _ => Error::Zygote(error),
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ended before it was there")
}

fn lock(socket: &Mutex<OwnedFd>) -> std::sync::MutexGuard<'_, OwnedFd> {
    socket.lock().unwrap_or_else(PoisonError::into_inner)
}

fn receive(socket: &OwnedFd, deadline: Instant) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    sys::wait_readable_until([socket.as_fd()], deadline)?;
    let mut message = Vec::new();
    let descriptors = sys::receive(socket, &mut message)?;
    Ok((message, descriptors))
}

/// The zygote's end.
#[derive(Debug)]
pub struct Door(OwnedFd);

/// A child to be made.
#[derive(Debug)]
pub struct Request {
    meeting: OwnedFd,
    namespaces: [OwnedFd; NAMESPACES],
}

/// Where a fork comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// In the process that forked.
    Parent,
    /// In the new one.
    Child,
}

impl Door {
    /// Standard input, with `/dev/null` in its place.
    ///
    /// # Errors
    /// The system's.
    pub fn from_stdin() -> io::Result<Self> {
        let socket = sys::move_up(io::stdin().as_fd(), 3)?;
        sys::place(std::fs::File::open("/dev/null")?.as_fd(), 0)?;
        Ok(Self(socket))
    }

    /// Says something to the supervisor.
    ///
    /// # Errors
    /// It is gone.
    pub fn say(&self, message: &[u8]) -> io::Result<()> {
        sys::send(&self.0, message, &[])
    }

    /// What the supervisor says before the first child.
    ///
    /// # Errors
    /// It is gone.
    pub fn hear(&self) -> io::Result<Vec<u8>> {
        let mut message = Vec::new();
        sys::receive(&self.0, &mut message).map(|_| message)
    }

    /// Waits for the next child to make; `None`: no more are wanted.
    ///
    /// # Errors
    /// The supervisor is gone, or does not make sense.
    pub fn wait(&self) -> io::Result<Option<Request>> {
        let mut message = Vec::new();
        let descriptors = sys::receive(&self.0, &mut message)?;
        if message.is_empty() {
            return Ok(None);
        }
        let descriptors: [OwnedFd; CHILD_FDS] = descriptors.try_into().map_err(nonsense)?;
        let [meeting, namespaces @ ..] = descriptors;
        Ok(Some(Request { meeting, namespaces }))
    }

    /// Tells the supervisor how the fork went.
    ///
    /// # Errors
    /// It is gone.
    pub fn answer(&self, result: &io::Result<Side>) -> io::Result<()> {
        match result {
            Ok(_) => self.say(FORKED),
            Err(error) => self.say(error.to_string().as_bytes()),
        }
    }
}

/// Names this process, for those who look at processes: what runs, and what waits.
pub fn set_name(name: &str) {
    if let Ok(name) = std::ffi::CString::new(name) {
        sys::set_name(&name);
    }
}

/// Ends a child that could not land, without running anything of the zygote's program.
pub fn leave() -> ! {
    sys::exit(1)
}

impl Request {
    /// Forks. The child must do nothing before it calls [`Request::land`].
    ///
    /// # Errors
    /// The system's.
    pub fn fork(&self) -> io::Result<Side> {
        twin::fork_into(&self.namespaces)
    }

    /// In the child: waits for its birth, joins its groups and its files, gives up every right, closes what is not the child's, and
    /// says that it is there. Gives [`Birth::word`].
    ///
    /// # Errors
    /// The child must end.
    pub fn land(self) -> io::Result<String> {
        let Self { meeting, namespaces } = self;
        drop(namespaces);
        sys::own_session();
        // The files come last: nobody sees a root that is not finished, least of all what lies behind it.
        let mut message = Vec::new();
        let mut descriptors = sys::receive(&meeting, &mut message)?;
        let doors = descriptors.split_off(BIRTH_FDS.min(descriptors.len()));
        let [files, standard @ ..]: [OwnedFd; BIRTH_FDS] = descriptors.try_into().map_err(nonsense)?;
        // First: memory counts from here on. Where it is not let in, the supervisor takes it in.
        doors.into_iter().for_each(|door| drop(std::fs::File::from(door).write_all(b"0")));
        let birth: Birth = serde_json::from_slice(&message)?;
        sys::join(files)?;
        enter(&birth.landing).map_err(|Refused { error, .. }| error)?;
        std::env::set_current_dir(&birth.folder)?;
        for (target, descriptor) in (0..).zip(&standard) {
            sys::place(descriptor.as_fd(), target)?;
        }
        // Changing user has hidden the process from itself.
        sys::show_memory();
        sys::send(&meeting, sys::own_id().to_string().as_bytes(), &[])?;
        drop((meeting, standard));
        sys::close_between(3, u32::MAX)?;
        Ok(birth.word)
    }
}

fn nonsense(_: Vec<OwnedFd>) -> io::Error {
    io::ErrorKind::InvalidData.into()
}
