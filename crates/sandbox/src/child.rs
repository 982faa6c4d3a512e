//! The first process of the sandbox of a zygote's child: makes it, hands out the way in, and looks at who comes.
//!
//! ```text
//! (init) namespaces to the supervisor ─▶ all other steps ─▶ files to the function ─▶ wait: it has landed │ somebody has ended
//!                     ╎                                         ╎                     └─▶ check it, limit it, show it ─▶ watch it
//!             (it is forked meanwhile)                   (it waits for them)
//! ```
//!
//! Whoever comes in gave up its rights by itself. A zygote made of a hostile package might not have, so that is checked here, by
//! a process that executes nothing of theirs: no call is made to a function that has more rights than it should.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::init::{self, OWN_DESCRIPTORS, refusal};
use crate::limits::INSIDE_ID;
use crate::order::{Ending, Order, Refusal};
use crate::step::Step;
use crate::sys;

/// What this process says to the supervisor, with descriptors: namespaces, then the function.
pub const WAY_IN: &[u8] = b"way in";
pub const LANDED: &[u8] = b"landed";

/// What it says to the function, with a descriptor: the namespace of its files.
const FILES: &[u8] = b"files";

/// Namespaces that the function is born in, in the order in which they are joined: the first gives the right to join the others.
const BORN_IN: [&str; crate::limits::NAMESPACES] = ["user", "pid", "ipc", "uts", "net"];

/// Makes the namespaces and shows the way in. Gives how many of the steps that took.
pub fn begin(order: &Order, [_, supervisor_line, _]: &[OwnedFd; 3]) -> Result<usize, Refusal> {
    let is_unshare = |step: &Step| matches!(step, Step::Unshare { .. });
    let begun = order.plan.steps.iter().position(is_unshare).map_or(0, |at| at + 1);
    init::take(order, 0..begun)?;
    let spaces = BORN_IN.map(own_namespace).into_iter().collect::<io::Result<Vec<_>>>();
    let spaces = spaces.map_err(|error| refusal(None, "open its namespaces", &error))?;
    let spaces: Vec<_> = spaces.iter().map(|space| space.as_fd()).collect();
    sys::send(supervisor_line, WAY_IN, &spaces).map_err(|error| refusal(None, "show the way in", &error))?;
    Ok(begun)
}

fn own_namespace(name: &str) -> io::Result<std::fs::File> {
    std::fs::File::open(format!("/proc/self/ns/{name}"))
}

/// Goes on where every first process has come to. Returns only why it could not.
pub fn run(
    order: &Order,
    [meeting, supervisor_line, _]: &[OwnedFd; 3],
    told: OwnedFd,
    signals: &OwnedFd,
    supervisor: &OwnedFd,
) -> Result<(), Refusal> {
    let refused = |what: &str, error: &io::Error| refusal(None, what, error);
    let handed = own_namespace("mnt").and_then(|files| sys::send(meeting, FILES, &[files.as_fd()]));
    handed.map_err(|error| refused("hand out its files", &error))?;
    let own = |descriptor: &OwnedFd| sys::move_up(descriptor.as_fd(), OWN_DESCRIPTORS);
    let own = [own(&told), own(signals), own(supervisor), own(meeting), own(supervisor_line)];
    drop(told);
    let [Ok(told), Ok(signals), Ok(supervisor), Ok(meeting), Ok(supervisor_line)] = own else { sys::exit(1) };
    let _ = sys::close_between(0, OWN_DESCRIPTORS.cast_unsigned() - 1);
    let function = wait_for_landing(&told, &signals, &supervisor, &meeting);
    if let Err(error) = receive(order, function, &supervisor_line) {
        init::tell(told, &Ending::Refused(refused("take in a zygote's child", &error)));
        sys::exit(1);
    }
    drop((meeting, supervisor_line));
    init::watch(function, told, &signals, &supervisor, true)
}

/// The number of the function, when it says that it is here.
fn wait_for_landing(told: &OwnedFd, signals: &OwnedFd, supervisor: &OwnedFd, meeting: &OwnedFd) -> i32 {
    let mut word = Vec::new();
    loop {
        let readable = sys::wait_readable([signals.as_fd(), supervisor.as_fd(), meeting.as_fd()]);
        let Ok([signal, false, met]) = readable else { sys::exit(1) };
        if met {
            let landed = sys::receive(meeting, &mut word).ok().and_then(|_| std::str::from_utf8(&word).ok()?.parse().ok());
            return landed.unwrap_or_else(|| sys::exit(1));
        }
        if signal {
            let _ = sys::is_told_to_end(signals);
            if let Some((_, status, peak_bytes)) = sys::reap(false) {
                init::tell_again(told, &Ending::Ended { status, peak_bytes });
                sys::exit(0);
            }
        }
    }
}

fn receive(order: &Order, function: i32, supervisor_line: &OwnedFd) -> io::Result<()> {
    let status = std::fs::read_to_string(format!("/proc/{function}/status"))?;
    if let Some(why) = objection(&status) {
        return Err(io::Error::other(why));
    }
    for (resource, value) in &order.limits {
        sys::set_limit_of(function, *resource, *value)?;
    }
    let function = sys::pidfd(function)?;
    sys::send(supervisor_line, LANDED, &[function.as_fd()])
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
