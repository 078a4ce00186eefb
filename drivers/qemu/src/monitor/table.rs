//! Which request a reply belongs to. No I/O and no clock: time comes in as an argument.

use super::error::Cause;
use super::event::Event;
use super::line::{Lines, Overlong};
use super::message::{Message, Refusal, Version};
use super::options::{Entry, Limits};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Instant;

/// What the shell has to do. `T` is whatever it keeps for the one who asked.
#[derive(Debug, PartialEq)]
pub(super) enum Action<T> {
    /// QEMU greets: requests may be sent.
    Greeted(Version),
    /// A request is answered.
    Answer(T, Result<Value, Refusal>),
    /// An event.
    Event(Event),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing but a greeting may come.
    Greeting,
    /// Whatever is not an event is a leftover, until a request of ours is answered.
    Adopting,
    Ready,
}

#[derive(Debug)]
struct Pending<T> {
    deadline: Instant,
    /// Gone once the deadline has passed; the entry stays to recognise the late reply.
    ticket: Option<T>,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct State<T> {
    limits: Limits,
    phase: Phase,
    lines: Lines,
    /// Sets this owner's ids apart from those of a previous owner.
    nonce: u64,
    next: u64,
    pending: BTreeMap<u64, Pending<T>>,
}

/// The number of a request and its line.
pub(super) type Request = (u64, Vec<u8>);

impl<T> State<T> {
    pub(super) fn new(entry: Entry, limits: Limits, nonce: u64) -> Self {
        Self {
            limits,
            phase: match entry {
                Entry::Fresh => Phase::Greeting,
                Entry::Adopted => Phase::Adopting,
            },
            lines: Lines::default(),
            nonce,
            next: 0,
            pending: BTreeMap::new(),
        }
    }

    fn id(&self, number: u64) -> String {
        format!("{:016x}-{number}", self.nonce)
    }

    /// How many requests have no reply yet.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Enters a request and gives its line, or gives the ticket back when too many have no reply.
    pub(super) fn request(
        &mut self,
        command: &str,
        arguments: &Value,
        deadline: Instant,
        ticket: T,
    ) -> Result<Request, T> {
        if self.pending.len() >= self.limits.pending {
            return Err(ticket);
        }
        let number = self.next;
        self.next += 1;
        let mut request = json!({"execute": command, "id": self.id(number)});
        if let (Value::Object(fields), false) = (&mut request, arguments.is_null()) {
            fields.insert("arguments".into(), arguments.clone());
        }
        let mut line = Vec::new();
        if self.phase == Phase::Adopting {
            // The previous owner may have died in the middle of a request. This byte is in no JSON text and
            // makes QEMU forget what it has so far; the complaint about it is one of the leftovers.
            line.push(0xff);
        }
        line.extend_from_slice(request.to_string().as_bytes());
        line.push(b'\n');
        let ticket = Some(ticket);
        self.pending.insert(number, Pending { deadline, ticket });
        Ok((number, line))
    }

    /// Takes back a request of which not one byte was sent.
    pub(super) fn withdraw(&mut self, number: u64) -> Option<T> {
        self.pending.remove(&number)?.ticket
    }

    /// The next moment at which [`Self::on_deadline`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.pending.values().filter(|pending| pending.ticket.is_some());
        waiting.map(|pending| pending.deadline).min()
    }

    /// The requests whose deadline has passed.
    pub(super) fn on_deadline(&mut self, now: Instant) -> Vec<(u64, T)> {
        let due = self.pending.iter_mut().filter(|(_, pending)| pending.deadline <= now);
        due.filter_map(|(number, pending)| Some((*number, pending.ticket.take()?))).collect()
    }

    /// Everyone who still waits, once the connection has ended.
    pub(super) fn abandon(&mut self) -> Vec<T> {
        let pending = std::mem::take(&mut self.pending);
        pending.into_values().filter_map(|pending| pending.ticket).collect()
    }

    /// How many bytes are held for a line that is not complete.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.lines.held()
    }

    /// Takes in what QEMU said. Actions that came before an offence are valid.
    pub(super) fn on_bytes(&mut self, mut input: &[u8], actions: &mut Vec<Action<T>>) -> Result<(), Cause> {
        loop {
            let limit = match self.phase {
                Phase::Greeting => self.limits.greeting,
                Phase::Adopting | Phase::Ready => self.limits.line,
            };
            match self.lines.next(&mut input, limit) {
                None => return Ok(()),
                Some(Ok(line)) => actions.extend(self.on_line(&line).map_err(Cause::Offence)?),
                Some(Err(Overlong)) => {
                    return Err(Cause::Offence(format!("a line is longer than {limit} bytes")));
                }
            }
        }
    }

    fn on_line(&mut self, line: &[u8]) -> Result<Option<Action<T>>, String> {
        let message = Message::read(line, &self.limits);
        match (self.phase, message) {
            (Phase::Greeting, Ok(Message::Greeting(version))) => {
                self.phase = Phase::Ready;
                Ok(Some(Action::Greeted(version)))
            }
            (Phase::Greeting, Ok(_)) => Err("the first line is not a greeting".into()),
            (Phase::Ready, Ok(Message::Greeting(_))) => Err("it greeted a second time".into()),
            (Phase::Adopting | Phase::Ready, Ok(Message::Event(event))) => Ok(Some(Action::Event(event))),
            (phase, Ok(Message::Reply { id, result })) => match self.take(id.as_ref()) {
                Some(pending) => {
                    self.phase = Phase::Ready;
                    Ok(pending.ticket.map(|ticket| Action::Answer(ticket, result)))
                }
                None if phase == Phase::Adopting => Ok(None),
                None => Err(stray(id, result)),
            },
            (Phase::Adopting, Ok(Message::Greeting(_)) | Err(_)) => Ok(None),
            (Phase::Greeting | Phase::Ready, Err(reason)) => Err(reason),
        }
    }

    fn take(&mut self, id: Option<&Value>) -> Option<Pending<T>> {
        let id = id?.as_str()?;
        let number = id.rsplit('-').next()?.parse().ok()?;
        // Compared whole: "+7" and "07" are numbers too, but not ids of ours.
        if self.id(number) != id {
            return None;
        }
        self.pending.remove(&number)
    }
}

fn stray(id: Option<Value>, result: Result<Value, Refusal>) -> String {
    let what = match id {
        None => "a reply has no id".into(),
        Some(Value::String(id)) => format!("nobody waits for a reply with id '{}'", super::error::quote(&id)),
        Some(_) => "a reply's id is not a string".to_owned(),
    };
    match result {
        Ok(_) => what,
        Err(refusal) => format!("{what} ({})", refusal.description),
    }
}
