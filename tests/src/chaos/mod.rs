//! A random walk over the verbs of workspaces while processes are killed, the disk is full or
//! read-only, and the clock jumps.
//!
//! Each round does a few things to one workspace, then checks what must be true whatever happened:
//! `status` agrees with `/proc`, `start` works, what the guest has flushed is there by checksum, and
//! `delete` leaves nothing. What a round does follows from the seed and its number alone, so that a
//! round which fails is repeated by `chaos --seed=SEED --from=ROUND --rounds=1`, apart from the
//! state that earlier rounds left, and from time.
//!
//! | module | content |
//! |---|---|
//! | [`product`] | commands, and what holds for each of them |
//! | [`process`] | the processes of a workspace, in `/proc` |
//! | `workspace` | one workspace, and what its guest has flushed |
//! | `step` | what a round does |
//! | `fault` | what a round suffers for certain |
//! | `check` | what must be true after it |
//! | `host` | what happens to the file system and the clock below |

mod check;
mod fault;
mod host;
pub mod process;
pub mod product;
mod step;
mod workspace;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

pub use self::host::Surroundings;
use self::product::Product;
use self::workspace::Workspace;
use crate::Error;
use crate::numbers::Numbers;

/// The names of the workspaces: few, so that names are used again.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What a walk does.
#[derive(Debug, Clone)]
pub struct Options {
    /// The command line.
    pub program: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// The image of all workspaces.
    pub image: String,
    /// What all random numbers follow from.
    pub seed: u64,
    /// The rounds.
    pub rounds: Range<u64>,
    /// How many faults each round has for certain.
    pub faults: u64,
    /// No round begins after it, except until every fault has happened.
    pub end: Option<Instant>,
    /// What may happen to the host.
    pub surroundings: Surroundings,
}

/// A walk in progress.
#[derive(Debug)]
struct Walk {
    product: Product,
    options: Options,
    /// Those that exist.
    workspaces: BTreeMap<&'static str, Workspace>,
    numbers: Numbers,
    /// For names of files.
    files: u64,
    tally: BTreeMap<&'static str, u64>,
}

/// Walks, and calls `begin` with the number of each round. Returns how many rounds there were, and how
/// often what happened.
///
/// # Errors
/// What was not true, with all that happened in its round.
pub fn walk(
    options: Options,
    mut begin: impl FnMut(u64),
) -> Result<(u64, BTreeMap<&'static str, u64>), Error> {
    let product = Product::new(options.program.clone(), options.state.clone())?;
    let mut walk = Walk {
        product,
        workspaces: BTreeMap::new(),
        numbers: Numbers::new(options.seed),
        files: options.rounds.start << 32,
        tally: BTreeMap::new(),
        options,
    };
    let mut done = 0;
    for round in walk.options.rounds.clone() {
        let faults = walk.options.faults;
        let all_happened = faults == 0 || faults * done >= fault::KINDS;
        if all_happened && walk.options.end.is_some_and(|end| Instant::now() >= end) {
            break;
        }
        begin(round);
        walk.product.begin();
        walk.numbers = Numbers::of_round(walk.options.seed, round);
        let name = *walk.numbers.pick(&NAMES);
        let result = walk
            .steps(name)
            .and_then(|()| walk.faults(name, round))
            .and_then(|()| walk.check(name))
            .and_then(|()| walk.check_others(name));
        walk.with_log(round, result)?;
        done += 1;
    }
    walk.product.begin();
    let result = walk.end();
    walk.with_log(walk.options.rounds.end, result)?;
    Ok((done, walk.tally))
}

impl Walk {
    /// Adds to an error what happened in its round, and ends the VMs, which nobody else would.
    fn with_log(&mut self, round: u64, result: Result<(), Error>) -> Result<(), Error> {
        let Err(error) = result else {
            return Ok(());
        };
        let seed = self.options.seed;
        let error = Error::Unexpected {
            what: format!("seed {seed}, round {round}"),
            got: format!(
                "{error}: {:?}\nthe round:\n{}",
                std::error::Error::source(&error),
                self.product.log().join("\n")
            ),
        };
        let words = ["delete", "--force"].into_iter().chain(NAMES);
        let _ = self.product.run(words);
        Err(error)
    }

    fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }
}
