//! A driver with as much to leave to its next incarnation as a busy host's has: the first one starts helpers and deposits pipes,
//! each with its own name in it, and ends; the next one writes down what it was welcomed with, in the file `found` beside it.
//! How much is in the file `hoard` there: HELPERS DEPOSITS.

use bulkhead_wire::codec;
use bulkhead_wire::control::{
    Access, FromDriver, Helper, HelperRequest, Layout, Request, Response, ToDriver,
};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::Error;
use bulkhead_wire::frame::{Header, Kind};
use bulkhead_wire::link::{self, LinkReader, LinkWriter};
use bulkhead_wire::table::REVISION;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The control link.
struct Broker {
    reader: LinkReader,
    writer: LinkWriter,
    asked: u64,
}

impl Broker {
    /// The next message that is not about being alive.
    async fn hear(&mut self) -> Result<ToDriver, Failed> {
        loop {
            let frame = self.reader.read().await?;
            match codec::decode(&frame.body, frame.descriptors)? {
                ToDriver::Heartbeat { number } => {
                    self.tell(FromDriver::Beat { number, busy: Vec::new() }).await?;
                }
                message => return Ok(message),
            }
        }
    }

    async fn tell(&mut self, message: FromDriver) -> Result<(), Failed> {
        let (body, files) = codec::encode(&message)?;
        Ok(self.writer.write(Header::new(Kind::Control), &body, &files).await?)
    }

    async fn ask(&mut self, request: Request) -> Result<Result<Response, Error>, Failed> {
        self.asked += 1;
        self.tell(FromDriver::Ask { id: self.asked, request }).await?;
        loop {
            if let ToDriver::Answer { id, result } = self.hear().await?
                && id == self.asked
            {
                return Ok(result);
            }
        }
    }
}

/// A helper that is small and runs for as long as the other end of a pair is open.
async fn start_helper(broker: &mut Broker, layout: &Layout, number: usize) -> Result<UnixStream, Failed> {
    let guest = format!("00000000-0000-0000-0000-{number:012}");
    let folder = layout.lib.join("qemu/swtpm").join(&guest);
    std::fs::create_dir_all(&folder)?;
    let (ours, its) = UnixStream::pair()?;
    let request = HelperRequest {
        key: format!("{guest}-swtpm"),
        class: "swtpm".to_owned(),
        program: PathBuf::from("/usr/bin/swtpm"),
        arguments: ["socket", "--ctrl", "type=unixio,clientfd=3", "--tpmstate"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("dir={}", folder.display()), "--terminate".to_owned(), "--tpm2".to_owned()])
            .collect(),
        environment: Vec::new(),
        files: vec![(folder, Access::Folder)],
        listeners: Vec::new(),
        outputs: Vec::new(),
        descriptors: vec![(3, Descriptor::new(OwnedFd::from(its)))],
        ports: Vec::new(),
        network: false,
        errors: None,
        autodestroy: false,
    };
    broker.ask(Request::HelperStart(Box::new(request))).await??;
    Ok(ours)
}

/// The first incarnation: ends when everything is with the broker.
async fn hoard(broker: &mut Broker, layout: &Layout, own: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(own.with_file_name("hoard"))?;
    let (helpers, deposits) = text.trim().split_once(' ').ok_or("HELPERS DEPOSITS")?;
    for number in 0..deposits.parse()? {
        let name = format!("pipe {number}");
        let (reading, mut writing) = std::io::pipe()?;
        writing.write_all(name.as_bytes())?;
        let file = Descriptor::new(OwnedFd::from(reading));
        broker.ask(Request::Deposit { name, file }).await??;
    }
    for number in 0..helpers.parse()? {
        let file = Descriptor::new(OwnedFd::from(start_helper(broker, layout, number).await?));
        broker.ask(Request::Deposit { name: format!("helper {number}"), file }).await??;
    }
    Ok(())
}

/// What the next incarnation was welcomed with: how many of each are what they are said to be.
fn found(deposits: Vec<(String, Descriptor)>, helpers: &[Helper]) -> Result<String, Failed> {
    let (mut pipes, mut ends) = (0, 0);
    for (name, file) in deposits {
        let file = file.into_owned().ok_or("no descriptor")?;
        if name.starts_with("helper ") {
            ends += 1;
            continue;
        }
        let mut text = String::new();
        File::from(file).read_to_string(&mut text)?;
        pipes += usize::from(text == name);
    }
    let runs = helpers.iter().filter(|helper| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", helper.pid)).unwrap_or_default();
        stat.split(' ').nth(21) == Some(helper.start_ticks.to_string().as_str())
    });
    Ok(format!("{pipes} pipes, {ends} ends, {} helpers", runs.count()))
}

async fn run(own: &Path, socket: OwnedFd) -> Result<(), Failed> {
    let (reader, writer) = link::open(socket, REVISION).await?;
    let mut broker = Broker { reader, writer, asked: 0 };
    broker.tell(FromDriver::Confined { in_force: Vec::new(), missing: Vec::new() }).await?;
    let (mut deposits, mut helpers) = (Vec::new(), Vec::new());
    let mut welcome = loop {
        match broker.hear().await? {
            ToDriver::Inheritance { deposits: mut files, helpers: mut running } => {
                deposits.append(&mut files);
                helpers.append(&mut running);
            }
            ToDriver::Welcome(welcome) => break welcome,
            other => return Err(format!("not a welcome: {other:?}").into()),
        }
    };
    broker.tell(FromDriver::Ready).await?;
    deposits.append(&mut welcome.deposits);
    helpers.append(&mut welcome.helpers);
    if welcome.incarnation == 1 {
        return hoard(&mut broker, &welcome.layout, own).await;
    }
    std::fs::write(own.with_file_name("found.new"), found(deposits, &helpers)?)?;
    std::fs::rename(own.with_file_name("found.new"), own.with_file_name("found"))?;
    while !matches!(broker.hear().await?, ToDriver::Stop) {}
    Ok(())
}

fn main() -> Result<(), Failed> {
    let [socket, _profile] = bulkhead_sandbox::inherited([3, 4]);
    let own = PathBuf::from(std::env::args_os().next().ok_or("no name")?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&own, socket))
}
