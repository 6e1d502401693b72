//! Processing of many items on all CPUs.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// More threads do not read or hash faster: memory bandwidth is the limit.
const MAX_THREADS: usize = 8;

/// Calls `work` with each item, on several threads, in no particular order; each thread first
/// creates its own state. An error ends its thread, the others continue; one error is returned.
pub(crate) fn each<T: Sync, S, E: Send>(
    items: &[T],
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, &T) -> Result<(), E> + Sync,
    panicked: impl Fn() -> E,
) -> Result<(), E> {
    let next = AtomicUsize::new(0);
    let thread = || -> Result<(), E> {
        let mut state = state();
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut state, item)?;
        }
        Ok(())
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(MAX_THREADS).min(items.len());
    thread::scope(|scope| {
        // A helper that cannot be started (process limit) is not needed: the others do its work.
        let helper = |_| thread::Builder::new().spawn_scoped(scope, thread).ok();
        let helpers: Vec<_> = (1..threads).map_while(helper).collect();
        let mut result = thread();
        for helper in helpers {
            result = result.and(helper.join().unwrap_or_else(|_| Err(panicked())));
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn processes_every_item_once_and_returns_an_error() {
        let items: Vec<u64> = (1..=1000).collect();
        let sum = AtomicU64::new(0);
        let add = |(): &mut (), item: &u64| {
            sum.fetch_add(*item, Ordering::Relaxed);
            Ok::<_, u64>(())
        };
        assert_eq!(each(&items, || (), add, || 0), Ok(()));
        assert_eq!(sum.into_inner(), 500_500);
        let fail = |(): &mut (), item: &u64| if *item == 500 { Err(*item) } else { Ok(()) };
        assert_eq!(each(&items, || (), fail, || 0), Err(500));
        assert_eq!(each(&[], || (), fail, || 0), Ok(()));
    }
}
