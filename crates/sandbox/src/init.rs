//! The first process of a sandbox: enters it, starts the function, buries what ends, and takes everything along when it goes.
//!
//! ```text
//! (launcher) clone ─▶ wait for user ids ─▶ groups ─▶ steps ─▶ fork ─▶ limits, descriptors, exec: the function
//!                                                               └─▶ wait: function ended │ supervisor ended │ told to end
//!                                                                     └─▶ tell, exit: the kernel kills all others
//! ```
//!
//! The first process of a zygote goes on in `nest`, that of a zygote's child in `child`.
//! Where it has no process ids of its own it is no more than the parent of all: it then kills what is below it, one by one.
//! Invariant: it executes nothing of the function's, holds none of its descriptors, and cannot be looked into.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use crate::enter::{Refused, enter};
use crate::order::{Command, Ending, Order, Refusal, Role};
use crate::step::Step;
use crate::{child, launcher, nest, sys};

/// Descriptors from here on are the first process's own.
pub const OWN_DESCRIPTORS: i32 = 64;

/// What the launcher hands over.
pub struct Given {
    pub order: Order,
    /// Standard input, output and error of the function.
    pub standard: [OwnedFd; 3],
    /// Where the end is told.
    pub told: OwnedFd,
    /// Readable when the user ids stand; ends without a byte if they could not be set.
    pub ready: OwnedFd,
    /// Readable when the supervisor has ended.
    pub supervisor: OwnedFd,
}

/// The whole life of the first process.
pub fn run(given: Given) -> ! {
    sys::set_name(match given.order.role {
        Role::Function => c"forebay-init",
        Role::Zygote { .. } => c"forebay-nest",
        Role::Child => c"forebay-child",
    });
    let told = given.told.try_clone();
    let result = start(given);
    let (Ok(told), Err(refusal)) = (told, result) else { sys::exit(0) };
    tell(told, &Ending::Refused(refusal));
    sys::exit(1)
}

pub fn tell(told: OwnedFd, ending: &Ending) {
    let mut line = serde_json::to_vec(ending).unwrap_or_default();
    line.push(b'\n');
    // A supervisor that has gone needs no word.
    let _ = std::fs::File::from(told).write_all(&line);
}

/// As [`tell`], by who keeps the descriptor.
pub fn tell_again(told: &OwnedFd, ending: &Ending) {
    if let Ok(told) = told.try_clone() {
        tell(told, ending);
    }
}

fn start(given: Given) -> Result<(), Refusal> {
    let Given { order, standard, told, ready, supervisor } = given;
    let refused = |what: &str, error: &io::Error| refusal(None, what, error);
    if !matches!(std::fs::File::from(ready).read(&mut [0]), Ok(1)) {
        sys::exit(1);
    }
    sys::hide_memory();
    for group in &order.groups {
        std::fs::write(group, "0").map_err(|error| refused(&format!("join {}", group.display()), &error))?;
    }
    sys::own_session();
    let begun = if order.role == Role::Child { child::begin(&order, &standard) } else { take(&order.plan.steps) };
    if let Err(refusal) = begun {
        // While the lines are open: a supervisor that saw their end first would end this process before it has told why.
        tell(told, &Ending::Refused(refusal));
        sys::exit(1);
    }
    sys::remember_children();
    if !order.plan.processes {
        sys::adopt_orphans();
    }
    let signals = sys::signals().map_err(|error| refused("listen to signals", &error))?;
    match order.role {
        Role::Function => {}
        Role::Zygote { .. } => return nest::run(&order, standard, told, &signals, &supervisor),
        Role::Child => child::run(&standard, &told, &signals, &supervisor),
    }
    let Some(function) = sys::fork().map_err(|error| refused("fork", &error))? else {
        drop((signals, supervisor));
        let error = function(&order, &standard);
        tell(told, &Ending::Refused(error));
        sys::exit(127)
    };
    drop(standard);
    let own = [told, signals, supervisor].map(|descriptor| sys::move_up(descriptor.as_fd(), OWN_DESCRIPTORS));
    let [Ok(told), Ok(signals), Ok(supervisor)] = own else { sys::exit(1) };
    let _ = sys::close_between(0, OWN_DESCRIPTORS.cast_unsigned() - 1);
    watch(function, told, &signals, &supervisor, order.plan.processes)
}

/// Takes these steps.
pub fn take(steps: &[Step]) -> Result<(), Refusal> {
    enter(steps).map_err(|Refused { step, error }| refusal(Some(steps[step].feature()), &steps[step].to_string(), &error))
}

pub fn refusal(feature: Option<crate::Feature>, what: &str, error: &io::Error) -> Refusal {
    Refusal { feature, what: what.chars().take(1000).collect(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

/// Waits for the end of the function, or of the supervisor; then ends everything.
pub fn watch(function: i32, told: OwnedFd, signals: &OwnedFd, supervisor: &OwnedFd, alone: bool) -> ! {
    loop {
        let readable = sys::wait_readable([signals.as_fd(), supervisor.as_fd()]);
        let is_told_to_end = sys::is_told_to_end(signals);
        while let Some((child, status, peak_bytes)) = sys::reap(false) {
            if child == function {
                end_others(function, alone);
                tell(told, &Ending::Ended { status, peak_bytes });
                sys::exit(0);
            }
        }
        if is_told_to_end || !matches!(readable, Ok([_, false])) {
            end_others(function, alone);
            sys::exit(1);
        }
    }
}

/// Kills all that is below this process, which the kernel does when the first of a process namespace ends.
fn end_others(function: i32, alone: bool) {
    if alone {
        return;
    }
    sys::kill_group(function);
    loop {
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        let mut some = false;
        for child in children.split_ascii_whitespace().filter_map(|word| word.parse().ok()) {
            some = true;
            sys::kill_process(child);
        }
        // The children of what is killed come to this process: again, until there is none.
        if !some || sys::reap(true).is_none() {
            return;
        }
    }
}

/// Becomes the function. Returns why it could not.
pub fn function(order: &Order, standard: &[OwnedFd; 3]) -> Refusal {
    let Some(command) = &order.command else { sys::exit(0) };
    if let Err(refusal) = prepare(order, command, standard) {
        return refusal;
    }
    match launcher::own() {
        Some(own) if command.program == launcher::OWN_PROGRAM => go_on(command, own),
        _ => execute(command),
    }
}

/// Descriptors, folder, limits and signals of the function.
fn prepare(order: &Order, command: &Command, standard: &[OwnedFd; 3]) -> Result<(), Refusal> {
    sys::own_session();
    for (target, descriptor) in (0..).zip(standard) {
        sys::place(descriptor.as_fd(), target).map_err(|error| refusal(None, "set up its descriptors", &error))?;
    }
    std::env::set_current_dir(Path::new(&command.folder))
        .map_err(|error| refusal(None, &format!("enter the folder {}", command.folder), &error))?;
    for (resource, value) in &order.limits {
        sys::set_limit(*resource, *value).map_err(|error| refusal(None, "set its limits", &error))?;
    }
    sys::close_at_execution(3).map_err(|error| refusal(None, "close its descriptors", &error))?;
    sys::usual_signals();
    Ok(())
}

/// Goes on as another role of this binary, with nothing that its execution would not have left either: no descriptors, variables
/// or signals of the launcher's.
fn go_on(command: &Command, own: launcher::Own) -> ! {
    let _ = sys::close_between(3, u32::MAX);
    sys::set_environment(&command.environment);
    sys::set_name(c"forebay");
    sys::ignore_broken_pipes();
    sys::show_memory();
    std::process::exit(own())
}

fn execute(command: &Command) -> Refusal {
    let strings = |strings: Vec<String>| strings.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let environment = command.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let executable = (|| Ok((CString::new(&*command.program)?, strings(command.arguments.clone())?, strings(environment)?)))();
    let error = match executable {
        Ok((program, arguments, environment)) => sys::execute(&program, &arguments, &environment),
        Err(std::ffi::NulError { .. }) => io::Error::from_raw_os_error(libc::EINVAL),
    };
    refusal(None, &format!("execute {}", command.program), &error)
}
