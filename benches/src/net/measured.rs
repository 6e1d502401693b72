//! What is measured, and the measurement itself: in a network that has been made, with a guest that
//! has been built.

use std::path::{Path, PathBuf};
use std::time::Duration;

use microagent_proto::control::Engine;
use serde::{Deserialize, Serialize};

use super::client;
use super::commands::{self, Commands};
use super::figures::{Amounts, Figures};
use super::monitor::{self, Monitor};
use crate::Error;
use crate::guest::Guest;

/// What to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The number of boots with each monitor, and of runs of each command.
    pub rounds: u32,
    /// How much each of them measures.
    pub amounts: Amounts,
    /// Only boots with this monitor.
    pub only: Option<Monitor>,
}

/// With what to measure. The arguments of a run inside.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Inside {
    /// The engine, `qemu` or `kvm`, of our monitor, and what QEMU is accelerated by
    #[arg(long, hide = true)]
    pub inside: Option<String>,
    /// The guest's kernel
    #[arg(long, hide = true)]
    kernel: Option<PathBuf>,
    /// The guest's initramfs
    #[arg(long, hide = true)]
    initramfs: Option<PathBuf>,
    /// The measuring program
    #[arg(long, hide = true)]
    program: Option<PathBuf>,
    /// The image for commands
    #[arg(long, hide = true)]
    image: Option<String>,
}

/// Everything that was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Measured {
    /// From the host to the server, without a VM.
    pub direct: Figures,
    /// The boots of each round: with our device, then with QEMU's.
    pub boots: Vec<Vec<Figures>>,
    /// With the product's commands.
    pub commands: Commands,
}

impl Task {
    /// The same for the lab, where repeating it gives the same figures, and a MiB takes long.
    pub fn in_lab(self) -> Task {
        Task {
            rounds: 1,
            amounts: Amounts::of(self.amounts.mib.min(32)),
            ..self
        }
    }

    /// The arguments of a run inside.
    pub(super) fn words(
        self,
        engine: &str,
        guest: &Guest,
        program: &Path,
        image: &str,
    ) -> Vec<String> {
        let mut words: Vec<String> = ["--inside", engine, "--image", image]
            .map(str::to_owned)
            .to_vec();
        for (name, path) in [
            ("--kernel", guest.kernel.as_path()),
            ("--initramfs", guest.initramfs.as_path()),
            ("--program", program),
        ] {
            words.extend([name.to_owned(), path.display().to_string()]);
        }
        for (name, number) in [("--rounds", self.rounds), ("--mib", self.amounts.mib)] {
            words.extend([name.to_owned(), number.to_string()]);
        }
        if let Some(monitor) = self.only {
            words.extend(["--only".to_owned(), monitor.to_string()]);
        }
        words
    }

    /// When to give up.
    pub(super) fn deadline(self) -> Duration {
        Duration::from_secs(600 + u64::from(self.rounds) * (120 + u64::from(self.amounts.mib)))
    }

    /// Measures here.
    ///
    /// # Errors
    /// When a VM does not complete its measurements, or a command fails.
    pub fn measure(self, with: &Inside) -> Result<Measured, Error> {
        let engine = match with.inside.as_deref() {
            Some("kvm") => Engine::Kvm,
            _ => Engine::Qemu,
        };
        let path = |given: &Option<PathBuf>| given.clone().unwrap_or_default();
        let guest = Guest::at(path(&with.kernel), path(&with.initramfs));
        let (program, image) = (path(&with.program), with.image.as_deref());
        let direct = client::measure(&program, client::SERVER, &self.amounts.work())?;
        let monitors = match self.only {
            Some(monitor) => vec![monitor],
            None => vec![Monitor::Ours, Monitor::Qemu],
        };
        let boot = |_| -> Result<Vec<Figures>, Error> {
            let boots = monitors.iter();
            boots
                .map(|monitor| monitor::measure(*monitor, engine, &guest))
                .collect()
        };
        let boots = (0..self.rounds).map(boot).collect::<Result<_, Error>>()?;
        let commands = match self.only {
            Some(_) => Commands::default(),
            None => commands::measure(
                &program,
                image.unwrap_or_default(),
                self.amounts,
                self.rounds,
            )?,
        };
        Ok(Measured {
            direct: Figures::parse(&direct)?,
            boots,
            commands,
        })
    }
}
