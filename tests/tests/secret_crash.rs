//! The secret driver dies at each point of each change; afterwards a secret is as it was or as it was to be, never torn from
//! its value.
#![expect(clippy::unwrap_used, reason = "parts of a test outside of its function")]

use bulkhead::wire::table::Driver;
use bulkhead::wire::types::Uuid;
use bulkhead::wire::types::secret::{SecretRef, SecretValue};
use bulkhead::{Connection, FaultRule};
use bulkhead_tests::fixture::{Root, driver, figure, libexec, wait_for};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    FirstValue,
    Define,
    Redefine,
    SetValue,
    Undefine,
    Rotate,
    BecomeEphemeral,
    BecomeStored,
    SetEphemeral,
    UndefineEphemeral,
}

const WRITE: [&str; 5] = ["before_write", "before_sync", "before_rename", "after_rename", "after_write"];
const REMOVE: [&str; 2] = ["before_remove", "after_remove"];

/// What is done, which writes and removals it takes, and the how-manieth of their kind these are: what is prepared comes first.
fn points() -> Vec<(Act, String, u32)> {
    let steps: [(Act, &str, &[&str], u32); 18] = [
        (Act::FirstValue, "secret_key", &WRITE, 1),
        (Act::FirstValue, "secret", &WRITE, 2),
        (Act::Define, "secret", &WRITE, 3),
        (Act::Define, "secret_define_xml", &["before", "after"], 3),
        (Act::Redefine, "secret", &WRITE, 3),
        (Act::SetValue, "secret", &WRITE, 3),
        (Act::SetValue, "secret_set_value", &["before", "after"], 3),
        (Act::Undefine, "secret", &REMOVE, 1),
        (Act::Undefine, "secret_undefine", &["before", "after"], 1),
        (Act::Rotate, "secret_key", &WRITE, 2),
        (Act::Rotate, "secret", &WRITE, 3),
        (Act::Rotate, "secret_key", &WRITE, 3),
        (Act::BecomeEphemeral, "shelf", &["before_deposit", "after_deposit"], 3),
        (Act::BecomeEphemeral, "secret", &REMOVE, 1),
        (Act::BecomeStored, "secret", &WRITE, 3),
        (Act::BecomeStored, "shelf", &["before_withdraw", "after_withdraw"], 1),
        (Act::SetEphemeral, "shelf", &["before_deposit", "after_deposit"], 3),
        (Act::UndefineEphemeral, "shelf", &["before_withdraw", "after_withdraw"], 1),
    ];
    let named = |(act, subject, moments, nth): (Act, &str, &'static [&str], u32)| {
        let subject = subject.to_owned();
        moments.iter().map(move |moment| (act, format!("{subject}.{moment}"), nth))
    };
    steps.into_iter().flat_map(named).collect()
}

fn uuid(number: u8) -> Uuid {
    Uuid([number; 16])
}

fn reference(number: u8) -> SecretRef {
    SecretRef { uuid: uuid(number), usage_type: 4, usage_id: number.to_string() }
}

async fn define(stack: &Connection, number: u8, ephemeral: bool, words: &str) -> Result<(), bulkhead::Error> {
    let ephemeral = if ephemeral { "yes" } else { "no" };
    let xml = format!(
        "<secret ephemeral='{ephemeral}'><uuid>{}</uuid><description>{words}</description>\
         <usage type='tls'><name>{number}</name></usage></secret>",
        uuid(number)
    );
    stack.secrets().secret_define_xml(xml, 0).await.map(drop)
}

async fn set(stack: &Connection, number: u8, value: &str) -> Result<(), bulkhead::Error> {
    let value = SecretValue::new(value.as_bytes().to_vec());
    stack.secrets().secret_set_value(reference(number), value, 0).await
}

/// Description and value of a secret; `None` if there is none.
async fn seen(stack: &Connection, number: u8) -> Option<(String, Option<String>)> {
    let xml = stack.secrets().secret_get_xml_desc(reference(number), 0).await.ok()?;
    let words = xml.split("<description>").nth(1)?.split('<').next()?.to_owned();
    let value = match stack.secrets().secret_get_value(reference(number), 0).await {
        Ok(value) => Some(String::from_utf8(value.expose().to_vec()).unwrap()),
        Err(error) if error.message.contains("has no value") => None,
        Err(error) => panic!("secret {number}: {error}"),
    };
    Some((words, value))
}

async fn act(stack: &Connection, act: Act) -> Result<(), bulkhead::Error> {
    match act {
        Act::FirstValue | Act::SetValue => set(stack, 1, "new").await,
        Act::Define => define(stack, 3, false, "new").await,
        Act::Redefine => define(stack, 1, false, "new").await,
        Act::Undefine => stack.secrets().secret_undefine(reference(1)).await,
        Act::Rotate => stack.secrets().secret_rotate_key().await.map(drop),
        Act::BecomeEphemeral => define(stack, 1, true, "new").await,
        Act::BecomeStored => define(stack, 2, false, "new").await,
        Act::SetEphemeral => set(stack, 2, "new").await,
        Act::UndefineEphemeral => stack.secrets().secret_undefine(reference(2)).await,
    }
}

fn known(words: &str, value: &str) -> Option<(String, Option<String>)> {
    Some((words.to_owned(), Some(value.to_owned())))
}

async fn one(what: Act, point: &str, nth: u32) {
    let root = Root::new();
    let fault = FaultRule { driver: Driver::Secret, point: point.to_owned(), nth, hang: false };
    let uri = format!("secret:///embed?root={}", root.path().display());
    let stack = Connection::builder(&uri).libexec(libexec()).faults(vec![fault]).open().await.unwrap();
    define(&stack, 1, false, "old").await.unwrap();
    if what != Act::FirstValue {
        set(&stack, 1, "old").await.unwrap();
        define(&stack, 2, true, "old").await.unwrap();
        set(&stack, 2, "old").await.unwrap();
    }
    let done = act(&stack, what).await;
    // A value that is given twice is the same value: that call is made again and succeeds.
    let repeated = matches!(what, Act::FirstValue | Act::SetValue | Act::SetEphemeral);
    match done {
        Ok(()) => assert!(repeated, "{what:?} {point} did not fail"),
        Err(error) => {
            assert!(!repeated && error.message.contains("ended while it served"), "{point}: {error}");
        }
    }
    wait_for(point, SOON, || async {
        let (_, incarnation) = driver(&stack, "secret").await?;
        if incarnation == 2 { Ok(()) } else { Err(format!("incarnation {incarnation}")) }
    })
    .await;
    let (first, second, third) = (seen(&stack, 1).await, seen(&stack, 2).await, seen(&stack, 3).await);
    let (old, new) = (known("old", "old"), known("new", "old"));
    let expected: (&[_], &[_], &[_]) = match what {
        Act::FirstValue => (&[known("old", "new")], &[None], &[None]),
        Act::Define => {
            (std::slice::from_ref(&old), std::slice::from_ref(&old), &[None, Some(("new".to_owned(), None))])
        }
        Act::Redefine | Act::BecomeEphemeral => (&[old.clone(), new], std::slice::from_ref(&old), &[None]),
        Act::SetValue => (&[known("old", "new")], std::slice::from_ref(&old), &[None]),
        Act::Undefine => (&[old.clone(), None], std::slice::from_ref(&old), &[None]),
        Act::Rotate => (std::slice::from_ref(&old), std::slice::from_ref(&old), &[None]),
        Act::BecomeStored => (std::slice::from_ref(&old), &[old.clone(), new], &[None]),
        Act::SetEphemeral => (std::slice::from_ref(&old), &[known("old", "new")], &[None]),
        Act::UndefineEphemeral => (std::slice::from_ref(&old), &[old.clone(), None], &[None]),
    };
    assert!(expected.0.contains(&first), "{what:?} {point}: {first:?}");
    assert!(expected.1.contains(&second), "{what:?} {point}: {second:?}");
    assert!(expected.2.contains(&third), "{what:?} {point}: {third:?}");
    // Life goes on: what was cut short is done again, and one key is left at the end of it.
    if matches!(what, Act::Undefine | Act::UndefineEphemeral) {
        let _gone_already = act(&stack, what).await;
    } else {
        act(&stack, what).await.unwrap();
    }
    stack.secrets().secret_rotate_key().await.unwrap();
    let keys = std::fs::read_to_string(root.path().join("etc/secret/master.key")).unwrap();
    assert_eq!(keys.lines().count(), 1, "{what:?} {point}");
    for folder in ["etc/secret", "lib/secret"] {
        for entry in std::fs::read_dir(root.path().join(folder)).unwrap().flatten() {
            let name = entry.file_name().into_string().unwrap();
            assert!(!name.ends_with(".new") && !name.contains("unreadable"), "{what:?} {point}: {name}");
        }
    }
    // Ephemeral secrets are stored nowhere.
    let stored = |number| root.path().join(format!("lib/secret/{}.secret", uuid(number))).exists();
    assert_eq!(stored(2), what == Act::BecomeStored, "{what:?} {point}");
    assert!(what != Act::BecomeEphemeral || !stored(1), "{what:?} {point}");
    stack.stop().await.unwrap();
}

#[tokio::test]
async fn after_a_death_at_any_point_a_secret_is_as_it_was_or_as_it_was_to_be() {
    let points = points();
    for (what, point, nth) in &points {
        one(*what, point, *nth).await;
    }
    figure(&format!("{} points at which the secret driver died", points.len()));
}
