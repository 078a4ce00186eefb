//! Measures the stack beside what bounds it: the same QEMU without a stack, and stock libvirt where it is installed. All
//! sides alternate in one run, so that a noisy machine is noisy for all.

mod figure;
mod guest;
mod lines;
mod memory;
mod open;
mod raw;
mod stock;

use anyhow::{Context, Result};
use bulkhead::Connection;
use clap::{Parser, Subcommand};
use figure::Figure;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::io::AsyncReadExt;

/// The stack's figures beside those of its peer and of the machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// Rounds; each measures every side once.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Figures as JSON, with all samples.
    #[arg(long)]
    json: bool,
    /// Leave stock libvirt out even where it is installed.
    #[arg(long)]
    no_stock: bool,
    /// Only the measures whose name holds this word.
    #[arg(long)]
    only: Option<String>,
    /// The folder of the drivers' programs; by default beside this program.
    #[arg(long)]
    libexec: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Opens a stack and keeps it until end of input: the process whose memory is measured.
    #[command(hide = true)]
    Hold { root: PathBuf },
}

/// What all measures share.
struct Bench {
    rounds: usize,
    stock: bool,
    libexec: Option<PathBuf>,
    folder: PathBuf,
}

impl Bench {
    async fn open(&self, root: &Path) -> Result<Connection> {
        open_stack(root, self.libexec.as_deref()).await
    }

    /// A root that nobody has used yet.
    fn root(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

async fn open_stack(root: &Path, libexec: Option<&Path>) -> Result<Connection> {
    let uri = format!("qemu:///embed?root={}", root.display());
    let builder = Connection::builder(&uri);
    let builder = match libexec {
        Some(folder) => builder.libexec(folder),
        None => builder,
    };
    Ok(builder.open().await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(Command::Hold { root }) = &options.command {
        return hold(root, options.libexec.as_deref()).await;
    }
    let folder = std::env::temp_dir().join(format!("bulkhead-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let bench = Bench {
        rounds: options.rounds.max(1),
        stock: !options.no_stock,
        libexec: options.libexec.clone(),
        folder,
    };
    let measured = measure(&bench, options.only.as_deref().unwrap_or_default()).await;
    let removed = std::fs::remove_dir_all(&bench.folder);
    let figures = measured?;
    removed.with_context(|| bench.folder.display().to_string())?;
    let mut out = std::io::stdout().lock();
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&figures)?)?;
    } else {
        for figure in &figures {
            writeln!(out, "{figure}")?;
        }
    }
    Ok(())
}

async fn measure(bench: &Bench, only: &str) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if "open".contains(only) {
        figures.extend(open::measure(bench).await?);
    }
    if "guest".contains(only) {
        figures.extend(guest::measure(bench).await?);
    }
    if "memory".contains(only) {
        figures.extend(memory::measure(bench).await?);
    }
    if "lines".contains(only) {
        figures.extend(lines::measure());
    }
    Ok(figures)
}

async fn hold(root: &Path, libexec: Option<&Path>) -> Result<()> {
    let stack = open_stack(root, libexec).await?;
    stack.domains().connect_list_all_domains(0, 0).await?;
    let mut out = std::io::stdout();
    writeln!(out, "open")?;
    out.flush()?;
    let mut ignored = [0; 16];
    while tokio::io::stdin().read(&mut ignored).await? > 0 {}
    stack.stop().await?;
    Ok(())
}
