//! What a guest's agent is asked.

use super::observed::Observed;
use super::unsupported_flags;
use crate::driver::Qemu;
use crate::guest::agent::AGENT_WITHIN;
use bulkhead_wire::error::{Code, Error};
use bulkhead_wire::table::CallContext;
use bulkhead_wire::table::domain::{domain_get_time, domain_set_time};
use bulkhead_wire::types::GuestTime;
use serde_json::{Value, json};

/// Take the time from the guest's clock that runs without it (`VIR_DOMAIN_TIME_SYNC`).
const TIME_SYNC: u32 = 1;
const NS_PER_SECOND: i64 = 1_000_000_000;

fn senseless(guest: &Observed<'_>, what: &str) -> Error {
    guest.wrong(Code::INTERNAL, &format!("its agent's answer about {what} makes no sense"))
}

pub(super) async fn domain_get_time(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_get_time::Arguments,
) -> Result<GuestTime, Error> {
    unsupported_flags(&call, arguments.flags, 0)?;
    let guest = driver.observed(&arguments.domain)?;
    let time = guest.agent().execute("guest-get-time", Value::Null, AGENT_WITHIN).await?;
    let time = time.as_i64().ok_or_else(|| senseless(&guest, "the time"))?;
    Ok(GuestTime {
        seconds: time.div_euclid(NS_PER_SECOND),
        nanoseconds: u32::try_from(time.rem_euclid(NS_PER_SECOND)).unwrap_or(0),
    })
}

pub(super) async fn domain_set_time(
    driver: &Qemu,
    call: CallContext,
    arguments: domain_set_time::Arguments,
) -> Result<(), Error> {
    unsupported_flags(&call, arguments.flags, TIME_SYNC)?;
    let guest = driver.observed(&arguments.domain)?;
    let time = arguments
        .seconds
        .checked_mul(NS_PER_SECOND)
        .and_then(|time| time.checked_add(i64::from(arguments.nanoseconds)))
        .ok_or_else(|| guest.wrong(Code::OVERFLOW, "that time lies beyond what its agent can be told"))?;
    let time = if arguments.flags & TIME_SYNC != 0 { Value::Null } else { json!({ "time": time }) };
    guest.agent().execute("guest-set-time", time, AGENT_WITHIN).await.map(drop)
}
