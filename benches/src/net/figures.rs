//! What the measuring program prints (`tests/host/programs/net.c`).

use serde::{Deserialize, Serialize};

use crate::Error;

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amounts {
    /// Data in each direction, in MiB.
    pub mib: u32,
    /// Round trips on one connection.
    pub trips: u32,
    /// Connections, one after the other.
    pub connections: u32,
}

impl Amounts {
    /// The amounts for this much data in each direction: each measurement takes about as long.
    pub fn of(mib: u32) -> Amounts {
        Amounts {
            mib,
            trips: 4 * mib,
            connections: mib.div_ceil(2),
        }
    }

    /// The measurements: the name that the program knows, and the amount.
    pub fn work(self) -> [(&'static str, u32); 4] {
        [
            ("up", self.mib),
            ("down", self.mib),
            ("trips", self.trips),
            ("connections", self.connections),
        ]
    }
}

/// What was measured between two ends of TCP connections.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// From the client to the server, in Gbit/s.
    pub up: f64,
    /// From the server to the client, in Gbit/s.
    pub down: f64,
    /// One byte and the answer, in microseconds.
    pub trip: f64,
    /// Connections a second, one after the other, each with one round trip.
    pub connections: f64,
}

impl Figures {
    /// Reads what the program has printed for each of [`Amounts::work`].
    ///
    /// # Errors
    /// When one is missing or invalid.
    pub fn parse(output: &str) -> Result<Figures, Error> {
        let parse = || {
            Some(Figures {
                up: gbits(find(output, "up")?),
                down: gbits(find(output, "down")?),
                trip: micros(find(output, "trips")?),
                connections: 1e6 / micros(find(output, "connections")?),
            })
        };
        parse().ok_or_else(|| Error::Invalid {
            what: "net",
            why: output.to_owned(),
        })
    }
}

/// The amount and the nanoseconds of a measurement.
fn find(output: &str, what: &str) -> Option<(f64, f64)> {
    let mark = format!("NET {what} ");
    let line = output.lines().find_map(|line| line.split_once(&mark))?.1;
    let mut numbers = line.split_whitespace().map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok().filter(|number| *number > 0);
    Some((next()? as f64, next()? as f64))
}

fn gbits((mib, nanoseconds): (f64, f64)) -> f64 {
    mib * f64::from(8 << 20) / nanoseconds
}

fn micros((count, nanoseconds): (f64, f64)) -> f64 {
    nanoseconds / count / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_a_console() {
        let console = "[ 1.0] x NET up 1000 8388608000\r\nNET down 500 8388608000\r\n\
                       NET trips 10 1000000\r\nNET connections 10 1000000\r\n";
        let figures = Figures::parse(console).unwrap();
        assert_eq!(
            (figures.up, figures.down, figures.trip, figures.connections),
            (1.0, 0.5, 100.0, 10_000.0)
        );
        for (bad, good) in [
            ("NET down 500 0\r", "NET down 500 8388608000\r"),
            ("", "NET trips 10 1000000"),
        ] {
            let broken = console.replace(good, bad);
            assert!(Figures::parse(&broken).is_err(), "{broken}");
        }
    }
}
