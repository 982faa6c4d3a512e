//! The pure parts: runs of units against a naive model (also under Miri), and every order of steps of the lock.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU8, Ordering};

use proptest::prelude::*;

use crate::units::{CHUNK_UNITS, Kind, Lists, Runs, Unit, head_of};

/// Units as plain values: what each is, and whose.
struct Model {
    units: Vec<Unit>,
    owners: Vec<AtomicU8>,
    lists: [Lists; 2],
    /// Used blocks: start to length and shard.
    blocks: BTreeMap<u32, (u32, u8)>,
    /// Whether a free unit is dirty.
    dirty: Vec<bool>,
}

impl Model {
    fn new(chunks: &[u8]) -> Self {
        let mut model = Self {
            units: (0..chunks.len() as u32 * CHUNK_UNITS).map(|_| Unit::default()).collect(),
            owners: chunks.iter().map(|&owner| AtomicU8::new(owner)).collect(),
            lists: [Lists::EMPTY, Lists::EMPTY],
            blocks: BTreeMap::new(),
            dirty: vec![false; chunks.len() * CHUNK_UNITS as usize],
        };
        for (number, &shard) in chunks.iter().enumerate() {
            model.runs(shard).give(number as u32 * CHUNK_UNITS, CHUNK_UNITS, false);
        }
        model
    }

    fn runs(&mut self, shard: u8) -> Runs<'_> {
        Runs::new(&self.units, &self.owners, &mut self.lists[usize::from(shard)], shard)
    }

    fn take(&mut self, shard: u8, dirty: bool, length: u32, alignment: u32) {
        let Some(taken) = self.runs(shard).take(dirty, length, alignment) else { return };
        assert_eq!((taken.dirty, taken.start % alignment), (dirty, 0));
        for unit in taken.start..taken.start + length {
            assert_eq!(self.dirty[unit as usize], dirty);
            assert_eq!(self.owners[(unit / CHUNK_UNITS) as usize].load(Ordering::Relaxed), shard);
        }
        self.used(taken.start, length, shard);
    }

    fn used(&mut self, start: u32, length: u32, shard: u8) {
        let overlap = self.blocks.range(..start + length).next_back().is_some_and(|(&at, &(long, _))| at + long > start);
        assert!(!overlap, "{start}+{length} was in use");
        self.units[start as usize].set_used(Kind::Block, length, u64::from(length) << 33);
        self.blocks.insert(start, (length, shard));
    }

    fn give(&mut self, number: usize, dirty: bool) {
        let Some((&start, &(length, shard))) = self.blocks.iter().nth(number % self.blocks.len().max(1)) else { return };
        assert_eq!(self.units[start as usize].requested(), u64::from(length) << 33);
        self.blocks.remove(&start);
        self.runs(shard).give(start, length, dirty);
        self.dirty[start as usize..(start + length) as usize].fill(dirty);
    }

    fn extend(&mut self, number: usize, more: u32) {
        let Some((&start, &(length, shard))) = self.blocks.iter().nth(number % self.blocks.len().max(1)) else { return };
        let end = start + length;
        if let Some(dirty) = self.runs(shard).extend(end, more) {
            assert_eq!(dirty as usize, self.dirty[end as usize..(end + more) as usize].iter().filter(|&&dirty| dirty).count());
            self.blocks.remove(&start);
            self.used(start, length + more, shard);
        }
    }

    fn claim(&mut self, shard: u8, start: u32, length: u32) {
        let mut claimed = Vec::new();
        self.runs(shard).claim(start, length, |start, length, _| claimed.push((start, length)));
        for (start, length) in claimed {
            self.used(start, length, shard);
        }
    }

    /// Everything that must hold, from the list of blocks alone.
    fn check(&mut self) {
        let mut expected = [Vec::new(), Vec::new()];
        let mut at = 0u32;
        let mut open: Option<(u32, u32, bool, u8)> = None;
        while (at as usize) < self.units.len() {
            let owner = self.owners[(at / CHUNK_UNITS) as usize].load(Ordering::Relaxed);
            if let Some(&(length, _)) = self.blocks.get(&at) {
                expected_run(&mut expected, open.take());
                assert_eq!(head_of(&self.units, at + length - 1), Some(at));
                at += length;
                continue;
            }
            let dirty = self.dirty[at as usize];
            open = match open {
                Some((start, length, same, shard)) if (same, shard) == (dirty, owner) => Some((start, length + 1, same, shard)),
                other => {
                    expected_run(&mut expected, other);
                    Some((at, 1, dirty, owner))
                }
            };
            at += 1;
        }
        expected_run(&mut expected, open);
        for shard in 0..2u8 {
            assert_eq!(self.runs(shard).listed(), expected[usize::from(shard)], "shard {shard}");
        }
    }
}

fn expected_run(expected: &mut [Vec<(u32, u32, bool)>; 2], run: Option<(u32, u32, bool, u8)>) {
    if let Some((start, length, dirty, shard)) = run {
        expected[usize::from(shard)].push((start, length, dirty));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take(u8, bool, u32, u32),
    Give(usize, bool),
    Extend(usize, u32),
    Claim(u8, u32, u32),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![1u32..8, 1u32..200, Just(CHUNK_UNITS), Just(CHUNK_UNITS + 1)];
    prop_oneof![
        5 => (0u8..2, any::<bool>(), length, 0u32..7).prop_map(|(shard, dirty, length, power)| Step::Take(shard, dirty, length, 1 << power)),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(number, dirty)| Step::Give(number, dirty)),
        2 => (any::<usize>(), 1u32..40).prop_map(|(number, more)| Step::Extend(number, more)),
        1 => (0u8..2, 0u32..4 * CHUNK_UNITS, 1u32..60).prop_map(|(shard, start, length)| Step::Claim(shard, start, length)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 3 } else { 300 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn runs_agree_with_a_naive_model(
        chunks in proptest::collection::vec(0u8..2, 4..5),
        steps in proptest::collection::vec(step(), 1..if cfg!(miri) { 40 } else { 120 }),
    ) {
        let mut model = Model::new(&chunks);
        for step in steps {
            match step {
                Step::Take(shard, dirty, length, alignment) => model.take(shard, dirty, length, alignment),
                Step::Give(number, dirty) => model.give(number, dirty),
                Step::Extend(number, more) => model.extend(number, more),
                Step::Claim(shard, start, length) => model.claim(shard, start, length.min(4 * CHUNK_UNITS - start)),
            }
            model.check();
        }
    }
}

#[test]
fn dirty_runs_are_cleaned_until_none_is_left() {
    let mut model = Model::new(&[0]);
    for _ in 0..10 {
        model.take(0, false, 3, 1);
    }
    (0..10).step_by(2).for_each(|number| model.give(number / 2, true));
    let mut cleaned = 0;
    while model.runs(0).clean_one(|_, length| {
        cleaned += length;
        true
    }) {}
    assert_eq!(cleaned, 15);
    model.dirty.fill(false);
    model.check();
}

#[test]
fn a_lock_that_could_not_be_taken_stays_taken() {
    let lock = crate::lock::Lock::new(0);
    let guard = lock.lock();
    assert!(lock.try_lock().is_none() && lock.try_lock().is_none());
    drop(guard);
    assert!(lock.try_lock().is_some() && lock.try_lock().is_some());
}

/// A thread that takes and lets go the lock, as `lock.rs` does it, one atomic step at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Taker {
    Spins(u8),
    Swaps,
    Asks,
    Sleeps,
    Holds,
    Wakes,
    Done,
}

/// Every order in which the steps of threads can happen: nobody shares the lock, nobody sleeps for ever.
#[test]
fn no_order_of_steps_breaks_the_lock() {
    const FREE: u8 = 0;
    const HELD: u8 = 1;
    const AWAITED: u8 = 2;
    type Moment = (u8, [Taker; 3]);
    let mut seen: HashSet<Moment> = HashSet::new();
    let mut open: Vec<Moment> = vec![(FREE, [Taker::Spins(2); 3])];
    while let Some(moment) = open.pop() {
        if !seen.insert(moment) {
            continue;
        }
        let (word, takers) = moment;
        assert!(takers.iter().filter(|&&taker| taker == Taker::Holds).count() <= 1, "{moment:?}");
        let with = |number: usize, taker: Taker| {
            let mut takers = takers;
            takers[number] = taker;
            takers
        };
        let mut next = |word: u8, takers: [Taker; 3]| open.push((word, takers));
        let mut moves = 0;
        for (number, &taker) in takers.iter().enumerate() {
            moves += usize::from(!matches!(taker, Taker::Sleeps | Taker::Done));
            match taker {
                Taker::Spins(_) if word == FREE => next(HELD, with(number, Taker::Holds)),
                Taker::Spins(0) => next(word, with(number, Taker::Swaps)),
                Taker::Spins(left) => next(word, with(number, Taker::Spins(left - 1))),
                Taker::Swaps if word == FREE => next(AWAITED, with(number, Taker::Holds)),
                Taker::Swaps => next(AWAITED, with(number, Taker::Asks)),
                // The kernel compares the word again before it lets a thread sleep, and may wake it for nothing.
                Taker::Asks => {
                    next(word, with(number, Taker::Swaps));
                    if word == AWAITED {
                        next(word, with(number, Taker::Sleeps));
                    }
                }
                Taker::Holds => next(FREE, with(number, if word == AWAITED { Taker::Wakes } else { Taker::Done })),
                Taker::Wakes => {
                    let asleep = |taker: &Taker| *taker == Taker::Sleeps;
                    if !takers.iter().any(asleep) {
                        next(word, with(number, Taker::Done));
                    }
                    for other in (0..3).filter(|&other| asleep(&takers[other])) {
                        let mut woken = with(number, Taker::Done);
                        woken[other] = Taker::Swaps;
                        next(word, woken);
                    }
                }
                Taker::Sleeps | Taker::Done => {}
            }
        }
        assert!(moves > 0 || takers.iter().all(|&taker| taker == Taker::Done), "asleep for ever: {moment:?}");
    }
    assert!(seen.len() > 100, "{}", seen.len());
}
