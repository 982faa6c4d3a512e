//! A lock that never allocates and can be reset after a fork: one word, a short spin, then a futex.

use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crate::system;

const FREE: u32 = 0;
const HELD: u32 = 1;
/// Held, and somebody may sleep.
const AWAITED: u32 = 2;
const SPINS: u32 = 100;

/// A value behind a lock.
pub struct Lock<T> {
    word: AtomicU32,
    /// The thread that holds it.
    holder: AtomicUsize,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through a guard, of which there is one at a time.
unsafe impl<T: Send> Sync for Lock<T> {}

/// The value of a lock that is held.
pub struct Guard<'a, T>(&'a Lock<T>);

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Self { word: AtomicU32::new(FREE), holder: AtomicUsize::new(0), value: UnsafeCell::new(value) }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard(self)
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // Not `then_some`: a guard that is made is also dropped, and would let go what somebody else holds.
        self.word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok().then(|| {
            self.holder.store(system::thread(), Ordering::Relaxed);
            Guard(self)
        })
    }

    /// Whether this thread holds the lock. (Nobody else can make that true or false.)
    pub fn is_ours(&self) -> bool {
        self.holder.load(Ordering::Relaxed) == system::thread()
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
        self.wait();
        self.holder.store(system::thread(), Ordering::Relaxed);
    }

    fn wait(&self) {
        for _ in 0..SPINS {
            if self.word.compare_exchange_weak(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return;
            }
            std::hint::spin_loop();
        }
        while self.word.swap(AWAITED, Ordering::Acquire) != FREE {
            futex(&self.word, libc::FUTEX_WAIT, AWAITED);
        }
    }

    /// Lets the lock go, or frees it in a forked child, where nobody waits.
    pub fn release(&self) {
        self.holder.store(0, Ordering::Relaxed);
        if self.word.swap(FREE, Ordering::Release) == AWAITED {
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

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    // SAFETY: the word lives as long as the call; no timeout is passed.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation | libc::FUTEX_PRIVATE_FLAG,
            value,
            std::ptr::null::<libc::timespec>(),
        );
    }
}
