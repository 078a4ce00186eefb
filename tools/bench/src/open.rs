//! Opening an embedded stack: cold on a fresh root, and again on a root that has been used.

use crate::Bench;
use crate::figure::{Figure, milliseconds};
use anyhow::Result;
use std::time::Instant;

pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let (mut cold, mut warm, mut second) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        let root = bench.root(&format!("open-{round}"));
        for samples in [&mut cold, &mut warm] {
            let begin = Instant::now();
            let stack = bench.open(&root).await?;
            stack.domains().connect_list_all_domains(0, 0).await?;
            samples.push(milliseconds(begin));
            let begin = Instant::now();
            let again = bench.open(&root).await?;
            again.domains().connect_list_all_domains(0, 0).await?;
            second.push(milliseconds(begin));
            drop(again);
            stack.stop().await?;
        }
    }
    let (stack, aim) = ("stack", Some("15 ms or less"));
    Ok(vec![
        Figure::new("cold embed open to the first answered call [ms]", aim).side(stack, cold),
        Figure::new("the same, root used before [ms]", None).side(stack, warm),
        Figure::new("second connection to an open stack [ms]", None).side(stack, second),
    ])
}
