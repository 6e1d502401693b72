//! Pseudo-random numbers that follow from a seed.

/// A deterministic sequence (`splitmix64`).
#[derive(Debug, Clone)]
pub struct Numbers(u64);

impl Numbers {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Numbers {
        Numbers(seed)
    }

    /// The sequence of round `round` of a test with `seed`: it does not depend on what happened in
    /// other rounds.
    pub fn of_round(seed: u64, round: u64) -> Numbers {
        let mut numbers = Numbers(seed);
        Numbers(numbers.draw() ^ round.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.draw() % limit
    }

    /// Whether something happens that does in `percent` of all cases.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `items`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        // The remainder fits.
        &items[self.below(items.len() as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_the_same_numbers_whatever_happened_before() {
        let mut fifth = Numbers::of_round(7, 5);
        let again = Numbers::of_round(7, 5).draw();
        assert_eq!(fifth.draw(), again);
        assert_ne!(fifth.draw(), again);
        assert_ne!(Numbers::of_round(7, 6).draw(), again);
        assert_ne!(Numbers::of_round(8, 5).draw(), again);
    }
}
