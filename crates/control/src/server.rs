//! The daemon: listens on the home's socket, one thread per connection, and leaves when nobody needs it.
//!
//! ```text
//! lock ─> listen ─> "ready" ─> accept … ─> idle | shutdown | SIGTERM ─> unlink, cancel jobs, answer, close ─> exit
//! ```
//!
//! Invariants: only the holder of `daemon.lock` touches the socket file, so a socket left by a killed daemon is
//! replaced and never a living one; a panic fails the request it happened in and nothing else; before the process
//! ends every job has ended and every request that came in was answered (unless its client does not read).

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forebay_shm::{Channel, Listener};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde_json::Value;

use crate::api::{self, Op, Request};
use crate::client;
use crate::connection::{Answer, Connection};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::limits::{CONNECTIONS_MAX, LAST_ANSWERS_SECONDS_MAX, OPEN_FILES_MAX};
use crate::service::Service;
use crate::settings;

/// Runs the daemon of `home` until it is idle for long enough, or told to end.
pub fn serve(home: &Home) -> Result<()> {
    settings::check()?;
    home.prepare()?;
    // Fails for a process that leads a group already (started by hand in a shell); it is its own session then.
    let _ = rustix::process::setsid();
    // A test or demo folder may vanish; the daemon needs no folder of its own.
    let _ = std::env::set_current_dir("/");
    let _lock = lock(home)?;
    log_to_file(home)?;
    raise_open_files();
    let server = Server::bind(home)?;
    end_on_signals(&server)?;
    // The client that started us reads this line; when there is none, nobody minds.
    let _ = writeln!(std::io::stdout(), "ready").and_then(|()| std::io::stdout().flush());
    server.run(settings::idle_time()?)
}

/// One daemon per home. Waits for a daemon that is on its way out.
fn lock(home: &Home) -> Result<File> {
    let path = home.daemon_lock();
    let file = File::options().create(true).append(true).open(&path).map_err(Error::storage("open", &path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(std::fs::TryLockError::WouldBlock) if client::running(home)?.is_some() => {
            return Err(Error::AlreadyRunning { lock: path });
        }
        Err(std::fs::TryLockError::WouldBlock) => {}
        Err(std::fs::TryLockError::Error(error)) => return Err(Error::storage("lock", path)(error)),
    }
    file.lock().map_err(Error::storage("lock", path))?;
    Ok(file)
}

fn log_to_file(home: &Home) -> Result<()> {
    let path = home.log_file();
    let file = File::options().create(true).append(true).open(&path).map_err(Error::storage("open", path))?;
    let filter = tracing_subscriber::EnvFilter::try_from_env("FOREBAY_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,forebay=info"));
    // Set already: the process that serves has set up its own.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(Mutex::new(file)).try_init();
    Ok(())
}

/// As many open files as we want, or as the system allows.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES_MAX, |maximum| maximum.min(OPEN_FILES_MAX));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        tracing::warn!(%error, "could not raise the limit of open files");
    }
}

fn end_on_signals(server: &Server) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let storage = Error::storage("listen to signals of", "/proc/self");
    let runtime = server.0.service.runtime();
    let _guard = runtime.enter();
    let signals = signal(SignalKind::terminate()).and_then(|terminate| Ok((terminate, signal(SignalKind::interrupt())?)));
    let (mut terminate, mut interrupt) = signals.map_err(storage)?;
    let state = Arc::clone(&server.0);
    runtime.spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to end by a signal");
        state.end();
    });
    Ok(())
}

/// A daemon that listens.
pub struct Server(Arc<State>, Listener, Home);

struct State {
    service: Arc<Service>,
    wake: OwnedFd,
    open: Mutex<Open>,
    /// Signalled whenever a request or a connection ends.
    changed: Condvar,
}

#[derive(Default)]
struct Open {
    ending: bool,
    /// Requests at work.
    busy: usize,
    /// Every open connection, for closing it at the end.
    channels: HashMap<u64, Channel>,
    next: u64,
}

impl Server {
    /// Opens the home's records and listens. The caller holds the home's lock.
    pub fn bind(home: &Home) -> Result<Self> {
        let service = Arc::new(Service::open(home)?);
        let socket = home.socket();
        let listener = Listener::bind(&socket).map_err(Error::storage("listen on", &socket))?;
        listener.set_nonblocking(true).map_err(Error::storage("listen on", &socket))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|error| Error::storage("listen on", &socket)(error.into()))?;
        let state = Arc::new(State { service, wake, open: Mutex::default(), changed: Condvar::new() });
        tracing::info!(socket = %socket.display(), pid = std::process::id(), "listening");
        Ok(Self(state, listener, home.clone()))
    }

    /// Accepts connections until the daemon ends.
    pub fn run(self, idle: Duration) -> Result<()> {
        let Self(state, listener, home) = self;
        let idle = Timespec::try_from(idle).unwrap_or(Timespec { tv_sec: i64::MAX / 2, tv_nsec: 0 });
        while !state.lock().ending {
            let timeout = state.is_idle().then_some(&idle);
            let mut fds = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&state.wake, PollFlags::IN)];
            match poll(&mut fds, timeout) {
                Ok(0) if state.is_idle() => {
                    tracing::info!("idle for long enough");
                    break;
                }
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(Error::storage("listen on", home.socket())(error.into())),
            }
            let mut count = [0; 8];
            let _ = rustix::io::read(&state.wake, &mut count);
            accept_all(&state, &listener);
        }
        // Nobody finds us any more; who came in the meantime is still served.
        let _ = std::fs::remove_file(home.socket());
        accept_all(&state, &listener);
        state.finish();
        tracing::info!("ended");
        Ok(())
    }
}

fn accept_all(state: &Arc<State>, listener: &Listener) {
    while state.lock().channels.len() < CONNECTIONS_MAX {
        let Ok(channel) = listener.accept() else { return };
        // An accepted socket inherits nothing from a listener that does not block, so it blocks.
        let ours = rustix::process::geteuid().as_raw();
        if channel.peer_uid().ok() != Some(ours) {
            tracing::warn!("refused a connection of another user");
            continue;
        }
        let Ok(handle) = channel.try_clone() else { continue };
        let id = {
            let mut open = state.lock();
            open.next += 1;
            let id = open.next;
            open.channels.insert(id, handle);
            id
        };
        let for_thread = Arc::clone(state);
        let spawned = std::thread::Builder::new().name(format!("client-{id}")).spawn(move || {
            serve_connection(&for_thread, &Connection::new(channel));
            for_thread.lock().channels.remove(&id);
            for_thread.wake();
        });
        if let Err(error) = spawned {
            tracing::error!(%error, "could not start a thread for a connection");
            state.lock().channels.remove(&id);
        }
    }
}

fn serve_connection(state: &Arc<State>, connection: &Connection) {
    while let Some(frame) = connection.receive() {
        let accepted = {
            let mut open = state.lock();
            open.busy += 1;
            !open.ending
        };
        let answer = match serde_json::from_slice(&frame.header) {
            _ if !accepted => Err(Error::ShuttingDown.into()),
            Ok(header) => respond(state, connection, header),
            Err(error) => Err(Error::BadRequest { why: error.to_string() }.into()),
        };
        let is_there = connection.answer(answer);
        state.lock().busy -= 1;
        state.wake();
        if !is_there {
            return;
        }
    }
}

fn respond(state: &Arc<State>, connection: &Connection, header: Value) -> Result<Answer, api::Error> {
    let op = header["op"].as_str().unwrap_or_default().to_owned();
    let request = parse(header)?;
    if matches!(request.op, Op::Shutdown) {
        tracing::info!("told to end by a client");
        state.end();
        return Answer::of(Value::Null);
    }
    guarded(&op, || state.service.answer(request, connection))
}

/// Does `work`; its panic is an error of the request. What a panic may leave half done is either behind a lock that
/// survives poisoning (maps of whole values) or on disk, where everything is replaced in one step.
fn guarded(op: &str, work: impl FnOnce() -> Result<Answer, api::Error>) -> Result<Answer, api::Error> {
    std::panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let why = panic_words(&*panic);
        tracing::error!(op, why, "a request panicked");
        Err(Error::Defect { op: op.to_owned(), why }.into())
    })
}

fn parse(header: Value) -> Result<Request> {
    let bad = |why: String| Error::BadRequest { why };
    let version = header["v"].as_u64();
    let timeless = ["ping", "shutdown"].contains(&header["op"].as_str().unwrap_or_default());
    if version != Some(u64::from(api::VERSION)) && !(timeless && version == Some(u64::from(api::PING_VERSION))) {
        let version = version.map_or("none".to_owned(), |version| version.to_string());
        return Err(bad(format!("its protocol version is {version}, and this daemon speaks {}", api::VERSION)));
    }
    serde_json::from_value(header).map_err(|error| bad(error.to_string()))
}

/// What a panic said.
fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it gave no reason".to_owned())
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_idle(&self) -> bool {
        self.lock().channels.is_empty() && self.service.running_jobs() == 0
    }

    /// Makes the accepting loop look around, and whoever waits for the end of requests.
    fn wake(&self) {
        // Cannot fail: a full counter wakes as well.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().ending = true;
        self.wake();
    }

    /// Cancels what runs, waits until every request is answered, and closes every connection.
    fn finish(&self) {
        self.lock().ending = true;
        self.service.end();
        let patience = Duration::from_secs(LAST_ANSWERS_SECONDS_MAX);
        let waited = self.changed.wait_timeout_while(self.lock(), patience, |open| open.busy > 0);
        let (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        for channel in open.channels.values() {
            channel.shutdown();
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_shm::Frame;
    use forebay_types::Coded;

    use super::*;

    fn state(home: &Home) -> Arc<State> {
        home.prepare().unwrap();
        Server::bind(home).unwrap().0
    }

    /// The answer of a connection of its own to one frame.
    fn exchange(state: &Arc<State>, request: &str) -> Value {
        let (ours, theirs) = Channel::pair().unwrap();
        theirs.send(&Frame { header: request.as_bytes().to_vec(), ..Frame::default() }).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| serve_connection(state, &Connection::new(ours)));
            let answer = theirs.recv().unwrap().unwrap();
            theirs.shutdown();
            serde_json::from_slice(&answer.header).unwrap()
        })
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let state = state(&Home::at(root.path()).unwrap());
        for request in [
            "no json",
            "{}",
            r#"{"v":99,"lake":"/l","author":{"name":"a"},"op":"ping"}"#,
            r#"{"v":2,"lake":"/l","author":{"name":"a"},"op":"brew.coffee"}"#,
            r#"{"v":2,"lake":"/l","author":{"name":"a"},"op":"branch.get"}"#,
            r#"{"v":1,"lake":"/l","author":{"name":"a"},"op":"branch.get","name":"main"}"#,
        ] {
            assert_eq!(exchange(&state, request)["error"]["code"], "CTL0009", "{request}");
        }
        let ping = exchange(&state, r#"{"v":1,"lake":"","author":{"name":""},"op":"ping"}"#);
        assert_eq!(ping["result"]["protocol"], api::VERSION);
        state.end();
        let late = exchange(&state, r#"{"v":1,"lake":"","author":{"name":""},"op":"ping"}"#);
        assert_eq!(late["error"]["code"], "CTL0024");
    }

    #[test]
    fn a_panic_is_an_error_of_the_request() {
        let error = guarded("op", || panic!("the words")).unwrap_err();
        assert_eq!((error.code.as_str(), error.causes.as_slice()), ("CTL0010", ["the words".to_owned()].as_slice()));
    }

    #[test]
    fn one_daemon_per_home() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path()).unwrap();
        home.prepare().unwrap();
        let held = lock(&home).unwrap();
        let server = Server::bind(&home).unwrap();
        let thread = std::thread::spawn(move || server.run(Duration::from_secs(3600)));
        assert_eq!(lock(&home).unwrap_err().report().code.0, "CTL0008");
        assert!(client::stop(&home).unwrap());
        thread.join().unwrap().unwrap();
        drop(held);
        drop(lock(&home).unwrap());
    }

    #[test]
    fn leaves_when_idle_and_replaces_a_dead_socket() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path()).unwrap();
        home.prepare().unwrap();
        // What a killed daemon leaves: a socket nobody listens on.
        drop(std::os::unix::net::UnixListener::bind(home.socket()).unwrap());
        assert!(client::running(&home).unwrap().is_none());
        let server = Server::bind(&home).unwrap();
        // Connected before the loop runs: it finds this one first, and stays as long as it is open.
        let channel = Channel::connect(&home.socket()).unwrap();
        let thread = std::thread::spawn(move || server.run(Duration::ZERO));
        let ping = r#"{"v":1,"lake":"","author":{"name":""},"op":"ping"}"#.as_bytes().to_vec();
        channel.send(&Frame { header: ping, ..Frame::default() }).unwrap();
        assert!(channel.recv().unwrap().is_some());
        drop(channel);
        thread.join().unwrap().unwrap();
        assert!(!home.socket().exists());
    }
}
