//! The first process of the sandbox of a zygote's child: makes it, hands out the way in, and looks at who comes.
//!
//! ```text
//! (init) namespaces to the supervisor ─▶ wait for the birth ─▶ all other steps ─▶ birth, files to the child ─▶ wait: it has landed
//!                     ╎                                                                ╎                           └─▶ check, limit, show, watch it
//!             (it is forked meanwhile, or long before)                         (it waits for them)
//! ```
//!
//! Whoever comes in gave up its rights by itself. A zygote made of a hostile package might not have, so that is checked here, by
//! a process that executes nothing of theirs: no call is made to a function that has more rights than it should.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use crate::init::{self, OWN_DESCRIPTORS, refusal};
use crate::limits::INSIDE_ID;
use crate::order::{Ending, Order, Refusal};
use crate::sys;
use crate::zygote::Birth;

/// What this process says to the supervisor, with descriptors: namespaces, then the function.
pub const WAY_IN: &[u8] = b"way in";
pub const LANDED: &[u8] = b"landed";

/// Namespaces that the function is born in, in the order in which they are joined: the first gives the right to join the others.
const BORN_IN: [&str; crate::limits::NAMESPACES] = ["user", "pid", "ipc", "uts", "net"];

/// Makes the namespaces and shows the way in.
pub fn begin(order: &Order, [_, line, _]: &[OwnedFd; 3]) -> Result<(), Refusal> {
    init::take(&order.plan.steps)?;
    let spaces = BORN_IN.map(own_namespace).into_iter().collect::<io::Result<Vec<_>>>();
    let spaces = spaces.map_err(|error| refusal(None, "open its namespaces", &error))?;
    let spaces: Vec<_> = spaces.iter().map(|space| space.as_fd()).collect();
    sys::send(line, WAY_IN, &spaces).map_err(|error| refusal(None, "show the way in", &error))
}

fn own_namespace(name: &str) -> io::Result<std::fs::File> {
    std::fs::File::open(format!("/proc/self/ns/{name}"))
}

/// Goes on where every first process has come to.
pub fn run([meeting, line, _]: &[OwnedFd; 3], told: &OwnedFd, signals: &OwnedFd, supervisor: &OwnedFd) -> ! {
    let own = [told, signals, supervisor, meeting, line].map(|descriptor| sys::move_up(descriptor.as_fd(), OWN_DESCRIPTORS));
    let [Ok(told), Ok(signals), Ok(supervisor), Ok(meeting), Ok(line)] = own else { sys::exit(1) };
    let _ = sys::close_between(0, OWN_DESCRIPTORS.cast_unsigned() - 1);
    let child = Child { told, signals, supervisor, meeting, line };
    match child.take_in() {
        Ok(function) => init::watch(function, child.told, &child.signals, &child.supervisor, true),
        Err(refusal) => {
            init::tell_again(&child.told, &Ending::Refused(refusal));
            sys::exit(1)
        }
    }
}

/// What this process holds.
struct Child {
    told: OwnedFd,
    signals: OwnedFd,
    supervisor: OwnedFd,
    /// To the function.
    meeting: OwnedFd,
    /// To the supervisor.
    line: OwnedFd,
}

impl Child {
    /// Finishes the sandbox when it is known for what function, and gives the number of that when it is in it.
    fn take_in(&self) -> Result<i32, Refusal> {
        let refused = |what: &str, error: &io::Error| refusal(None, what, error);
        let (word, descriptors) = self.next(&self.line);
        let birth: Birth = serde_json::from_slice(&word).map_err(|error| refused("read what it is for", &error.into()))?;
        init::take(&birth.steps)?;
        let handed = own_namespace("mnt").and_then(|files| {
            let all: Vec<BorrowedFd<'_>> =
                std::iter::once(files.as_fd()).chain(descriptors.iter().map(|one| one.as_fd())).collect();
            sys::send(&self.meeting, &word, &all)
        });
        handed.map_err(|error| refused("hand out its files", &error))?;
        drop(descriptors);
        let (number, _) = self.next(&self.meeting);
        let number = std::str::from_utf8(&number).ok().and_then(|number| number.parse().ok()).unwrap_or_else(|| sys::exit(1));
        self.admit(number, &birth).map_err(|error| refused("take in a zygote's child", &error))?;
        Ok(number)
    }

    /// What comes through this socket next. Ends with whoever is at its other end, with the function, and with the supervisor.
    fn next(&self, socket: &OwnedFd) -> (Vec<u8>, Vec<OwnedFd>) {
        let mut word = Vec::new();
        loop {
            let readable = sys::wait_readable([self.signals.as_fd(), self.supervisor.as_fd(), socket.as_fd()]);
            let Ok([signal, false, said]) = readable else { sys::exit(1) };
            if said {
                match sys::receive(socket, &mut word) {
                    Ok(descriptors) if !word.is_empty() => return (word, descriptors),
                    _ => sys::exit(1),
                }
            }
            if signal {
                let _ = sys::is_told_to_end(&self.signals);
                if let Some((_, status, peak_bytes)) = sys::reap(false) {
                    init::tell_again(&self.told, &Ending::Ended { status, peak_bytes });
                    sys::exit(0);
                }
            }
        }
    }

    fn admit(&self, function: i32, birth: &Birth) -> io::Result<()> {
        let status = std::fs::read_to_string(format!("/proc/{function}/status"))?;
        if let Some(why) = objection(&status) {
            return Err(io::Error::other(why));
        }
        for (resource, value) in &birth.limits {
            sys::set_limit_of(function, *resource, *value)?;
        }
        let function = sys::pidfd(function)?;
        sys::send(&self.line, LANDED, &[function.as_fd()])
    }
}

/// What is wrong with a process, by its `/proc/<process>/status`.
fn objection(status: &str) -> Option<String> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let ids = format!("{INSIDE_ID}\t{INSIDE_ID}\t{INSIDE_ID}\t{INSIDE_ID}");
    let none = "0000000000000000";
    let wanted = [
        ("Uid", ids.as_str()),
        ("Gid", &ids),
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ];
    let wrong = wanted.iter().find(|(name, value)| field(name) != Some(value));
    let filters = || field("Seccomp_filters").is_some_and(|count| count.parse::<u32>().is_ok_and(|count| count < 2));
    match wrong {
        Some((name, _)) => Some(format!("its {name} is {}", field(name).unwrap_or("unknown"))),
        None => filters().then(|| "it has not the filter of a function".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::objection;

    const GOOD: &str = "Name:\tpython\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nThreads:\t1\n\
                        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\n\
                        CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t2\n";

    #[test]
    fn a_function_with_rights_is_not_taken_in() {
        assert_eq!(objection(GOOD), None);
        let bad = [
            ("Uid:\t1000\t1000", "Uid:\t1000\t0"),
            ("CapEff:\t0000000000000000", "CapEff:\t0000000000200000"),
            ("CapBnd:\t0000000000000000", "CapBnd:\t000001ffffffffff"),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("Seccomp_filters:\t2", "Seccomp_filters:\t1"),
            ("Threads:\t1", "Threads:\t2"),
        ];
        for (from, to) in bad {
            assert!(objection(&GOOD.replace(from, to)).is_some(), "{to}");
        }
        assert!(objection("").is_some());
    }
}
