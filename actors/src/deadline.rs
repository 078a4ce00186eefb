//! The deadline of the call that is being served, and whose call it is. Both follow the call's task, so that whatever the call
//! waits for can give up a moment earlier than the caller does, and say what it waited for in the serving driver's name.

use bulkhead_wire::error::{Code, Error, Origin};
use std::time::{Duration, Instant};

tokio::task_local! {
    static CALL: Call;
}

#[derive(Debug, Clone, Copy)]
struct Call {
    deadline: Option<Instant>,
    origin: Origin,
}

/// An answer leaves this share of the call's time before the caller gives up, so that it arrives before that ...
const EARLIER_SHARE: u32 = 10;
/// ... but no longer before it than this.
const EARLIER_MAX: Duration = Duration::from_millis(500);

/// Does the work of a call that its caller waits for so long; a job has no such time. Errors about the waiting itself are of
/// this origin.
pub async fn scope<F: Future>(time_left: Option<Duration>, origin: Origin, work: F) -> F::Output {
    let deadline =
        time_left.map(|left| Instant::now() + left.saturating_sub(EARLIER_MAX.min(left / EARLIER_SHARE)));
    CALL.scope(Call { deadline, origin }, work).await
}

/// The origin of errors about waiting: the serving driver's; nobody's outside of a call.
pub(crate) fn origin() -> Origin {
    CALL.try_with(|call| call.origin).unwrap_or(Origin::NONE)
}

/// Waits for something, no longer than the call's deadline. Outside of a call there is none.
///
/// # Errors
/// The deadline has passed: `late` says what was waited for, and is told for how long.
pub async fn within<T>(work: impl Future<Output = T>, late: impl FnOnce(u128) -> String) -> Result<T, Error> {
    let Some(deadline) = CALL.try_with(|call| call.deadline).ok().flatten() else {
        return Ok(work.await);
    };
    let began = Instant::now();
    tokio::time::timeout_at(deadline.into(), work)
        .await
        .map_err(|_elapsed| Error::new(Code::OPERATION_TIMEOUT, origin(), late(began.elapsed().as_millis())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    #[tokio::test]
    async fn what_is_waited_for_is_named_before_the_caller_gives_up() {
        let asked = Duration::from_secs(1);
        let waiting = within(pending::<()>(), |ms| format!("web did not answer in {ms} ms"));
        let waited = scope(Some(asked), Origin::QEMU, waiting);
        let error = tokio::time::timeout(asked, waited).await.unwrap().unwrap_err();
        assert_eq!((error.code, error.origin), (Code::OPERATION_TIMEOUT, Origin::QEMU));
        assert!(error.message.starts_with("web did not answer in "), "{error}");
    }

    #[tokio::test]
    async fn jobs_and_work_outside_of_calls_have_no_deadline() {
        let work = || tokio::time::sleep(Duration::from_millis(20));
        scope(None, Origin::NONE, within(work(), |_| String::new())).await.unwrap();
        within(work(), |_| String::new()).await.unwrap();
    }
}
