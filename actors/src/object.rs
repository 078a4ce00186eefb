//! One task and one bounded mailbox for each object: operations on one object are ordered, operations on different
//! objects never wait for each other. Who waits, for what and since when, can be seen.

use crate::deadline;
use crate::job::Job;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::types::Busy;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// A future that borrows the object it works on.
pub type Work<'a, R> = Pin<Box<dyn Future<Output = R> + Send + 'a>>;

type Operation<S> = Box<dyn for<'a> FnOnce(&'a mut S) -> Work<'a, ()> + Send>;

/// Operations that wait for one object; who comes after is refused.
const MAILBOX: usize = 128;

#[derive(Debug, Default)]
struct Doing {
    current: Mutex<Option<(&'static str, Instant)>>,
    job: Mutex<Option<Arc<Job>>>,
    waiting: AtomicU32,
}

/// Keeps a job listed while it is worked on, however that ends.
struct Listed(Arc<Doing>);

impl Listed {
    fn new(doing: Arc<Doing>, job: &Arc<Job>) -> Self {
        *doing.job.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(job));
        Self(doing)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        *self.0.job.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Whether an operation is begun or given up: whoever takes the turn first decides. Dropped, it gives up.
struct Turn(Arc<AtomicBool>);

impl Turn {
    /// Takes the turn; false if it is taken already.
    fn take(turn: &AtomicBool) -> bool {
        !turn.swap(true, Ordering::AcqRel)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        Self::take(&self.0);
    }
}

/// Kept while an operation changes an object. One that a panic ends has left it half-changed and without a task, which nobody
/// could mend: the process ends too, and the next one finds the object as it is on disk.
struct Whole<'a>(&'a str, &'static str);

impl Drop for Whole<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(object = self.0, operation = self.1, "ended by a panic; so is this process");
            std::process::abort();
        }
    }
}

/// The way to an object: sends it operations. Cheap to clone; the object's task ends with the last one.
pub struct Object<S> {
    name: Arc<str>,
    mailbox: mpsc::Sender<(&'static str, Operation<S>)>,
    doing: Arc<Doing>,
}

impl<S> Clone for Object<S> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), mailbox: self.mailbox.clone(), doing: Arc::clone(&self.doing) }
    }
}

impl<S> std::fmt::Debug for Object<S> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Object({})", self.name)
    }
}

impl<S: Send + 'static> Object<S> {
    /// Starts the object's task. `make` gets the way to it, for those that the state itself tells about things.
    pub fn spawn(name: &str, make: impl FnOnce(WeakObject<S>) -> S) -> Self {
        let (mailbox, mut received) = mpsc::channel::<(&'static str, Operation<S>)>(MAILBOX);
        let doing = Arc::new(Doing::default());
        let object = Self { name: name.into(), mailbox, doing: Arc::clone(&doing) };
        let mut state = make(object.downgrade());
        let object_name = Arc::clone(&object.name);
        tokio::spawn(async move {
            while let Some((operation, work)) = received.recv().await {
                doing.waiting.fetch_sub(1, Ordering::Relaxed);
                *doing.current.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((operation, Instant::now()));
                let whole = Whole(object_name.as_ref(), operation);
                work(&mut state).await;
                drop(whole);
                *doing.current.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        });
        object
    }

    /// A way to the object that does not keep it alive.
    #[must_use]
    pub fn downgrade(&self) -> WeakObject<S> {
        WeakObject {
            name: Arc::clone(&self.name),
            mailbox: self.mailbox.downgrade(),
            doing: Arc::clone(&self.doing),
        }
    }

    /// Has an operation done in its turn, and waits for the result, no longer than the deadline of the call that this is part
    /// of. Whoever stops waiting takes back an operation that is not begun; one that is goes on to its end: an object is
    /// never left half-changed.
    ///
    /// # Errors
    /// Too many operations wait already, the deadline has passed, or the object has gone.
    pub async fn run<R, F>(&self, operation: &'static str, work: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: for<'a> FnOnce(&'a mut S) -> Work<'a, R> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let turn = Turn(Arc::default());
        let taken = Arc::clone(&turn.0);
        self.post(operation, move |state| {
            Box::pin(async move {
                if Turn::take(&taken) {
                    let _ = reply.send(work(state).await);
                }
            })
        })?;
        let answered = deadline::within(answer, |ms| self.late(operation, Turn::take(&turn.0), ms)).await?;
        answered.map_err(|_gone| {
            Error::new(
                Code::OPERATION_INVALID,
                deadline::origin(),
                format!("{} has gone while {operation} waited", self.name),
            )
        })
    }

    /// Has lasting work done in its turn, and waits for the result. While it lasts it can be seen and canceled by
    /// [`Object::job`].
    ///
    /// # Errors
    /// As [`Object::run`].
    pub async fn run_job<R, F>(&self, operation: &'static str, work: F) -> Result<R, Error>
    where
        R: Send + 'static,
        F: for<'a> FnOnce(&'a mut S, Arc<Job>) -> Work<'a, R> + Send + 'static,
    {
        let doing = Arc::clone(&self.doing);
        self.run(operation, move |state| {
            Box::pin(async move {
                let job = Arc::new(Job::new(operation));
                let _listed = Listed::new(doing, &job);
                work(state, job).await
            })
        })
        .await
    }

    /// The lasting work that is under way; `None` while there is none.
    #[must_use]
    pub fn job(&self) -> Option<Arc<Job>> {
        self.doing.job.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What to tell a caller that will not wait longer.
    fn late(&self, operation: &str, taken_back: bool, ms: u128) -> String {
        let name = &self.name;
        match (taken_back, self.busy()) {
            (true, Some(busy)) => format!(
                "{name}: {operation} was not begun within {ms} ms and is taken back: it waits for {}, which has lasted for {} ms",
                busy.operation, busy.since_ms
            ),
            (true, None) => format!("{name}: {operation} was not begun within {ms} ms and is taken back"),
            (false, _) => format!(
                "{name}: {operation} has not ended within {ms} ms; it goes on, and whether it took effect shows in the state"
            ),
        }
    }

    /// Has an operation done in its turn, without waiting.
    ///
    /// # Errors
    /// Too many operations wait already.
    pub fn post<F>(&self, operation: &'static str, work: F) -> Result<(), Error>
    where
        F: for<'a> FnOnce(&'a mut S) -> Work<'a, ()> + Send + 'static,
    {
        self.doing.waiting.fetch_add(1, Ordering::Relaxed);
        self.mailbox.try_send((operation, Box::new(work))).map_err(|refused| {
            self.doing.waiting.fetch_sub(1, Ordering::Relaxed);
            if matches!(refused, TrySendError::Closed(_)) {
                let message = format!("{} has gone; {operation} was not begun", self.name);
                return Error::new(Code::OPERATION_INVALID, deadline::origin(), message);
            }
            let busy = self.busy().map_or_else(String::new, |busy| {
                format!(" with {} for {} ms", busy.operation, busy.since_ms)
            });
            let message =
                format!("{} is busy{busy}, and {MAILBOX} operations wait for it already", self.name);
            Error::new(Code::OPERATION_TIMEOUT, deadline::origin(), message)
        })
    }

    /// What the object is doing; `None` while it rests.
    #[must_use]
    pub fn busy(&self) -> Option<Busy> {
        let current = *self.doing.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.map(|(operation, since)| Busy {
            object: self.name.to_string(),
            operation: operation.to_owned(),
            since_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
            waiting: self.doing.waiting.load(Ordering::Relaxed),
            progress: self.job().map(|job| {
                let progress = job.progress();
                (progress.processed_bytes, progress.total_bytes)
            }),
        })
    }
}

/// A way to an object that does not keep it alive.
pub struct WeakObject<S> {
    name: Arc<str>,
    mailbox: mpsc::WeakSender<(&'static str, Operation<S>)>,
    doing: Arc<Doing>,
}

impl<S> Clone for WeakObject<S> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), mailbox: self.mailbox.clone(), doing: Arc::clone(&self.doing) }
    }
}

impl<S> WeakObject<S> {
    /// The object, if it still is.
    #[must_use]
    pub fn upgrade(&self) -> Option<Object<S>> {
        let mailbox = self.mailbox.upgrade()?;
        Some(Object { name: Arc::clone(&self.name), mailbox, doing: Arc::clone(&self.doing) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_wire::error::Origin;
    use std::time::Duration;

    #[tokio::test]
    async fn operations_are_done_in_order_and_seen() {
        let object = Object::spawn("domain web", |_| Vec::new());
        let (go, gate) = oneshot::channel::<()>();
        let slow = {
            let object = object.clone();
            tokio::spawn(async move {
                object
                    .run("slow", |list: &mut Vec<u8>| {
                        Box::pin(async move {
                            let _ = gate.await;
                            list.push(1);
                        })
                    })
                    .await
            })
        };
        tokio::task::yield_now().await;
        object.post("fast", |list| Box::pin(async move { list.push(2) })).unwrap();
        tokio::task::yield_now().await;
        let busy = object.busy().unwrap();
        assert_eq!((busy.object.as_str(), busy.operation.as_str(), busy.waiting), ("domain web", "slow", 1));
        go.send(()).unwrap();
        slow.await.unwrap().unwrap();
        let list = object.run("look", |list| Box::pin(async move { list.clone() })).await.unwrap();
        assert_eq!(list, [1, 2]);
    }

    #[tokio::test]
    async fn a_job_is_seen_while_it_lasts_and_hears_that_it_shall_end() {
        let object = Object::spawn("domain web", |_| 0_u8);
        let (began, begun) = oneshot::channel::<()>();
        let saving = {
            let object = object.clone();
            tokio::spawn(async move {
                object
                    .run_job("save", |state: &mut u8, job| {
                        Box::pin(async move {
                            job.report(300, 1000);
                            let _ = began.send(());
                            job.canceled().await;
                            *state = 1;
                            job.is_canceled()
                        })
                    })
                    .await
            })
        };
        begun.await.unwrap();
        assert_eq!(object.busy().unwrap().progress, Some((300, 1000)));
        let job = object.job().unwrap();
        assert_eq!(job.progress().operation, "save");
        job.cancel();
        assert!(saving.await.unwrap().unwrap());
        assert!(object.job().is_none());
    }

    #[tokio::test]
    async fn a_full_mailbox_refuses_and_says_what_the_object_does() {
        let object = Object::spawn("domain web", |_| ());
        let (_keep, gate) = oneshot::channel::<()>();
        object.post("stuck", |()| Box::pin(async move { drop(gate.await) })).unwrap();
        tokio::task::yield_now().await;
        for _ in 0..MAILBOX {
            object.post("more", |()| Box::pin(async {})).unwrap();
        }
        let refusal = object.post("one too many", |()| Box::pin(async {})).unwrap_err();
        assert!(refusal.message.contains("domain web is busy with stuck"), "{refusal}");
    }

    #[tokio::test]
    async fn who_waits_too_long_is_told_for_what_and_what_is_not_begun_is_taken_back() {
        let object = Object::spawn("domain web", |_| Vec::new());
        let (go, gate) = oneshot::channel::<()>();
        let soon = Some(Duration::from_millis(100));
        let stuck = object.run("stuck", |list: &mut Vec<u8>| {
            Box::pin(async move {
                list.push(1);
                let _ = gate.await;
            })
        });
        let begun = deadline::scope(soon, Origin::NONE, stuck).await.unwrap_err();
        assert_eq!(begun.code, Code::OPERATION_TIMEOUT);
        assert!(begun.message.contains("domain web: stuck has not ended"), "{begun}");
        let waits = object.run("waits", |list: &mut Vec<u8>| Box::pin(async move { list.push(2) }));
        let waits = deadline::scope(soon, Origin::NONE, waits).await.unwrap_err();
        assert!(waits.message.contains("domain web: waits was not begun"), "{waits}");
        assert!(waits.message.contains("waits for stuck"), "{waits}");
        go.send(()).unwrap();
        let list = object.run("look", |list| Box::pin(async move { list.clone() })).await.unwrap();
        assert_eq!(list, [1], "what began is done, and what was taken back is not");
    }
}
