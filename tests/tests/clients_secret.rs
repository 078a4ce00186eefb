//! Secrets over libvirt's protocol: its own clients, unmodified, against a stack in a private root.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{driver, kill, skip, wait_for};
use bulkhead_tests::served::{PYTHON, Served, installed};
use nix::sys::signal::Signal;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Child;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
const VOLUME: &str = "00000000-0000-4000-8000-000000000001";
const CEPH: &str = "00000000-0000-4000-8000-000000000002";
const PRIVATE: &str = "00000000-0000-4000-8000-000000000003";

fn file(served: &Served, name: &str, content: &[u8]) -> String {
    let path = served.root.path().join(name);
    std::fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

async fn define(served: &Served, uuid: &str, flags: &str, usage: &str) {
    let xml = format!("<secret {flags}><uuid>{uuid}</uuid>{usage}</secret>");
    let said = served.virsh(&["secret-define", &file(served, "secret.xml", xml.as_bytes())]).await;
    assert!(said.contains(&format!("Secret {uuid} created")), "{said}");
}

async fn define_all(served: &Served) {
    define(served, VOLUME, "", "<usage type='volume'><volume>/images/a.img</volume></usage>").await;
    define(served, CEPH, "ephemeral='yes'", "<usage type='ceph'><name>client.a</name></usage>").await;
    define(served, PRIVATE, "private='yes'", "<usage type='tls'><name>key</name></usage>").await;
}

/// The uuids that a listing names, in its order.
async fn listed(served: &Served, filters: &[&str]) -> Vec<String> {
    let said = served.virsh(&[&["secret-list"], filters].concat()).await;
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    said.lines().filter_map(first).filter(|word| word.starts_with("00000000-")).collect()
}

#[tokio::test]
async fn virsh_takes_secrets_through_their_life() {
    if !installed(&["virsh", "script"]) {
        return skip("no virsh; libvirt-clients has it");
    }
    let served = Served::new().await;
    define_all(&served).await;
    for (filters, expected) in [
        (&[][..], &[VOLUME, CEPH, PRIVATE][..]),
        (&["--ephemeral"], &[CEPH]),
        (&["--no-ephemeral"], &[VOLUME, PRIVATE]),
        (&["--private"], &[PRIVATE]),
        (&["--no-private"], &[VOLUME, CEPH]),
        (&["--private", "--ephemeral"], &[]),
        (&["--private", "--no-private", "--ephemeral"], &[CEPH]),
    ] {
        assert_eq!(listed(&served, filters).await, expected, "{filters:?}");
    }
    let said = served.virsh(&["secret-list"]).await;
    assert!(said.contains("volume /images/a.img") && said.contains("ceph client.a"), "{said}");
    let described = served.virsh(&["secret-dumpxml", CEPH]).await;
    assert!(described.contains("<secret ephemeral='yes' private='no'>"), "{described}");
    assert!(described.contains("<name>client.a</name>"), "{described}");

    let said = served.virsh_fails(&["secret-get-value", VOLUME]).await;
    assert!(said.contains("Secret") && said.contains(VOLUME), "{said}");
    // In base64, in a file as it is, and typed in.
    served.virsh(&["secret-set-value", VOLUME, "--base64", "c2VjcmV0IG9uZQ=="]).await;
    assert_eq!(served.virsh(&["secret-get-value", VOLUME]).await.trim(), "c2VjcmV0IG9uZQ==");
    assert_eq!(served.virsh(&["secret-get-value", VOLUME, "--plain"]).await.trim_end(), "secret one");
    let plain = file(&served, "value", b"\0two\xff\n");
    served.virsh(&["secret-set-value", CEPH, "--plain", "--file", &plain]).await;
    assert_eq!(served.virsh(&["secret-get-value", CEPH]).await.trim(), "AHR3b/8K");
    let encoded = file(&served, "value.base64", b"dGhyZWU=");
    served.virsh(&["secret-set-value", CEPH, "--file", &encoded]).await;
    assert_eq!(served.virsh(&["secret-get-value", CEPH, "--plain"]).await.trim_end(), "three");
    let mut typed = served.command("script");
    typed.args(["-qec", &format!("virsh secret-set-value {PRIVATE} --interactive"), "/dev/null"]);
    let mut typed = typed.stdin(Stdio::piped()).spawn().unwrap();
    // virsh throws away what was typed before it asks.
    let mut asked = BufReader::new(typed.stdout.take().unwrap());
    timeout(SOON, asked.read_until(b':', &mut Vec::new())).await.unwrap().unwrap();
    typed.stdin.as_mut().unwrap().write_all(b"four\n").await.unwrap();
    assert!(timeout(SOON, typed.wait()).await.unwrap().unwrap().success());
    let refused = served.virsh_fails(&["secret-get-value", PRIVATE]).await;
    assert!(refused.contains("private") && !refused.contains("four"), "{refused}");
    let refused = served.virsh_fails(&["-r", "secret-get-value", VOLUME]).await;
    assert!(refused.contains("read only access prevents virSecretGetValue"), "{refused}");
    assert!(served.virsh(&["-r", "secret-dumpxml", VOLUME]).await.contains("/images/a.img"));

    served.virsh(&["secret-undefine", VOLUME]).await;
    assert_eq!(listed(&served, &[]).await, [CEPH, PRIVATE]);
    let gone = served.virsh_fails(&["secret-undefine", VOLUME]).await;
    assert!(gone.contains(VOLUME), "{gone}");
    served.stack.stop().await.unwrap();
}

/// What libvirt's module for Python sees of secrets; fails on the first thing that is not as libvirt has it.
const SCRIPT: &str = r#"
import libvirt, sys

libvirt.registerErrorHandler(lambda context, error: None, None)
connection = libvirt.open(None)

def fails(code, domain, call, *arguments):
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        assert (error.get_error_code(), error.get_error_domain()) == (code, domain), error.err
    else:
        raise AssertionError("%s did not fail" % call)
NO_SECRET, SECRET = libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_FROM_SECRET

assert connection.numOfSecrets() == 0 and connection.listSecrets() == [] and connection.listAllSecrets() == []
kinds = [("volume", "volume", 1), ("ceph", "name", 2), ("iscsi", "target", 3), ("tls", "name", 4), ("vtpm", "name", 5)]
for kind, element, number in kinds:
    xml = "<secret><usage type='%s'><%s>x %s</%s></usage></secret>" % (kind, element, kind, element)
    secret = connection.secretDefineXML(xml)
    assert (secret.usageType(), secret.usageID()) == (number, "x " + kind)
    found = connection.secretLookupByUsage(number, "x " + kind)
    assert found.UUIDString() == secret.UUIDString()
    assert connection.secretLookupByUUID(secret.UUID()).usageID() == "x " + kind
    value = bytes(range(256)) * number
    secret.setValue(value)
    assert secret.value() == value
assert connection.numOfSecrets() == 5 == len(connection.listSecrets()) == len(connection.listAllSecrets())
secret.setValue(b"v" * 65536)
assert secret.value() == b"v" * 65536
# No client can ask for an empty one: libvirt's own library takes it for a failure.
secret.setValue(b"")
fails(NO_SECRET, SECRET, connection.secretLookupByUsage, 1, "nobody")
fails(NO_SECRET, SECRET, connection.secretLookupByUsage, 9, "x volume")
fails(NO_SECRET, SECRET, connection.secretLookupByUUIDString, "00000000-0000-4000-8000-0000000000ff")
fails(libvirt.VIR_ERR_INVALID_ARG, SECRET, secret.value, 1)
fails(libvirt.VIR_ERR_INTERNAL_ERROR, SECRET, connection.secretDefineXML, "<secret><usage type='ceph'/></secret>")
plain = connection.secretDefineXML("<secret/>")
assert plain.usageType() == 0 and plain.usageID() in (None, "")
fails(NO_SECRET, SECRET, plain.value)
hidden = connection.secretDefineXML("<secret private='yes'/>")
hidden.setValue(b"x")
fails(libvirt.VIR_ERR_INVALID_SECRET, SECRET, hidden.value)
readonly = libvirt.openReadOnly(sys.argv[1])
assert readonly.numOfSecrets() == 7
fails(libvirt.VIR_ERR_OPERATION_DENIED, SECRET, readonly.secretDefineXML, "<secret/>")
fails(libvirt.VIR_ERR_OPERATION_DENIED, SECRET, readonly.secretLookupByUsage(1, "x volume").value)
for secret in connection.listAllSecrets():
    secret.undefine()
fails(NO_SECRET, SECRET, hidden.undefine)
assert connection.numOfSecrets() == 0
print("content")
"#;

#[tokio::test]
async fn python_does_what_scripts_do_with_secrets() {
    let served = Served::new().await;
    let (said, well) = served.said(PYTHON, &["-c", "import libvirt"]).await;
    if !well {
        return skip(&format!("no libvirt for Python; python3-libvirt has it: {}", said.trim()));
    }
    let read_only = served.uri().replace("libvirt-sock", "libvirt-sock-ro");
    let (said, well) = served.said(PYTHON, &["-c", SCRIPT, &read_only]).await;
    assert!(well && said.trim() == "content", "{said}");
    served.stack.stop().await.unwrap();
}

/// A loop that prints events, for all secrets and for one.
const LISTENER: &str = r#"
import libvirt, sys
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open(None)
def lifecycle(connection, secret, event, detail, who):
    print(who, secret.UUIDString()[-1], event, detail, flush=True)
def changed(connection, secret, who):
    print(who, secret.UUIDString()[-1], "value", flush=True)
gone = connection.secretEventRegisterAny(None, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, lifecycle, "gone")
connection.secretEventDeregisterAny(gone)
one = connection.secretLookupByUUIDString(sys.argv[1])
for secret, who in [(None, "all"), (one, "one")]:
    connection.secretEventRegisterAny(secret, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, lifecycle, who)
    connection.secretEventRegisterAny(secret, libvirt.VIR_SECRET_EVENT_ID_VALUE_CHANGED, changed, who)
print("ready", flush=True)
while True:
    libvirt.virEventRunDefaultImpl()
"#;

struct Listener {
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
    child: Child,
}

impl Listener {
    async fn hears(&mut self, expected: &[&str]) {
        for expected in expected {
            let line = timeout(SOON, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("'{expected}' was not told")).unwrap();
            if line.is_none() {
                let mut said = String::new();
                self.child.stderr.as_mut().unwrap().read_to_string(&mut said).await.unwrap();
                panic!("the listener ended before '{expected}': {said}");
            }
            assert_eq!(line.as_deref(), Some(*expected));
        }
    }
}

#[tokio::test]
async fn an_event_loop_hears_of_secrets_over_the_deaths_of_driver_and_gateway() {
    let served = Served::new().await;
    let (said, well) = served.said(PYTHON, &["-c", "import libvirt"]).await;
    if !well || !installed(&["virsh"]) {
        return skip(&format!("no libvirt for Python or no virsh: {}", said.trim()));
    }
    define_all(&served).await;
    let mut child = served.command(PYTHON).args(["-c", LISTENER, PRIVATE]).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut listener = Listener { lines, child };
    listener.hears(&["ready"]).await;
    served.virsh(&["secret-set-value", PRIVATE, "--base64", "eA=="]).await;
    listener.hears(&["all 3 value", "one 3 value"]).await;
    served.virsh(&["secret-undefine", VOLUME]).await;
    listener.hears(&["all 1 1 0"]).await;
    define(&served, VOLUME, "", "").await;
    listener.hears(&["all 1 0 0"]).await;
    // virsh's own listener knows the names of both.
    let mut virsh = served.command("stdbuf");
    virsh.args(["-oL", "virsh", "secret-event", "--event", "value-changed", "--loop", "--secret", CEPH]);
    let mut virsh = virsh.spawn().unwrap();
    let mut told = BufReader::new(virsh.stdout.take().unwrap()).lines();
    // It says nothing about its registration: what comes shows that it is there.
    let first = timeout(SOON, async {
        loop {
            served.virsh(&["secret-set-value", CEPH, "--base64", "eA=="]).await;
            listener.hears(&["all 2 value"]).await;
            if let Ok(line) = timeout(Duration::from_millis(300), told.next_line()).await {
                break line.unwrap().unwrap();
            }
        }
    });
    let first = first.await.unwrap();
    assert!(first.contains("value-changed") && first.contains(CEPH), "{first}");

    // Whatever dies, the registrations stay.
    for name in ["secret", "gateway"] {
        let (pid, incarnation) = driver(&served.stack, name).await.unwrap();
        kill(pid, Signal::SIGKILL);
        wait_for("the next one", SOON, || async {
            match driver(&served.stack, name).await {
                Ok((_, now)) if now > incarnation => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let mut heard = false;
        while !heard {
            // What happens before the next one has subscribed is not told: values have no history.
            served.virsh(&["secret-set-value", PRIVATE, "--base64", "eQ=="]).await;
            heard = match timeout(Duration::from_millis(500), listener.lines.next_line()).await {
                Ok(line) => line.unwrap().unwrap() == "one 3 value",
                Err(_elapsed) => false,
            };
        }
    }
    served.stack.stop().await.unwrap();
}
