//! Ctrl-C while a job runs: the first asks for an end, the second leaves at once.
//!
//! Without this module Ctrl-C ends the process at once, and the control plane cancels what the closed connection
//! was waiting for; that is right for everything but a run, which should say how it ended.

use std::sync::mpsc;

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Error, Result};
use crate::exit::Exit;

/// Calls `first` at the first Ctrl-C, in a thread of its own that lives as long as the process.
pub fn on_interrupt(first: impl FnOnce() + Send + 'static) -> Result<()> {
    let (armed, is_armed) = mpsc::channel();
    let wait = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(armed.send(Err(error))),
        };
        runtime.block_on(async move {
            let mut interrupts = match signal(SignalKind::interrupt()) {
                Ok(interrupts) => interrupts,
                Err(error) => return drop(armed.send(Err(error))),
            };
            if armed.send(Ok(())).is_err() {
                return;
            }
            interrupts.recv().await;
            // It blocks, so it must not keep the second Ctrl-C from being seen.
            std::thread::spawn(first);
            interrupts.recv().await;
            std::process::exit(Exit::Failed.code().into());
        });
    };
    let spawned = std::thread::Builder::new()
        .name("ctrl-c".to_owned())
        .spawn(wait)
        .and_then(|_| is_armed.recv().unwrap_or_else(|_| Err(std::io::Error::other("the thread ended early"))));
    spawned.map_err(|source| Error::Signals { source }.into())
}
