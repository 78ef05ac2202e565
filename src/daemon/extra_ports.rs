//! FOU ports beside the data port, of tunnels that port searches made. The kernel's ports carry no owner, so each is noted in the
//! state directory before it is opened: what a daemon left open that was killed before it changed the link, the next one closes.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::state_dir::ExtraPortsFile;
use crate::kernel::fou::{Added, Family};
use crate::kernel::{Kernel, KernelError};

/// The extra ports of one daemon.
pub(super) struct ExtraPorts {
    kernel: Kernel,
    file: ExtraPortsFile,
    /// Those that are open, or were when the file was written.
    ours: BTreeSet<(u16, Family)>,
}

impl ExtraPorts {
    /// Those that the daemon before this one noted, and those of the tunnels that were found at start.
    pub(super) fn new(
        kernel: Kernel,
        file: ExtraPortsFile,
        found: impl Iterator<Item = (u16, Family)>,
    ) -> Self {
        let ours = file.load().into_iter().chain(found).collect();
        ExtraPorts { kernel, file, ours }
    }

    /// Makes the kernel receive GRE on this port.
    pub(super) async fn open(&mut self, port: u16, family: Family) -> Result<(), KernelError> {
        if !self.ours.insert((port, family)) {
            // Opened before, or left by a daemon that was killed; perhaps it never came to opening.
            self.kernel.add_fou(port, family).await?;
            return Ok(());
        }
        self.save();
        match self.kernel.add_fou(port, family).await {
            Ok(Added::Made) => {
                info!(port, "FOU port of a port search");
                Ok(())
            }
            // Somebody else's, and theirs to close.
            Ok(Added::Found) => {
                self.forget(port, family);
                Ok(())
            }
            Err(error) => {
                self.forget(port, family);
                Err(error)
            }
        }
    }

    /// Closes those that no tunnel uses any more. Those of failed attempts are among them.
    pub(super) async fn close_unused(
        &mut self,
        used: impl Fn(u16, Family) -> bool,
    ) -> Result<(), KernelError> {
        let ours = self.ours.iter().copied();
        let unused: Vec<_> = ours.filter(|(port, it)| !used(*port, *it)).collect();
        for (port, family) in unused {
            info!(port, "the FOU port of a port search is not needed any more");
            self.kernel.delete_fou(port, family).await?;
            self.forget(port, family);
        }
        Ok(())
    }

    fn forget(&mut self, port: u16, family: Family) {
        self.ours.remove(&(port, family));
        self.save();
    }

    /// Without the note a port may be left open one day; without the port there would be no tunnel now.
    fn save(&self) {
        if let Err(error) = self.file.save(&self.ours) {
            warn!(%error, "extra FOU ports cannot be noted");
        }
    }
}
