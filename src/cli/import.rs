//! `gretun import`: converts configurations of other programs to gretun's own file.

use std::path::PathBuf;

use super::Context;
use super::out::{errln, out, outln};
use super::report::Report;
use super::static_tunnels::{NetnsArgs, unreadable};
use crate::kernel::Kernel;
use crate::kernel::tunnel::dump::Links;
use crate::tunnel::formats::{self, Format, Imported, Source, Unsupported, live, toml};
use crate::tunnel::owner::Owner;

/// Read the tunnels of other programs, and print them as a file for `apply`
///
/// Reads Red Hat's ifcfg-* files, NetworkManager keyfiles, systemd-networkd's .netdev and .network files, commands of
/// iproute2, and the tunnels that are in the kernel. What cannot be carried over is said line by line on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun import /etc/sysconfig/network-scripts/*-tun0 > tunnels.toml
  gretun import /etc/systemd/network/*.net* --format networkd
  gretun import --live --netns lab

Exit codes: 0 read, also with unsupported; 2 a file cannot be read; 3 permission missing.")]
pub struct Args {
    /// Files, which belong together; - reads standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["file_flag", "live"])]
    files: Vec<PathBuf>,
    /// File to read, as a flag; repeatable
    #[arg(long = "file", id = "file_flag", value_name = "FILE", conflicts_with_all = ["files", "live"])]
    file_flag: Vec<PathBuf>,
    /// Read the tunnels that are in the kernel, but the overlay's
    #[arg(long, conflicts_with = "files")]
    live: bool,
    /// Format of the files; recognised by their names and contents if not given
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Choice>,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// A format that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    Auto,
    Ifcfg,
    Networkmanager,
    Networkd,
    Ip,
    Toml,
}

/// Reads and prints.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let mut imported = if args.live {
        from_kernel(&args.netns)?
    } else {
        let format = match args.format {
            None | Some(Choice::Auto) => None,
            Some(Choice::Ifcfg) => Some(Format::Ifcfg),
            Some(Choice::Networkmanager) => Some(Format::NetworkManager),
            Some(Choice::Networkd) => Some(Format::Networkd),
            Some(Choice::Ip) => Some(Format::Ip),
            Some(Choice::Toml) => Some(Format::Toml),
        };
        let files: Vec<_> = args.files.iter().chain(&args.file_flag).collect();
        from_files(&files, format)?
    };
    let (file, lost) = toml::file(&imported.specs);
    imported.unsupported.extend(lost);
    say(&imported.unsupported, context);
    if context.json {
        outln!("{}", serde_json::json!(file));
    } else {
        let text = formats::export(Format::Toml, &imported.specs)?;
        text.files.iter().for_each(|file| out!("{}", file.text));
    }
    Ok(())
}

/// Prints the settings that are not carried over.
pub(super) fn say(unsupported: &[Unsupported], context: Context) {
    for loss in unsupported {
        if context.json {
            errln!("{}", serde_json::json!({"lost": loss}));
        } else {
            errln!("not carried over: {loss}");
        }
    }
}

/// Reads files of one format, or each as what it is.
pub(super) fn from_files(paths: &[&PathBuf], format: Option<Format>) -> Result<Imported, Report> {
    let mut groups: Vec<(Format, Vec<Source>)> = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let text = if path.as_os_str() == "-" {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(path)
        };
        let text = text.map_err(|error| unreadable(path, &error))?;
        let source = Source { name, text };
        let format = format.or_else(|| formats::detect(&source)).ok_or_else(|| {
            Report::usage(format!(
                "{}: cannot tell what kind of file this is",
                source.name
            ))
            .with_hint("say it with --format")
        })?;
        match groups.iter_mut().find(|(known, _)| *known == format) {
            Some((_, sources)) => sources.push(source),
            None => groups.push((format, vec![source])),
        }
    }
    let mut all = Imported::default();
    for (format, sources) in groups {
        let imported = formats::import(format, &sources)?;
        for spec in imported.specs {
            if all.specs.iter().any(|other| other.name == spec.name) {
                let name = &spec.name;
                return Err(Report::usage(format!("tunnel {name} is described twice")));
            }
            all.specs.push(spec);
        }
        all.unsupported.extend(imported.unsupported);
    }
    Ok(all)
}

/// Reads the tunnels that are in the kernel; those of the overlay are the daemon's business.
pub(super) fn from_kernel(netns: &NetnsArgs) -> Result<Imported, Report> {
    let (links, observed) = netns.block_on(async {
        let kernel = Kernel::open()?;
        let links = kernel.links()?;
        let observed = kernel.observe(&links)?;
        Ok((links, observed))
    })?;
    let mut imported = Imported::default();
    for state in observed
        .tunnels
        .iter()
        .filter(|state| state.owner() != Owner::Overlay)
    {
        match live::spec(state) {
            Ok((spec, lost)) => {
                imported.specs.push(spec);
                imported.unsupported.extend(lost);
                imported
                    .unsupported
                    .extend(other_losses(&links, &state.link.name));
            }
            Err(error) => imported.unsupported.push(Unsupported {
                place: state.link.name.clone(),
                key: error.key.to_owned(),
                why: format!("{}: the tunnel is left out", error.problem),
            }),
        }
    }
    Ok(imported)
}

/// Lists the settings of a tunnel in the kernel that gretun would not make.
fn other_losses(links: &Links, name: &str) -> Vec<Unsupported> {
    let loss = |key: &str, why: String| Unsupported {
        place: name.to_owned(),
        key: key.to_owned(),
        why,
    };
    let Some(tunnel) = links.tunnel(name) else {
        return Vec::new();
    };
    let routes = tunnel.other_routes.iter();
    let mut unsupported: Vec<_> = routes
        .map(|route| loss("route", format!("{route}: not of protocol static")))
        .collect();
    if !tunnel.exact {
        let why = format!("has more properties; `ip -d link show dev {name}` shows them");
        unsupported.push(loss("link", why));
    }
    unsupported
}
