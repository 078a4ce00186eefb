//! The `bulkhead` command: the first user of the library beside it.

mod connect;
mod console;
mod doctor;
mod domains;
mod embed;
mod job;
mod networks;
mod options;
mod output;
mod run;
mod secrets;
mod status;

use anyhow::{Context, Result, bail};
use bulkhead::wire::table::Driver;
use bulkhead::{Builder, Connection, OpenError, Which};
use clap::{CommandFactory, Parser};
use options::{Action, Options};
use output::Output;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let options = Options::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let done = runtime.block_on(act(options));
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    output::complain(&format!("error: {error:#}"));
    ExitCode::FAILURE
}

async fn act(options: Options) -> Result<ExitCode> {
    let output = Output { json: options.json };
    match &options.action {
        Action::Doctor => return doctor::examine(&output),
        Action::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut Options::command(), "bulkhead", &mut text);
            output.raw(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Manuals { folder } => {
            std::fs::create_dir_all(folder)?;
            clap_mangen::generate_to(Options::command(), folder)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Run { file, no_console } => return run::run(&options, file, !no_console, &output).await,
        Action::Embed { make_command: Some(file), .. } => return connect::make_command(&options, file),
        Action::Embed { command, keep, .. } => return embed::embed(&options, command, *keep).await,
        Action::Connect => return connect::connect(&options).await,
        Action::Keep { idle } => return connect::keep(&options, Duration::from_secs(*idle)).await,
        _ => {}
    }
    let stack = open(&options).await?;
    match options.action {
        Action::Status => status::show(&stack, &output).await?,
        Action::Hold(name) => stack.hold(driver(&name.driver)?).await?,
        Action::Release(name) => stack.release(driver(&name.driver)?).await?,
        Action::Net { action } => networks::act(&stack, action, &output).await?,
        Action::Secret(action) => secrets::act(&stack, action, &output).await?,
        action => domains::act(&stack, action, &output).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The URI that the options name.
fn uri(options: &Options) -> Result<String> {
    match (&options.root, &options.connect) {
        (Some(root), _) => {
            let root = std::path::absolute(root)?;
            let root = root.to_str().context("the root is not UTF-8")?;
            Ok(format!("qemu:///embed?root={}", output::percent_encode(root)))
        }
        (None, Some(uri)) => Ok(uri.clone()),
        (None, None) => bail!("name a stack: --root DIR, -c URI or BULKHEAD_URI"),
    }
}

/// Opens the stack, or reaches it where another process has it open.
async fn open(options: &Options) -> Result<Connection> {
    let uri = uri(options)?;
    if let Which::Embed(root) = bulkhead::Uri::parse(&uri)?.stack {
        match Connection::attach(&root).await {
            Ok(stack) => return Ok(stack),
            Err(OpenError::NotRunning { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    open_own(options, &uri).await
}

/// Opens the stack in this process.
async fn open_own(options: &Options, uri: &str) -> Result<Connection> {
    Ok(builder(options, uri).open().await?)
}

fn builder(options: &Options, uri: &str) -> Builder {
    let builder = Connection::builder(uri);
    match &options.libexec {
        Some(libexec) => builder.libexec(PathBuf::from(libexec)),
        None => builder,
    }
}

fn driver(name: &str) -> Result<Driver> {
    let all = [
        Driver::Qemu,
        Driver::Network,
        Driver::Storage,
        Driver::Secret,
        Driver::Lock,
        Driver::Log,
        Driver::Gateway,
    ];
    all.into_iter()
        .find(|driver| driver.name() == name)
        .with_context(|| format!("there is no driver '{name}'"))
}
