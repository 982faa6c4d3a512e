//! The client's side of the protocol: finds the daemon of a home, starts it if need be, asks.
//!
//! Invariants: at most one client at a time starts a daemon (`start.lock`); a daemon of another build is replaced
//! when it is idle, and used as it is when it is busy and speaks our protocol; a socket that a killed daemon left
//! behind counts as no daemon. Nothing is retried once a request has been sent.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use forebay_shm::{Channel, Frame};
use rustix::event::{PollFd, PollFlags, Timespec};
use serde_json::Value;

use crate::api::{self, Actor, Daemon, Event, Op, Request};
use crate::error::{Error, Result};
use crate::home::Home;
use crate::limits::{CONNECT_ATTEMPTS_MAX, DAEMON_LOG_BYTES_MAX, DAEMON_START_SECONDS_MAX};
use crate::{secrets, settings, table, version};

/// A connection to the daemon. Carries requests one after another.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    log: PathBuf,
}

/// What the daemon answered.
#[derive(Debug)]
pub struct Answer {
    /// The result, as [`Op`] says for each operation.
    pub result: Value,
    /// The message of a table, for `query`.
    pub blobs: Vec<Vec<u8>>,
    /// Its segments.
    pub fds: Vec<OwnedFd>,
}

impl Answer {
    /// The table beside the result of a `query`. Its batches lie in the segments, which they keep mapped.
    pub fn table(&self) -> Result<(SchemaRef, Vec<RecordBatch>), api::Error> {
        table::read(&self.result, &self.blobs, &self.fds)
    }
}

/// Connects to the daemon of `home`; starts it if it does not run, replaces it if it is of another build and idle.
pub fn connect(home: &Home) -> Result<Client> {
    connect_with(home, &program()?)
}

fn connect_with(home: &Home, program: &Path) -> Result<Client> {
    home.prepare()?;
    let ours = version::of_program(program, home.cache_dir());
    let mut failure = Error::NotRunning { socket: home.socket() };
    for _ in 0..CONNECT_ATTEMPTS_MAX {
        match running(home)? {
            Some((client, daemon)) if daemon.version == ours => return Ok(client),
            Some((client, daemon)) if daemon.running_jobs > 0 => {
                if daemon.protocol == api::VERSION {
                    return Ok(client);
                }
                return Err(Error::DaemonBusy { version: daemon.version, jobs: daemon.running_jobs });
            }
            Some((client, _)) => client.end_daemon(),
            None => {
                if let Err(error) = start(home, program) {
                    // Somebody else's daemon may have been first; the next look will tell.
                    failure = error;
                }
            }
        }
    }
    Err(failure)
}

/// A connection to the daemon, and what it says of itself; `None` if none runs.
pub fn running(home: &Home) -> Result<Option<(Client, Daemon)>> {
    let Ok(channel) = Channel::connect(&home.socket()) else { return Ok(None) };
    let mut client = Client { channel, log: home.log_file() };
    // A daemon that leaves at this moment breaks the connection; that is "none runs".
    let Ok(answer) = client.call(&own_request(Op::Ping), &mut |_| ()) else { return Ok(None) };
    Ok(serde_json::from_value(answer.result).ok().map(|daemon| (client, daemon)))
}

/// Stops the daemon and waits until it is gone. Returns whether one ran.
pub fn stop(home: &Home) -> Result<bool> {
    let Some((client, _)) = running(home)? else { return Ok(false) };
    client.end_daemon();
    Ok(true)
}

impl Client {
    /// Sends a request, hands over what happens meanwhile, and returns the answer. Dropping the client while a
    /// request runs (from a signal handler, say) cancels the request.
    pub fn call(&mut self, request: &Request, on_event: &mut dyn FnMut(Event)) -> Result<Answer, api::Error> {
        self.call_beside(request, &mut |event, _| {
            on_event(event);
            Ok(())
        })
    }

    /// As [`Client::call`], with the descriptors that come beside an event. An error of `on_event` ends the call, and dropping
    /// the client then cancels the request.
    pub fn call_beside<E: From<api::Error>>(
        &mut self,
        request: &Request,
        on_event: &mut dyn FnMut(Event, Vec<OwnedFd>) -> Result<(), E>,
    ) -> Result<Answer, E> {
        let lost = |why: String| api::Error::from(Error::ConnectionLost { why, log: self.log.clone() });
        let header = serde_json::to_vec(request).expect("a request is JSON");
        self.channel.send(&Frame { header, ..Frame::default() }).map_err(|error| lost(error.to_string()))?;
        loop {
            let frame = match self.channel.recv() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Err(lost("it closed the connection before it had answered".to_owned()).into()),
                Err(error) => return Err(lost(error.to_string()).into()),
            };
            let mut header: Value = serde_json::from_slice(&frame.header).map_err(|error| lost(error.to_string()))?;
            if header.get("event").is_some() {
                // An event of a newer daemon that we do not know is not for us.
                if let Ok(event) = serde_json::from_value(header) {
                    on_event(event, frame.fds)?;
                }
            } else if let Some(error) = header.get_mut("error") {
                let error: api::Error = serde_json::from_value(error.take()).unwrap_or_else(|error| lost(error.to_string()));
                return Err(error.into());
            } else {
                let result = header.get_mut("result").map(Value::take).unwrap_or_default();
                return Ok(Answer { result, blobs: frame.blobs, fds: frame.fds });
            }
        }
    }

    /// Asks the daemon to end and waits until its end of the connection is closed, which is the last thing it does.
    fn end_daemon(mut self) {
        if self.call(&own_request(Op::Shutdown), &mut |_| ()).is_ok() {
            while let Ok(Some(_)) = self.channel.recv() {}
        }
    }
}

fn own_request(op: Op) -> Request {
    let author = Actor { name: String::new(), email: String::new() };
    let (profile, variables) = (String::new(), api::Variables::default());
    Request { v: api::PING_VERSION, lake: String::new(), author, profile, variables, op }
}

/// The program that is started: `FOREBAY_BIN`, else this one.
fn program() -> Result<PathBuf> {
    match std::env::var_os("FOREBAY_BIN").filter(|path| !path.is_empty()) {
        Some(path) => Ok(PathBuf::from(path)),
        None => std::env::current_exe().map_err(Error::storage("find the program of this process", "/proc/self/exe")),
    }
}

/// Starts a daemon and waits for its word that it listens.
fn start(home: &Home, program: &Path) -> Result<()> {
    let lock_path = home.start_lock();
    let lock = File::options().create(true).append(true).open(&lock_path).map_err(Error::storage("open", &lock_path))?;
    lock.lock().map_err(Error::storage("lock", &lock_path))?;
    if running(home)?.is_some() {
        return Ok(());
    }
    // It would find them wrong as well, and could tell nobody but its log.
    settings::check()?;
    let log = home.log_file();
    let failed = |why: String| Error::DaemonStart { program: program.to_owned(), why, log: log.clone() };
    let (mut ready, ready_writer) = std::io::pipe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.args(["daemon", "serve"]).current_dir("/");
    command.stdin(Stdio::null()).stdout(ready_writer).stderr(open_log(home)?);
    secrets::clean(&mut command);
    command.env("FOREBAY_CACHE", home.cache_dir());
    if let Some(root) = home.root() {
        command.env("FOREBAY_HOME", root);
    }
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    // The command holds the writing end; the pipe must end when the daemon does.
    drop(command);
    let mut said = Vec::new();
    let until = Instant::now() + Duration::from_secs(DAEMON_START_SECONDS_MAX);
    while !said.ends_with(b"\n") {
        if !readable(&ready, until) {
            return Err(failed(format!("it was not ready after {DAEMON_START_SECONDS_MAX} s")));
        }
        let mut bytes = [0; 64];
        match ready.read(&mut bytes) {
            Ok(0) => {
                let status = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(failed(format!("it ended at once ({status}){}", last_words(&log))));
            }
            Ok(count) => said.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error.to_string())),
        }
    }
    Ok(())
}

fn readable(pipe: &std::io::PipeReader, until: Instant) -> bool {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).expect("a minute is a time");
        match rustix::event::poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => {}
            _ => return true,
        }
    }
}

fn open_log(home: &Home) -> Result<File> {
    let path = home.log_file();
    if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() > DAEMON_LOG_BYTES_MAX) {
        let _ = std::fs::rename(&path, path.with_extension("log.old"));
    }
    File::options().create(true).append(true).open(&path).map_err(Error::storage("open", &path))
}

/// The end of the log, to be put behind an error.
fn last_words(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = &lines[lines.len().saturating_sub(4)..];
    if last.is_empty() { String::new() } else { format!(":\n{}", last.join("\n")) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use forebay_shm::Listener;
    use forebay_types::Coded;
    use serde_json::json;

    use super::*;

    fn home() -> (tempfile::TempDir, Home) {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path()).unwrap();
        home.prepare().unwrap();
        (root, home)
    }

    #[test]
    fn a_daemon_that_does_not_start() {
        let (root, home) = home();
        let program = root.path().join("program");
        std::fs::write(&program, "#!/bin/sh\necho 'no luck' >&2\nexit 3\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let report = start(&home, &program).unwrap_err().report();
        assert_eq!(report.code.0, "CTL0004");
        assert!(report.causes[0].contains("no luck"), "{report}");
        let missing = start(&home, &root.path().join("none")).unwrap_err().report();
        assert_eq!(missing.code.0, "CTL0004");
    }

    #[test]
    fn a_daemon_that_leaves_at_once_is_no_daemon() {
        let (root, home) = home();
        let program = root.path().join("program");
        std::fs::write(&program, "#!/bin/sh\necho ready\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(connect_with(&home, &program).unwrap_err().report().code.0, "CTL0006");
        assert!(!stop(&home).unwrap());
    }

    #[test]
    fn a_busy_daemon_of_another_protocol_stays() {
        let (_root, home) = home();
        let listener = Listener::bind(&home.socket()).unwrap();
        let thread = std::thread::spawn(move || {
            let channel = listener.accept().unwrap();
            channel.recv().unwrap().unwrap();
            let result = json!({ "version": "9+x", "protocol": 99, "pid": 1, "home": "", "started_at": "", "running_jobs": 2 });
            let header = json!({ "result": result }).to_string().into_bytes();
            channel.send(&Frame { header, ..Frame::default() }).unwrap();
        });
        assert_eq!(connect(&home).unwrap_err().report().code.0, "CTL0007");
        thread.join().unwrap();
    }

    #[test]
    fn a_connection_that_breaks() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut client = Client { channel: ours, log: PathBuf::from("/log") };
        let thread = std::thread::spawn(move || theirs.recv().map(drop));
        let error = client.call(&own_request(Op::Ping), &mut |_| ()).unwrap_err();
        assert_eq!(error.code, "CTL0005");
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn a_table_that_is_none() {
        let answer = Answer { result: json!({ "segments": [] }), blobs: Vec::new(), fds: Vec::new() };
        assert_eq!(answer.table().unwrap_err().code, "CTL0025");
        let answer = Answer { result: json!({ "segments": [] }), blobs: vec![b"nothing".to_vec()], fds: Vec::new() };
        assert_eq!(answer.table().unwrap_err().code, "CTL0025");
    }
}
