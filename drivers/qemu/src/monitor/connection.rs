//! The shell: a task that owns the socket, and the handles that feed it.

use super::commands::Commands;
use super::error::{Cause, MonitorError};
use super::event::{Event, Notice};
use super::message::{Refusal, Version};
use super::options::{Entry, Options};
use super::table::{Action, State};
use super::transport::Transport;
use serde_json::Value;
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout_at};

const READ_SIZE: usize = 64 << 10;
/// Linux passes no more in one message (`SCM_MAX_FD`).
const DESCRIPTOR_LIMIT: usize = 253;
/// Stands in for longer deadlines, so that adding one to the clock can't overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A handle on a monitor. Clones share the connection, which ends when the last of them is dropped.
#[derive(Debug, Clone)]
pub struct Monitor {
    commands: mpsc::Sender<Command>,
    closed: watch::Receiver<Option<Cause>>,
    version: Arc<Version>,
    silence: Silence,
}

/// Since when QEMU owes an answer and gives none, whether or not anybody still waits for it.
#[derive(Debug, Clone, Default)]
struct Silence(Arc<Mutex<Option<Instant>>>);

impl Silence {
    fn since(&self, moment: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = moment;
    }

    fn lasts(&self) -> Duration {
        let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

#[derive(Debug)]
struct Command {
    arguments: Value,
    descriptors: Vec<OwnedFd>,
    deadline: Instant,
    ticket: Ticket,
}

/// Whom to answer, and what to call the command when it fails.
#[derive(Debug)]
struct Ticket {
    command: String,
    after: Duration,
    reply: oneshot::Sender<Result<Value, MonitorError>>,
}

impl Ticket {
    /// A caller that has gone meanwhile misses nothing.
    fn answer(self, result: Result<Value, Refusal>) {
        let result = result.map_err(|refusal| MonitorError::Refused {
            command: self.command,
            class: refusal.class,
            description: refusal.description,
        });
        let _gone = self.reply.send(result);
    }

    fn fail(self, error: impl FnOnce(String, Duration) -> MonitorError) {
        let _gone = self.reply.send(Err(error(self.command, self.after)));
    }

    fn closed(self, cause: Cause) {
        self.fail(|command, _| MonitorError::Closed { command, cause });
    }
}

impl Monitor {
    /// Takes over a connected socket and brings it to where commands can be given. Events go to `events`;
    /// a reader that lags loses some and is told so, and the channel ends with the connection. An adopted
    /// connection may have lost events before: the caller asks for the state that it cares about.
    ///
    /// # Errors
    ///
    /// The handshake did not end in time, QEMU refused it, or the connection ended meanwhile.
    pub async fn attach<T: Transport>(
        transport: T,
        events: mpsc::Sender<Notice>,
        options: Options,
    ) -> Result<Self, MonitorError> {
        let deadline = Instant::now() + options.handshake.min(LONGEST);
        let (commands, inbox) = mpsc::channel(options.limits.pending.max(1));
        let (closing, mut closed) = watch::channel(None);
        let (greeted, greeting) = oneshot::channel();
        let silence = Silence::default();
        let connection = Connection {
            transport,
            inbox,
            outbox: VecDeque::new(),
            broken: None,
            // Neither secret nor random enough for that: it only has to differ from the previous owner's.
            state: State::new(options.entry, options.limits, RandomState::new().hash_one(())),
            greeted: Some(greeted),
            events,
            lost: 0,
            silence: silence.clone(),
        };
        tokio::spawn(connection.serve(closing));

        let mut version = None;
        if options.entry == Entry::Fresh {
            let command = || "qmp_capabilities".to_owned();
            match timeout_at(deadline, greeting).await {
                Ok(Ok(greeting)) => version = Some(greeting),
                Ok(Err(_)) => {
                    let cause = cause(&mut closed).await;
                    return Err(MonitorError::Closed { command: command(), cause });
                }
                Err(_) => {
                    return Err(MonitorError::Deadline { command: command(), after: options.handshake });
                }
            }
        }
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut monitor = Self { commands, closed, version: Arc::default(), silence };
        // On an adopted connection this is also the request whose answer ends the leftovers. Either answer
        // will do: the previous owner may have died before it negotiated, or after.
        match monitor.execute("qmp_capabilities", Value::Null, left()).await {
            Ok(_) => {}
            Err(MonitorError::Refused { class, .. })
                if options.entry == Entry::Adopted && class == "CommandNotFound" => {}
            Err(error) => return Err(error),
        }
        let version = match version {
            Some(version) => version,
            None => monitor.within(left()).query_version().await?,
        };
        monitor.version = Arc::new(version);
        Ok(monitor)
    }

    /// QEMU's version, as it was when the monitor was attached.
    #[must_use]
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// The typed commands, each with that much time.
    #[must_use]
    pub fn within(&self, deadline: Duration) -> Commands<'_> {
        Commands::new(self, deadline)
    }

    /// How long QEMU has owed an answer without giving any: zero while it owes none.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        self.silence.lasts()
    }

    /// Resolves once the connection has ended.
    pub async fn closed(&self) -> Cause {
        cause(&mut self.closed.clone()).await
    }

    /// Gives a command; `arguments` is an object, or null for none.
    ///
    /// # Errors
    ///
    /// QEMU refused it or did not answer in time, or the connection ended. Dropping the future does not take
    /// the command back.
    pub async fn execute(
        &self,
        command: &str,
        arguments: Value,
        deadline: Duration,
    ) -> Result<Value, MonitorError> {
        self.execute_with_descriptors(command, arguments, Vec::new(), deadline).await
    }

    /// As [`Self::execute`], with descriptors for QEMU. Ours are closed once they have been sent.
    ///
    /// # Errors
    ///
    /// As with [`Self::execute`]; also when the transport carries no descriptors.
    pub async fn execute_with_descriptors(
        &self,
        command: &str,
        arguments: Value,
        descriptors: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<Value, MonitorError> {
        let after = deadline;
        let deadline = Instant::now() + after.min(LONGEST);
        let (reply, answer) = oneshot::channel();
        let request = Command {
            arguments,
            descriptors,
            deadline,
            ticket: Ticket { command: command.to_owned(), after, reply },
        };
        match timeout_at(deadline, self.commands.send(request)).await {
            Ok(Ok(())) => {
                if let Ok(result) = answer.await {
                    return result;
                }
            }
            Ok(Err(_)) => {}
            Err(_) => {
                let command = command.to_owned();
                return Err(MonitorError::Deadline { command, after });
            }
        }
        Err(MonitorError::Closed { command: command.to_owned(), cause: self.closed().await })
    }
}

async fn cause(closed: &mut watch::Receiver<Option<Cause>>) -> Cause {
    match closed.wait_for(Option::is_some).await {
        Ok(cause) => cause.clone().unwrap_or(Cause::Abandoned),
        // The task went without a word: the runtime is shutting down.
        Err(_) => Cause::Abandoned,
    }
}

/// A QEMU that ends without having read all we wrote makes a reset of it; what it said last is read before that.
fn failed(error: &io::Error) -> Cause {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Cause::EndOfFile,
        _ => Cause::Socket(error.to_string()),
    }
}

/// A request on its way out.
struct Outgoing {
    number: u64,
    line: Vec<u8>,
    sent: usize,
    descriptors: Vec<OwnedFd>,
}

enum Step {
    /// That many bytes were read.
    Read(io::Result<usize>),
    /// That many bytes of the first request were written.
    Written(io::Result<usize>),
}

struct Connection<T> {
    transport: T,
    inbox: mpsc::Receiver<Command>,
    outbox: VecDeque<Outgoing>,
    /// Set once nothing can be written any more; what QEMU said last is still read.
    broken: Option<Cause>,
    state: State<Ticket>,
    greeted: Option<oneshot::Sender<Version>>,
    events: mpsc::Sender<Notice>,
    /// Events lost since the last one that was delivered.
    lost: u64,
    silence: Silence,
}

impl<T: Transport> Connection<T> {
    async fn serve(mut self, closing: watch::Sender<Option<Cause>>) {
        let cause = self.run().await;
        let Self { transport, mut inbox, mut state, events, lost, .. } = self;
        drop(transport);
        closing.send_replace(Some(cause.clone()));
        for ticket in state.abandon() {
            ticket.closed(cause.clone());
        }
        inbox.close();
        while let Some(command) = inbox.recv().await {
            command.ticket.closed(cause.clone());
        }
        if lost > 0 {
            // The reader has a full queue, so this ends when it reads or leaves.
            let _gone = events.send(Notice::Lagged(lost)).await;
        }
    }

    async fn run(&mut self) -> Cause {
        let mut buffer = vec![0; READ_SIZE];
        loop {
            self.expire();
            let wake = self.state.next_deadline();
            let writable = self.broken.is_none();
            let Self { transport, outbox, .. } = self;
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.submit(command),
                    None => return Cause::Abandoned,
                },
                step = std::future::poll_fn(|context| {
                    let outgoing = outbox.front().filter(|_| writable);
                    poll_step(transport, outgoing, &mut buffer, context)
                }) => match step {
                    Step::Read(Ok(0)) => return self.broken.take().unwrap_or(Cause::EndOfFile),
                    Step::Read(Ok(count)) => {
                        let read = buffer.get(..count).unwrap_or_default();
                        if let Err(cause) = self.digest(read) {
                            return cause;
                        }
                    }
                    Step::Read(Err(error)) => return failed(&error),
                    Step::Written(result) => self.written(result),
                },
                () = sleep_until(wake.map_or_else(Instant::now, Instant::from_std)), if wake.is_some() => {}
                room = async { self.events.reserve().await.map(drop) }, if self.lost > 0 => match room {
                    Ok(()) => self.announce_loss(),
                    // Nobody reads events any more, so nobody misses them.
                    Err(_) => self.lost = 0,
                },
            }
        }
    }

    fn expire(&mut self) {
        for (number, ticket) in self.state.on_deadline(Instant::now().into_std()) {
            // QEMU must not carry out later what the caller was told had failed, where that can be helped.
            if let Some(index) = self.outbox.iter().position(|one| one.number == number && one.sent == 0) {
                self.outbox.remove(index);
                self.state.withdraw(number);
            }
            ticket.fail(|command, after| MonitorError::Deadline { command, after });
        }
    }

    fn submit(&mut self, command: Command) {
        let Command { arguments, descriptors, deadline, ticket } = command;
        if let Some(cause) = &self.broken {
            return ticket.closed(cause.clone());
        }
        let reason = if !(arguments.is_null() || arguments.is_object()) {
            "its arguments are not an object"
        } else if descriptors.len() > DESCRIPTOR_LIMIT {
            "it has more descriptors than fit one message"
        } else if !(descriptors.is_empty() || self.transport.carries_descriptors()) {
            "this connection carries no descriptors; a unix socket does"
        } else {
            let name = ticket.command.clone();
            match self.state.request(&name, &arguments, deadline.into_std(), ticket) {
                Ok((number, line)) => {
                    if self.state.pending() == 1 {
                        self.silence.since(Some(Instant::now()));
                    }
                    self.outbox.push_back(Outgoing { number, line, sent: 0, descriptors });
                }
                Err(ticket) => {
                    let pending = self.state.pending();
                    ticket.fail(|command, _| MonitorError::Busy { command, pending });
                }
            }
            return;
        };
        ticket.fail(|command, _| MonitorError::Unsendable { command, reason: reason.to_owned() });
    }

    fn written(&mut self, result: io::Result<usize>) {
        let Some(first) = self.outbox.front_mut() else {
            return;
        };
        match result {
            Ok(0) => self.broken = Some(Cause::Socket("it takes no more bytes".into())),
            Ok(count) => {
                first.sent += count;
                first.descriptors.clear();
                if first.sent >= first.line.len() {
                    self.outbox.pop_front();
                }
            }
            // Not one byte went out, and it may well be the descriptors that are at fault.
            Err(error) if !first.descriptors.is_empty() => {
                let number = first.number;
                self.outbox.pop_front();
                if let Some(ticket) = self.state.withdraw(number) {
                    ticket.fail(|command, _| MonitorError::Unsendable {
                        command,
                        reason: format!("its descriptors could not be passed: {error}"),
                    });
                }
            }
            Err(error) => self.broken = Some(failed(&error)),
        }
        if self.broken.is_some() {
            self.outbox.clear();
        }
    }

    fn digest(&mut self, read: &[u8]) -> Result<(), Cause> {
        let mut actions = Vec::new();
        let result = self.state.on_bytes(read, &mut actions);
        for action in actions {
            match action {
                Action::Greeted(version) => {
                    if let Some(greeted) = self.greeted.take() {
                        let _gone = greeted.send(version);
                    }
                }
                Action::Answer(ticket, result) => ticket.answer(result),
                Action::Event(event) => self.publish(event),
            }
        }
        // Whatever it said, it is not silent.
        self.silence.since((self.state.pending() > 0).then(Instant::now));
        result
    }

    /// Tells the reader how much it lost, if it has room for that.
    fn announce_loss(&mut self) {
        if self.lost > 0 && self.events.try_send(Notice::Lagged(self.lost)).is_ok() {
            self.lost = 0;
        }
    }

    fn publish(&mut self, event: Event) {
        self.announce_loss();
        if self.lost > 0 {
            self.lost = self.lost.saturating_add(1);
        } else if let Err(TrySendError::Full(_)) = self.events.try_send(Notice::Event(Box::new(event))) {
            self.lost = 1;
        }
    }
}

/// Writes if there is something to write and room for it, else reads. Requests are few, so reading does not
/// starve.
fn poll_step<T: Transport>(
    transport: &mut T,
    outgoing: Option<&Outgoing>,
    buffer: &mut [u8],
    context: &mut Context<'_>,
) -> Poll<Step> {
    if let Some(outgoing) = outgoing {
        let rest = outgoing.line.get(outgoing.sent..).unwrap_or_default();
        let written = if outgoing.descriptors.is_empty() {
            Pin::new(&mut *transport).poll_write(context, rest)
        } else {
            transport.poll_send_with_descriptors(context, rest, &outgoing.descriptors)
        };
        if let Poll::Ready(result) = written {
            return Poll::Ready(Step::Written(result));
        }
    }
    let mut buffer = ReadBuf::new(buffer);
    Pin::new(transport)
        .poll_read(context, &mut buffer)
        .map(|result| Step::Read(result.map(|()| buffer.filled().len())))
}
