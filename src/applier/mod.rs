//! The applier makes the kernel's tunnels match the desired ones. [`machine`] decides what to do, when and what to report;
//! [`thread`] asks the kernel and carries out plans on a thread of its own, so that nothing that waits for the kernel
//! delays the packets that prove paths.

pub mod desired;
pub mod machine;
pub mod owner_alias;
pub mod thread;

mod receive_links;
