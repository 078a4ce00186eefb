//! Feeds a target with its seeds, and with changes of what it accepted. The same seed makes the same changes.

use crate::Target;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest input.
const LONGEST: usize = 64 << 10;
/// Accepted inputs that are kept to be changed further.
const POOL: usize = 2048;

/// Random numbers that can be had again.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() >> 11).unwrap_or(0) % limit.max(1)
    }
}

/// Numbers at which decoders err.
const NUMBERS: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    32 << 20,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes an input in one to eight places.
pub fn change(random: &mut Random, pool: &[Vec<u8>], bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(8) {
        let at = random.below(bytes.len() + 1);
        let length = random.below(16) + 1;
        let end = (at + length).min(bytes.len());
        match random.below(8) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.next().to_le_bytes()[0];
                }
            }
            2 => {
                let number = NUMBERS.get(random.below(NUMBERS.len())).copied().unwrap_or(0);
                let wide = 1 << random.below(4);
                let big = random.below(2) == 0;
                for (index, byte) in bytes.iter_mut().skip(at).take(wide).enumerate() {
                    let shift = if big { wide - 1 - index } else { index };
                    *byte = number.to_le_bytes().get(shift).copied().unwrap_or(0);
                }
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let new: Vec<u8> = (0..length).map(|_| random.next().to_le_bytes()[0]).collect();
                bytes.splice(at..at, new);
            }
            6 => bytes.truncate(at),
            _ => {
                if let Some(other) = pool.get(random.below(pool.len())) {
                    let from = random.below(other.len() + 1);
                    let piece = other.get(from..).unwrap_or_default();
                    bytes.truncate(at);
                    bytes.extend(piece.iter().take(4096));
                }
            }
        }
    }
    bytes.truncate(LONGEST);
}

/// How often a target was fed.
#[derive(Debug, Default, Clone, Copy)]
pub struct Figures {
    /// Inputs.
    pub executions: u64,
    /// Of which it accepted so many.
    pub accepted: u64,
    /// The longest that one took.
    pub slowest: Duration,
}

static PANICKED: AtomicBool = AtomicBool::new(false);

/// From now on a panic anywhere, also in a task whose end nobody asks for, is noticed by [`feed`].
pub fn notice_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICKED.store(true, Ordering::SeqCst);
        before(panic);
    }));
}

fn once(target: &Target, bytes: &[u8], figures: &mut Figures) -> bool {
    let began = Instant::now();
    let accepted = std::panic::catch_unwind(|| (target.run)(bytes)).unwrap_or(false);
    figures.slowest = figures.slowest.max(began.elapsed());
    figures.executions += 1;
    figures.accepted += u64::from(accepted);
    if PANICKED.swap(false, Ordering::SeqCst) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{} fails with {hex}", target.name);
    }
    accepted
}

/// Feeds a target until that many inputs were had or the time is over.
///
/// # Panics
/// When a rule is broken, with the input that broke it.
#[must_use]
pub fn feed(target: &Target, seed: u64, executions: u64, time: Duration) -> Figures {
    let mut figures = Figures::default();
    let mut random = Random::new(seed);
    let mut pool = (target.seeds)();
    for bytes in &pool {
        once(target, bytes, &mut figures);
    }
    let until = Instant::now() + time;
    while figures.executions < executions && Instant::now() < until {
        let mut bytes = pool.get(random.below(pool.len())).cloned().unwrap_or_default();
        change(&mut random, &pool, &mut bytes);
        if once(target, &bytes, &mut figures) {
            if pool.len() < POOL {
                pool.push(bytes);
            } else if let Some(old) = {
                let at = random.below(POOL);
                pool.get_mut(at)
            } {
                *old = bytes;
            }
        }
    }
    figures
}
