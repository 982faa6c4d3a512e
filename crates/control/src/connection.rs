//! One client's connection, seen from the daemon: answers go out, and its end is noticed while a request runs.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use forebay_shm::{Channel, Frame};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use serde_json::{Value, json};

use crate::api::{self, Event};
use crate::cancel::Cancel;

/// What a request is answered with.
#[derive(Debug, Default)]
pub struct Answer {
    /// The result.
    pub result: Value,
    /// The message of the table beside it.
    pub message: Option<Arc<Vec<u8>>>,
    /// Its segments.
    pub segments: Vec<Arc<OwnedFd>>,
}

impl Answer {
    /// A result without a table.
    pub fn of(result: impl serde::Serialize) -> Result<Self, api::Error> {
        let result = serde_json::to_value(result).expect("results are JSON");
        Ok(Self { result, ..Self::default() })
    }
}

/// The daemon's end of a connection.
#[derive(Debug)]
pub struct Connection {
    /// `None`: nobody listens (a detached run).
    channel: Option<Channel>,
    /// Held while a frame is sent: events come from several threads.
    sending: Mutex<()>,
}

impl Connection {
    /// Takes over a channel.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { channel: Some(channel), sending: Mutex::default() }
    }

    /// A connection to nobody: it never ends, and what is sent is gone.
    #[must_use]
    pub fn none() -> Self {
        Self { channel: None, sending: Mutex::default() }
    }

    /// The next frame, `None` at the end (a broken frame is an end, too).
    pub fn receive(&self) -> Option<Frame> {
        self.channel.as_ref()?.recv().unwrap_or_else(|error| {
            tracing::debug!(%error, "a connection broke");
            None
        })
    }

    /// Sends an event of a job, waiting for a client that reads slowly (a stopped terminal) until the job is cancelled;
    /// after that, events that would have to wait are dropped. Returns whether the client is still there.
    pub fn event(&self, event: &Event, cancel: &Cancel) -> bool {
        let header = serde_json::to_vec(event).expect("an event is JSON");
        let Some(channel) = &self.channel else { return true };
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // When a socket is writable, most of its buffer is free, and an event fits.
            let tick = Timespec { tv_sec: i64::from(cancel.why().is_none()), tv_nsec: 0 };
            match poll(&mut [PollFd::new(channel, PollFlags::OUT)], Some(&tick)) {
                Ok(0) if cancel.why().is_some() => return true,
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => return is_sent(channel.send_parts(&header, &[], &[])),
                Err(error) => {
                    tracing::warn!(%error, "could not wait for a client");
                    return false;
                }
            }
        }
    }

    /// Sends the reading end of the pipe that a query's rows come through. Returns whether the client is still there.
    pub fn stream(&self, job_id: &str, pipe: &OwnedFd) -> bool {
        let event = Event::Stream { job_id: job_id.to_owned() };
        let header = serde_json::to_vec(&event).expect("an event is JSON");
        self.send(&header, &[], &[pipe.as_fd()])
    }

    /// Sends the answer to a request. Returns whether the client is still there.
    pub fn answer(&self, answer: Result<Answer, api::Error>) -> bool {
        match answer {
            Ok(answer) => {
                let header = json!({ "result": answer.result }).to_string();
                let blobs: Vec<&[u8]> = answer.message.iter().map(|message| message.as_slice()).collect();
                let fds: Vec<_> = answer.segments.iter().map(|segment| segment.as_fd()).collect();
                self.send(header.as_bytes(), &blobs, &fds)
            }
            Err(error) => self.send(json!({ "error": error }).to_string().as_bytes(), &[], &[]),
        }
    }

    fn send(&self, header: &[u8], blobs: &[&[u8]], fds: &[BorrowedFd<'_>]) -> bool {
        let Some(channel) = &self.channel else { return true };
        let _turn = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        is_sent(channel.send_parts(header, blobs, fds))
    }

    /// Throws `cancel` if the client goes away before the returned guard is dropped.
    pub fn watch(&self, cancel: &Cancel) -> std::io::Result<Watch> {
        let channel = self.channel.as_ref().expect("only a client's own request is watched");
        let channel = channel.try_clone().map_err(std::io::Error::other)?;
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let (ended, cancel) = (Arc::clone(&end), cancel.clone());
        let wait = move || {
            // Not readable data (the next request may already be there), only the end of the connection.
            let mut fds = [PollFd::new(&channel, PollFlags::RDHUP), PollFd::new(&*ended, PollFlags::IN)];
            while matches!(poll(&mut fds, None), Err(rustix::io::Errno::INTR)) {}
            if fds[1].revents().is_empty() {
                cancel.cancel("its client went away");
            }
        };
        let thread = std::thread::Builder::new().name("watch".to_owned()).spawn(wait)?;
        Ok(Watch { end, thread: Some(thread) })
    }
}

fn is_sent(sent: Result<(), forebay_shm::Error>) -> bool {
    sent.inspect_err(|error| tracing::debug!(%error, "could not send to a client")).is_ok()
}

/// Ends the watch when it is dropped.
#[derive(Debug)]
pub struct Watch {
    end: Arc<OwnedFd>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Cannot fail: the counter is far from its maximum.
        let _ = rustix::io::write(&*self.end, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_leaves_is_noticed() {
        let (ours, theirs) = Channel::pair().unwrap();
        let connection = Connection::new(ours);
        let cancel = Cancel::default();
        let (sender, noticed) = std::sync::mpsc::channel();
        cancel.on_cancel(move || sender.send(()).unwrap());
        let watch = connection.watch(&cancel).unwrap();
        theirs.send(&Frame { header: b"{}".to_vec(), ..Frame::default() }).unwrap();
        assert!(connection.receive().is_some());
        assert_eq!(cancel.why(), None);
        drop(theirs);
        noticed.recv().unwrap();
        drop(watch);
        assert!(connection.receive().is_none());
    }

    #[test]
    fn a_client_that_does_not_read_cannot_hold_up_a_cancel() {
        let (ours, theirs) = Channel::pair().unwrap();
        while rustix::net::send(&ours, &[0; 4096], rustix::net::SendFlags::DONTWAIT).is_ok() {}
        let connection = Connection::new(ours);
        let cancel = Cancel::default();
        cancel.cancel("it was stopped");
        assert!(connection.event(&Event::Warning { text: "x".to_owned() }, &cancel));
        drop(theirs);
        assert!(!connection.event(&Event::Warning { text: "x".to_owned() }, &cancel));
    }

    #[test]
    fn a_watch_ends_without_a_cancel() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let cancel = Cancel::default();
        drop(Connection::new(ours).watch(&cancel).unwrap());
        assert_eq!(cancel.why(), None);
    }
}
