//! A paused guest's start, a query, and its destruction.

use crate::Bench;
use crate::figure::{Figure, milliseconds};
use crate::raw::{self, Raw};
use crate::stock::Stock;
use anyhow::{Context, Result};
use bulkhead::Connection;
use bulkhead::wire::types::DomainRef;
use std::time::Instant;

/// `VIR_DOMAIN_START_PAUSED`.
const PAUSED: u32 = 1;
/// Queries of a round.
const QUERIES: u32 = 200;
const NAME: &str = "bench";

/// The guest that the benchmarks start: without a disk, so that nothing but QEMU itself is waited for.
const XML: &str = "<domain type='qemu'><name>bench</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>\
    <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>\
    <devices><emulator>/usr/bin/qemu-system-x86_64</emulator></devices></domain>";

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let root = bench.root("guest");
    let stack = bench.open(&root).await?;
    let file = bench.folder.join("bench.xml");
    std::fs::write(&file, XML)?;
    let socket = bench.folder.join("raw.sock");
    let mut stock = if bench.stock { Stock::start()? } else { None };

    // The first start asks QEMU what it can do, on every side that does; it is no sample.
    let (domain, _) = start(&stack).await?;
    let arguments = raw::command_line(pid(&stack).await?)?;
    destroy(&stack, domain).await?;
    if let Some(stock) = &mut stock {
        stock.create(&file)?;
        stock.destroy(NAME)?;
    }

    let mut starts: [Vec<f64>; 3] = Default::default();
    let mut ends: [Vec<f64>; 3] = Default::default();
    let mut latency = Vec::new();
    for _ in 0..bench.rounds {
        let (domain, took) = start(&stack).await?;
        starts[0].push(took);
        let begin = Instant::now();
        for _ in 0..QUERIES {
            stack.domains().domain_get_state(domain.clone(), 0).await?;
        }
        latency.push(milliseconds(begin) * 1e3 / f64::from(QUERIES));
        ends[0].push(destroy(&stack, domain).await?);

        let begin = Instant::now();
        let guest = Raw::start(&arguments, &socket)?;
        starts[1].push(milliseconds(begin));
        let begin = Instant::now();
        guest.kill()?;
        ends[1].push(milliseconds(begin));

        if let Some(stock) = &mut stock {
            starts[2].push(stock.create(&file)?);
            ends[2].push(stock.destroy(NAME)?);
        }
    }
    if let Some(stock) = stock {
        stock.quit()?;
    }
    stack.stop().await?;
    let sides = ["stack", "the same QEMU without a stack", "stock libvirt"];
    let all = |name, aim, samples: [Vec<f64>; 3]| {
        let figure = Figure::new(name, Some(aim));
        sides.into_iter().zip(samples).fold(figure, |figure, (side, samples)| figure.side(side, samples))
    };
    Ok(vec![
        all("start of a paused guest [ms]", "1.5 of raw QEMU or less", starts),
        all("destroy [ms]", "under 50 ms", ends),
        Figure::new("one query, there and back [us]", None).side("stack", latency),
    ])
}

async fn start(stack: &Connection) -> Result<(DomainRef, f64)> {
    let begin = Instant::now();
    let domain = stack.domains().domain_create_xml(XML.to_owned(), PAUSED).await?;
    Ok((domain, milliseconds(begin)))
}

async fn destroy(stack: &Connection, domain: DomainRef) -> Result<f64> {
    let begin = Instant::now();
    stack.domains().domain_destroy_flags(domain, 0).await?;
    Ok(milliseconds(begin))
}

async fn pid(stack: &Connection) -> Result<u32> {
    let helpers = stack.status().await?.helpers;
    let qemu = helpers.iter().find(|helper| helper.class == "qemu");
    Ok(qemu.context("the guest has no QEMU")?.pid)
}
