//! Tunnels in the words of other programs: reading what people already have, and writing it again. What one side has no
//! word for is a [`Unsupported`], said line by line; nothing is dropped silently.

mod error;
pub mod ifcfg;
mod ini;
pub mod ip;
pub mod live;
pub mod networkd;
pub mod networkmanager;
pub mod nix;
mod setting;
pub mod toml;
mod tunnel_builder;
mod words;

use std::fmt;
use std::path::Path;

use serde::Serialize;

pub use self::error::FormatError;
use self::setting::Setting;
use super::mode::Family;
use super::spec::{TunnelOptions, TunnelSpec};

/// A way of writing tunnels down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum)]
pub enum Format {
    /// Our own file.
    Toml,
    /// Commands of iproute2.
    Ip,
    /// systemd-networkd's `.netdev` and `.network` files.
    Networkd,
    /// Keyfiles of NetworkManager.
    #[value(name = "networkmanager")]
    NetworkManager,
    /// Red Hat's `ifcfg-*` and `route-*` files.
    Ifcfg,
    /// Options of the NixOS module.
    Nix,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name, also without its directory: some formats say there what the file is about.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl Source {
    /// The name without its directory.
    fn base(&self) -> &str {
        let base = Path::new(&self.name).file_name();
        base.and_then(|base| base.to_str()).unwrap_or(&self.name)
    }
}

/// The tunnels that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The tunnels, in the order of the files.
    pub specs: Vec<TunnelSpec>,
    /// Settings that gretun cannot carry over.
    pub unsupported: Vec<Unsupported>,
}

/// The text that was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// The files.
    pub files: Vec<OutFile>,
    /// Settings that the format cannot carry.
    pub unsupported: Vec<Unsupported>,
}

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutFile {
    /// Its name, without a directory.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Something that is not carried over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsupported {
    /// File and line that were read, or the tunnel that was written.
    pub place: String,
    /// The setting.
    pub key: String,
    /// The reason.
    pub why: String,
}

impl Unsupported {
    fn of_tunnel(spec: &TunnelSpec, key: &str, why: impl Into<String>) -> Self {
        Unsupported {
            place: spec.name.clone(),
            key: key.to_owned(),
            why: why.into(),
        }
    }

    /// Turns path MTU discovery on where it has to be.
    fn of_fragments(options: &mut TunnelOptions, place: &str) -> Option<Self> {
        options.fragments_with_fixed_ttl().then(|| {
            options.pmtudisc = true;
            Unsupported {
                place: place.to_owned(),
                key: "pmtudisc".to_owned(),
                why: "off only with ttl inherit in this mode".to_owned(),
            }
        })
    }
}

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.key, self.why)
    }
}

/// Tells a file's format by its name, else by its text.
pub fn detect(source: &Source) -> Option<Format> {
    let base = source.base();
    let prefixed = ["ifcfg-", "route-", "route6-"];
    if prefixed.iter().any(|prefix| base.starts_with(prefix)) {
        return Some(Format::Ifcfg);
    }
    match Path::new(base).extension().and_then(|end| end.to_str()) {
        Some("nmconnection") => return Some(Format::NetworkManager),
        Some("netdev" | "network") => return Some(Format::Networkd),
        Some("toml" | "json") => return Some(Format::Toml),
        _ => {}
    }
    let lines = source.text.lines().map(str::trim);
    let mut lines = lines.filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    lines.find_map(|line| match line {
        "[connection]" | "[ip-tunnel]" => Some(Format::NetworkManager),
        "[NetDev]" | "[Match]" => Some(Format::Networkd),
        line if line.starts_with("[tunnels") || line.starts_with('{') => Some(Format::Toml),
        line if line.starts_with("DEVICE=") || line.starts_with("TYPE=") => Some(Format::Ifcfg),
        line if ip::is_command(line) => Some(Format::Ip),
        _ => None,
    })
}

/// Reads files of one format, which belong together.
///
/// # Errors
/// When a file is not of the format, or describes a tunnel that cannot be.
pub fn import(format: Format, sources: &[Source]) -> Result<Imported, FormatError> {
    let imported = match format {
        Format::Toml => toml::read(sources),
        Format::Ip => ip::read(sources),
        Format::Networkd => networkd::read(sources),
        Format::NetworkManager => networkmanager::read(sources),
        Format::Ifcfg => ifcfg::read(sources),
        Format::Nix => Err(FormatError::WriteOnly),
    }?;
    for (i, spec) in imported.specs.iter().enumerate() {
        if imported.specs[..i]
            .iter()
            .any(|other| other.name == spec.name)
        {
            return Err(FormatError::Twice {
                name: spec.name.clone(),
            });
        }
    }
    Ok(imported)
}

/// Writes tunnels.
///
/// # Errors
/// When no set of commands or no file can make them.
pub fn export(format: Format, specs: &[TunnelSpec]) -> Result<Exported, FormatError> {
    let mut exported = match format {
        Format::Toml => toml::write(specs)?,
        Format::Ip => ip::write(specs)?,
        Format::Networkd => networkd::write(specs),
        Format::NetworkManager => networkmanager::write(specs),
        Format::Ifcfg => ifcfg::write(specs),
        Format::Nix => nix::write(specs),
    };
    let without_local = specs.iter().filter(|spec| lacks_local(format, spec));
    exported.unsupported.extend(without_local.map(|spec| {
        let why = "the kernel chooses none for this tunnel, and no packet gets through without: give the tunnel one";
        Unsupported::of_tunnel(spec, "local", why)
    }));
    Ok(exported)
}

/// Returns whether a tunnel is written without the local end that it needs: gretun looks it up when it makes the tunnel, other programs do not.
fn lacks_local(format: Format, spec: &TunnelSpec) -> bool {
    match format {
        Format::Ip => spec.needs_local(),
        // These lose UDP's checksum, for which it is needed over IPv4.
        Format::Networkd | Format::NetworkManager => {
            spec.needs_local() && spec.mode.outer() == Family::V6
        }
        Format::Toml | Format::Nix | Format::Ifcfg => false,
    }
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
