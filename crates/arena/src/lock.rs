//! A lock that never allocates and can be reset after a fork: one word, a short spin, then a futex.
//!
//! The word names the holder, so that to take the lock and to be its holder are one step: a signal handler that forks in the
//! middle of our work always sees whether its own thread holds the lock.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::system;

const FREE: usize = 0;
/// Beside the holder's number, which is even: somebody may sleep.
const AWAITED: usize = 1;
const SPINS: u32 = 100;

/// A value behind a lock.
pub struct Lock<T> {
    /// The thread that holds it, or [`FREE`].
    word: AtomicUsize,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The value of a lock that is held.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicUsize::new(FREE), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard(self)
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Not `then_some`: a guard that is made is also dropped, and would let go what somebody else holds.
        self.word.compare_exchange(FREE, system::thread(), Ordering::Acquire, Ordering::Relaxed).is_ok().then(|| Guard(self))
    }

    /// Whether this thread holds the lock. (Nobody else can make that true or false.)
    pub fn is_ours(&self) -> bool {
        self.word.load(Ordering::Relaxed) & !AWAITED == system::thread()
    }

    /// The value, for one who holds the lock without a guard (see [`Lock::acquire`]).
    ///
    /// # Safety
    /// The calling thread has acquired the lock, and no guard of it exists.
    #[expect(clippy::mut_from_ref)]
    pub unsafe fn held(&self) -> &mut T {
        // SAFETY: the caller holds the lock, so nobody else reaches the value.
        unsafe { &mut *self.value.get() }
    }

    /// Waits for the lock and keeps it until [`Lock::release`].
    pub fn acquire(&self) {
        let this = system::thread();
        for _ in 0..SPINS {
            if self.word.compare_exchange_weak(FREE, this, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            std::hint::spin_loop();
        }
        loop {
            // Others may sleep, too: who has waited wakes the next.
            let Err(seen) = self.word.compare_exchange(FREE, this | AWAITED, Ordering::Acquire, Ordering::Relaxed) else {
                return;
            };
            let awaited = seen | AWAITED;
            if seen == awaited || self.word.compare_exchange(seen, awaited, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                futex(&self.word, libc::FUTEX_WAIT, awaited);
            }
        }
    }

    /// Lets the lock go, or frees it in a forked child, where nobody waits.
    pub fn release(&self) {
        if self.word.swap(FREE, Ordering::Release) & AWAITED != 0 {
            futex(&self.word, libc::FUTEX_WAKE, 1);
        }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: a guard exists only while its lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: a guard exists only while its lock is held, and this one is borrowed alone.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// The kernel looks at 32 bits, of which a holder and "free" differ: [`AWAITED`] is among them.
#[expect(clippy::cast_possible_truncation)]
fn futex(word: &AtomicUsize, operation: i32, value: usize) {
    const { assert!(cfg!(target_endian = "little"), "the low half of a word comes first") };
    // SAFETY: the word lives as long as the call; no timeout is passed.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr().cast::<u32>(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value as u32,
            std::ptr::null::<libc::timespec>(),
        );
    }
}
