//! `gretun export`: tunnels in the words of another program.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::Context;
use super::import::{from_files, from_kernel, say};
use super::out::outln;
use super::report::Report;
use super::static_tunnels::NetnsArgs;
use crate::tunnel::formats::{self, Exported, Format};
use crate::tunnel::spec::TunnelSpec;

/// Write tunnels as another program is configured
///
/// Takes the tunnels that are in the kernel, or those of a file. What the format cannot carry is said line by line on
/// standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  gretun export --to networkd --dir /etc/systemd/network
  gretun export site-b --to ip
  gretun export tunnels.toml --to nix

Exit codes: 0 written, also with unsupported; 1 not written; 2 usage or a bad file; 3 permission missing.")]
pub struct Args {
    /// Names of tunnels in the kernel (all if none is given), or one file
    #[arg(value_name = "NAME|FILE")]
    targets: Vec<String>,
    /// Name of a tunnel in the kernel; repeatable
    #[arg(long, value_name = "NAME", conflicts_with_all = ["targets", "file"])]
    name: Vec<String>,
    /// File to read the tunnels from
    #[arg(long, value_name = "FILE", conflicts_with = "targets")]
    file: Option<PathBuf>,
    /// Format to write
    #[arg(long, value_enum, value_name = "FORMAT")]
    to: Format,
    /// Directory to write the files to; they are printed if not given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    netns: NetnsArgs,
}

/// Reads and writes.
pub fn run(args: &Args, context: Context) -> Result<(), Report> {
    let file = args.file.clone().or_else(|| match &args.targets[..] {
        [only] if Path::new(only).is_file() => Some(PathBuf::from(only)),
        _ => None,
    });
    let mut imported = match &file {
        Some(path) => from_files(&[path], None)?,
        None => from_kernel(&args.netns)?,
    };
    let names: Vec<_> = args.targets.iter().chain(&args.name).collect();
    if file.is_none() && !names.is_empty() {
        for name in &names {
            if !imported.specs.iter().any(|spec| named(spec, name)) {
                let report = Report::failed(format!("no tunnel and no file is named {name}"));
                return Err(report.with_hint("`gretun list` shows the tunnels"));
            }
        }
        imported
            .specs
            .retain(|spec| names.iter().any(|name| named(spec, name)));
        let kept = |place: &String| imported.specs.iter().any(|spec| spec.name == *place);
        imported.unsupported.retain(|loss| kept(&loss.place));
    }
    let exported = formats::export(args.to, &imported.specs)?;
    say(&imported.unsupported, context);
    say(&exported.unsupported, context);
    match &args.dir {
        Some(dir) => write(dir, &exported, context),
        None => {
            print(&exported, context);
            Ok(())
        }
    }
}

fn named(spec: &TunnelSpec, name: &str) -> bool {
    spec.name == name || spec.alt_name.as_deref() == Some(name)
}

fn print(exported: &Exported, context: Context) {
    if context.json {
        let files = exported.files.iter();
        let files: serde_json::Map<String, serde_json::Value> = files
            .map(|file| (file.name.clone(), file.text.clone().into()))
            .collect();
        outln!("{}", serde_json::Value::Object(files));
        return;
    }
    for file in &exported.files {
        if exported.files.len() > 1 {
            outln!("# {}", file.name);
        }
        outln!("{}", file.text.trim_end());
    }
}

fn write(dir: &Path, exported: &Exported, context: Context) -> Result<(), Report> {
    let failed = |path: &Path, error: std::io::Error| {
        Report::failed(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    let mut written = Vec::new();
    for file in &exported.files {
        let path = dir.join(&file.name);
        // NetworkManager ignores keyfiles that others can read.
        let mode = if file.name.ends_with(".nmconnection") {
            0o600
        } else {
            0o644
        };
        let mut options = OpenOptions::new();
        let options = options.write(true).create_new(true).mode(mode);
        let mut open = options.open(&path).map_err(|error| {
            failed(&path, error)
                .with_hint("files that exist are never overwritten: take them away first")
        })?;
        open.write_all(file.text.as_bytes())
            .map_err(|error| failed(&path, error))?;
        written.push(path.display().to_string());
    }
    if context.json {
        outln!("{}", serde_json::json!({"files": written}));
    } else {
        written.iter().for_each(|path| outln!("{path}"));
    }
    Ok(())
}
