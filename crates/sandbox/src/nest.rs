//! The first process of a zygote: starts the zygote, and makes the sandboxes of its children, inside its own.
//!
//! ```text
//! (init) steps ─▶ fork ─▶ further steps, exec: the zygote           seccomp, no rights, no sight of what is hidden
//!                   └─▶ wait: order │ supervisor ended │ children ended
//!                         └─▶ order: as the launcher does, in namespaces within these (`child` goes on there)
//! ```
//!
//! It keeps its rights inside its user namespace, because it needs them: it executes nothing but this file, and talks to nobody
//! but the supervisor. The zygote cannot look into it (it has no rights there) nor speak to it.
//!
//! Invariants: the end of the zygote, or of its orders, ends no child that runs; with the last of them this process ends.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use crate::enter::{Refused, enter};
use crate::init::{self, OWN_DESCRIPTORS, refusal};
use crate::launcher::serve_one;
use crate::order::{Ending, Order, Refusal, Role};
use crate::sys;

/// Goes on where every first process has come to. Returns only why it could not.
pub fn run(
    order: &Order,
    [control, orders, null]: [OwnedFd; 3],
    told: OwnedFd,
    signals: &OwnedFd,
    supervisor: &OwnedFd,
) -> Result<(), Refusal> {
    let refused = |what: &str, error: &io::Error| refusal(None, what, error);
    // Its children's user ids are written through `/proc`, which shows those of a hidden process to nobody. Without rights in
    // this namespace nobody can look into it all the same.
    sys::show_memory();
    let Some(zygote) = sys::fork().map_err(|error| refused("fork", &error))? else {
        drop(orders);
        let refusal = become_zygote(order, control, null);
        init::tell(told, &Ending::Refused(refusal));
        sys::exit(127)
    };
    drop((control, null));
    let own = |descriptor: &OwnedFd| sys::move_up(descriptor.as_fd(), OWN_DESCRIPTORS);
    let own = [own(&told), own(signals), own(supervisor), own(&orders)];
    drop((told, orders));
    let [Ok(told), Ok(signals), Ok(supervisor), Ok(orders)] = own else { sys::exit(1) };
    let _ = sys::close_between(0, OWN_DESCRIPTORS.cast_unsigned() - 1);
    Nest { zygote: Some(zygote), children: BTreeSet::new(), orders: Some(orders) }.watch(told, &signals, &supervisor)
}

fn become_zygote(order: &Order, control: OwnedFd, null: OwnedFd) -> Refusal {
    let Role::Zygote { inside } = &order.role else { sys::exit(1) };
    if let Err(Refused { step, error }) = enter(inside) {
        return refusal(Some(inside[step].feature()), &inside[step].to_string(), &error);
    }
    match null.try_clone() {
        Ok(copy) => init::function(order, &[control, null, copy]),
        Err(error) => refusal(None, "set up its descriptors", &error),
    }
}

struct Nest {
    /// Until it has ended.
    zygote: Option<i32>,
    /// First processes of children.
    children: BTreeSet<i32>,
    /// Until they have.
    orders: Option<OwnedFd>,
}

impl Nest {
    fn watch(mut self, told: OwnedFd, signals: &OwnedFd, supervisor: &OwnedFd) -> ! {
        let mut ending = None;
        loop {
            let others = [signals.as_fd(), supervisor.as_fd()];
            let readable = match &self.orders {
                Some(orders) => sys::wait_readable([others[0], others[1], orders.as_fd()]),
                None => sys::wait_readable(others).map(|[signal, gone]| [signal, gone, false]),
            };
            // Only the supervisor ends it: a signal may come from the zygote.
            let Ok([_, false, ordered]) = readable else { sys::exit(1) };
            let _ = sys::is_told_to_end(signals);
            while let Some((process, status, peak_bytes)) = sys::reap(false) {
                self.children.remove(&process);
                if self.zygote == Some(process) {
                    self.zygote = None;
                    ending = Some(Ending::Ended { status, peak_bytes });
                }
            }
            if ordered {
                self.take_order(supervisor);
            }
            if self.zygote.is_none() && self.children.is_empty() {
                ending.iter().for_each(|ending| init::tell_again(&told, ending));
                sys::exit(0);
            }
        }
    }

    fn take_order(&mut self, supervisor: &OwnedFd) {
        let Some(orders) = &self.orders else { return };
        let mut message = Vec::new();
        let received = sys::receive(orders, &mut message).ok().filter(|_| !message.is_empty());
        let own = OWN_DESCRIPTORS.cast_unsigned()..=u32::MAX;
        let served = received.map(|descriptors| serve_one(&message, descriptors, orders, own, supervisor));
        match served {
            Some(Ok(started)) => self.children.extend(started),
            // No more are wanted: the zygote goes, its children finish their work.
            Some(Err(_)) | None => {
                self.orders = None;
                self.zygote.iter().for_each(|zygote| sys::kill_process(*zygote));
            }
        }
    }
}
