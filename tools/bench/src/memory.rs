//! Memory of an idle stack: a process that does nothing but keep it open, and its drivers.

use crate::Bench;
use crate::figure::Figure;
use anyhow::{Context, Result};
use bulkhead::Connection;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let root = bench.root("memory");
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(folder) = &bench.libexec {
        command.arg("--libexec").arg(folder);
    }
    let mut owner = command.arg("hold").arg(&root).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().context("no output")?).read_line(&mut line)?;
    let drivers = Connection::attach(&root).await?.status().await?.drivers;
    let mut figures = Vec::new();
    let mut sum = pss_mib(owner.id())?;
    figures.push(
        Figure::new("  of the process that holds broker and client [MiB]", None).side("stack", vec![sum]),
    );
    for driver in drivers {
        let pid = driver.pid.context("a driver that does not run")?;
        let pss = pss_mib(pid)?;
        sum += pss;
        let name = format!("  of the {} driver [MiB]", driver.name);
        figures.push(Figure::new(&name, None).side("stack", vec![pss]));
    }
    drop(owner.stdin.take());
    owner.wait()?;
    let all = Figure::new("memory of the idle stack, proportional set size [MiB]", Some("under 12 MiB"));
    figures.insert(0, all.side("stack", vec![sum]));
    Ok(figures)
}

fn pss_mib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib: f64 = line.and_then(|line| line.split_whitespace().next()).context("no Pss")?.parse()?;
    Ok(kib / 1024.0)
}
