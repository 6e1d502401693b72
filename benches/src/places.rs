//! Where a benchmark of both measures.

/// The flags that leave out the lab, or this host.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Places {
    /// Measure only in the lab
    #[arg(long)]
    only_lab: bool,
    /// Measure only on this host
    #[arg(long, conflicts_with = "only_lab")]
    only_host: bool,
}

impl Places {
    /// Whether to measure in the lab.
    pub fn lab(self) -> bool {
        !self.only_host
    }

    /// Whether to measure on this host.
    pub fn host(self) -> bool {
        !self.only_lab
    }
}
