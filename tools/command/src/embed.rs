//! `bulkhead embed`: a private stack for as long as a command runs.

use crate::options::Options;
use crate::{open_own, output, uri};
use anyhow::{Context, Result};
use std::process::ExitCode;
use tokio::io::AsyncReadExt;

pub(crate) async fn embed(options: &Options, command: &[String]) -> Result<ExitCode> {
    let uri = uri(options)?;
    let stack = open_own(options, &uri).await?;
    // The drivers are ready before the command is.
    stack.domains().connect_list_all_domains(0, 0).await?;
    let code = match command.split_first() {
        Some((program, arguments)) => {
            let (program, arguments, uri) = (program.clone(), arguments.to_vec(), uri.clone());
            let status = tokio::task::spawn_blocking(move || {
                std::process::Command::new(&program)
                    .args(arguments)
                    .env("BULKHEAD_URI", uri)
                    .status()
                    .with_context(|| program)
            })
            .await??;
            status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
        }
        None => {
            output::complain("the stack is open until end of input");
            let mut ignored = [0; 256];
            while tokio::io::stdin().read(&mut ignored).await? > 0 {}
            0
        }
    };
    stack.stop().await?;
    Ok(ExitCode::from(code))
}
