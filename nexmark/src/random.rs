//! Pseudo-random numbers that are a function of a seed and an event's number.

/// A sequence of numbers for one event.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

/// The odd number nearest to 2^64 divided by the golden ratio: steps of it fill the range evenly.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

impl Random {
    /// The sequence of the event `number`.
    pub(crate) fn new(seed: u64, number: u64) -> Self {
        Self(mixed(seed ^ mixed(number.wrapping_mul(STEP))))
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mixed(self.0)
    }

    /// A number below `bound`, which is not 0. (Not quite uniform: by less than `bound` in 2^64.)
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// One of `choices`.
    pub(crate) fn choose<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Lower-case letters.
    pub(crate) fn letters(&mut self, length: usize) -> String {
        (0..length).map(|_| char::from(b'a' + self.below(26) as u8)).collect()
    }

    /// Lower-case letters in words.
    pub(crate) fn words(&mut self, length: usize) -> String {
        let letter = |random: &mut Self| match random.below(13) {
            0 => ' ',
            _ => char::from(b'a' + random.below(26) as u8),
        };
        let text: String = (0..length).map(|_| letter(self)).collect();
        text.trim().to_owned()
    }
}

/// Every bit of the result depends on every bit of `value` (the finaliser of SplitMix64).
fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}
