//! Places for what is open at a time: a limit that several threads share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of places. Clones share them.
#[derive(Debug, Clone)]
pub struct Places {
    taken: Arc<AtomicUsize>,
    limit: usize,
}

/// One place, which is free again when this is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Places {
    /// `limit` places, all of them free.
    pub fn new(limit: usize) -> Places {
        Places {
            taken: Arc::default(),
            limit,
        }
    }

    /// Takes a place; `None` if none is free.
    pub fn take(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.taken));
        let before = self.taken.fetch_add(1, Ordering::SeqCst);
        // Otherwise it is given back at once, which frees none of another.
        (before < self.limit).then_some(place)
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_when_its_holder_has_left() {
        let places = Places::new(2);
        let first = places.take().unwrap();
        let _second = places.clone().take().unwrap();
        assert!(places.take().is_none());
        assert!(places.take().is_none());
        assert_eq!(places.taken(), 2);
        drop(first);
        let _third = places.take().unwrap();
        assert!(places.take().is_none());
    }
}
