//! What goes beside calls over libvirt's protocol: streams with holes and without, descriptors, channels.
#![expect(clippy::unwrap_used, reason = "a test ends where something can't be had")]

use bulkhead_tests::fixture::{guest_files, skip};
use bulkhead_tests::served::{PYTHON, Served, has};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

/// Are virsh and python's module there?
async fn ready(served: &Served) -> bool {
    if !has(&[("virsh", "libvirt-clients")]) {
        return false;
    }
    let found = served.said(PYTHON, &["-c", "import libvirt"]).await.1;
    if !found {
        skip("no libvirt for python; python3-libvirt has it");
    }
    found
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

/// A pool with a volume of so many bytes that takes no room.
async fn volume(served: &Served, name: &str, bytes: u64) -> PathBuf {
    let images = served.root.path().join("images");
    std::fs::create_dir_all(&images).unwrap();
    served.virsh(&["pool-create-as", "images", "dir", "--target", path(&images)]).await;
    let size = format!("{bytes}B");
    served.virsh(&["vol-create-as", "images", name, &size, "--allocation", "0", "--format", "raw"]).await;
    images.join(name)
}

#[tokio::test]
async fn holes_stay_holes_both_ways() {
    let served = Served::new().await;
    if !ready(&served).await {
        return;
    }
    const SIZE: u64 = 64 << 20;
    let image = volume(&served, "sparse", SIZE).await;
    // What was there is zeros where the upload has a hole.
    let old = File::options().write(true).open(&image).unwrap();
    old.write_all_at(&[7; 1 << 20], 20 << 20).unwrap();
    let given = served.root.path().join("given");
    let file = File::create(&given).unwrap();
    file.set_len(SIZE).unwrap();
    let text: Vec<u8> = (0..300_000_u32).map(|number| u8::try_from(number % 251).unwrap()).collect();
    for at in [1 << 20, 40 << 20] {
        file.write_all_at(&text, at).unwrap();
    }
    served.virsh(&["vol-upload", "sparse", path(&given), "--pool", "images", "--sparse"]).await;
    let expected = std::fs::read(&given).unwrap();
    assert!(std::fs::read(&image).unwrap() == expected, "what was uploaded is there");
    let back = served.root.path().join("back");
    served.virsh(&["vol-download", "sparse", path(&back), "--pool", "images", "--sparse"]).await;
    assert!(std::fs::read(&back).unwrap() == expected, "and comes back");
    let taken = back.metadata().unwrap().blocks() * 512;
    assert!(taken < 4 << 20, "{taken} bytes are taken by what is 600,000 bytes and holes");
    // Part of it, which begins and ends in a hole.
    let part = served.root.path().join("part");
    let bounded = ["--offset", "524288", "--length", "1572864", "--sparse"];
    served
        .virsh(&[&["vol-download", "sparse", path(&part), "--pool", "images"][..], &bounded].concat())
        .await;
    assert!(std::fs::read(&part).unwrap() == expected[524_288..524_288 + 1_572_864]);
    // And with nothing but a hole in it.
    served.virsh(&["vol-create-as", "images", "empty", "1MiB", "--allocation", "0", "--format", "raw"]).await;
    served.virsh(&["vol-download", "empty", path(&part), "--pool", "images", "--sparse"]).await;
    assert!(std::fs::read(&part).unwrap() == vec![0; 1 << 20]);
    served.stack.stop().await.unwrap();
}

/// Opens a download and does not read it; then does.
const SLOW: &str = r#"
import hashlib, libvirt, sys
libvirt.registerErrorHandler(lambda context, error: None, None)
connection = libvirt.open(None)
volume = connection.storagePoolLookupByName("images").storageVolLookupByName(sys.argv[1])
stream = connection.newStream()
volume.download(stream, 0, 0, 0)
print("open", flush=True)
sys.stdin.readline()
assert connection.getLibVersion() == 11003000
digest = hashlib.sha256()
while True:
    data = stream.recv(1 << 20)
    if not data:
        break
    digest.update(data)
stream.finish()
print(digest.hexdigest(), flush=True)
"#;

#[tokio::test]
async fn who_does_not_read_holds_up_nobody_and_takes_no_memory() {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    let served = Served::new().await;
    if !ready(&served).await {
        return;
    }
    const SIZE: usize = 96 << 20;
    let image = volume(&served, "large", SIZE as u64).await;
    let content: Vec<u8> = (0..SIZE).map(|number| u8::try_from(number / 977 % 256).unwrap()).collect();
    std::fs::write(&image, &content).unwrap();
    let memory_kib = || async {
        let status = served.stack.status().await.unwrap();
        status.drivers.iter().find(|driver| driver.name == "gateway").unwrap().memory_kib
    };
    let mut child = served.command(PYTHON);
    let mut child = child.args(["-c", SLOW, "large"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "open");
    // Others are served as long as they like.
    for _ in 0..10 {
        served.virsh(&["vol-info", "large", "--pool", "images"]).await;
    }
    let taken = memory_kib().await;
    assert!(taken < 32 << 10, "the gateway takes {taken} KiB for a stream that nobody reads");
    child.stdin.take().unwrap().write_all(b"\n").await.unwrap();
    let (sum, _) = served.said("sha256sum", &[path(&image)]).await;
    let got = lines.next_line().await.unwrap();
    assert_eq!(got.as_deref(), sum.split_whitespace().next());
    assert!(child.wait().await.unwrap().success());
    served.stack.stop().await.unwrap();
}

const BESIDE: &str = r#"
import libvirt, socket, sys
libvirt.registerErrorHandler(lambda context, error: None, None)
connection = libvirt.open(None)
domain = connection.createXML(open(sys.argv[1]).read())

def fails(code, domain_number, call, *arguments):
    try:
        call(*arguments)
    except libvirt.libvirtError as error:
        assert (error.get_error_code(), error.get_error_domain()) == (code, domain_number), error.err
        return str(error)
    raise AssertionError("%s did not fail" % call)

def greeting(display):
    display.settimeout(20)
    text = b""
    while len(text) < 12:
        text += display.recv(12 - len(text))
    assert text == b"RFB 003.008\n", text

ours, theirs = socket.socketpair()
domain.openGraphics(0, theirs.fileno(), libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH)
theirs.close()
greeting(ours)
again = socket.socket(fileno=domain.openGraphicsFD(0, 0))
greeting(again)
# Two clients of one display at a time, each a descriptor of its own.
assert ours.fileno() != again.fileno()
fails(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, domain.openGraphicsFD, 7, 0)
spare, other = socket.socketpair()
fails(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, domain.openGraphics, 7, spare.fileno(), 0)

first = connection.newStream()
domain.openChannel("org.example.talk", first, 0)
second = connection.newStream()
text = fails(libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_QEMU, domain.openChannel, "org.example.talk", second, 0)
assert "Active channel stream" in text, text
taken = connection.newStream()
domain.openChannel("org.example.talk", taken, libvirt.VIR_DOMAIN_CHANNEL_FORCE)
fails(libvirt.VIR_ERR_RPC, libvirt.VIR_FROM_STREAMS, first.recv, 1)
third = connection.newStream()
assert "cannot find channel" in fails(libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU, domain.openChannel, "nobody", third, 0)
domain.destroy()
assert taken.recv(1) == b""
taken.finish()
print("content")
"#;

#[tokio::test]
async fn displays_and_channels_are_opened_for_python() {
    let served = Served::new().await;
    let Some(files) = guest_files() else {
        return skip("no guest files; tools/guest/build makes them");
    };
    if !ready(&served).await {
        return;
    }
    let xml = served.definition("shown", &files);
    let devices = "<graphics type='vnc'><listen type='socket'/></graphics>\
        <channel type='unix'><target type='virtio' name='org.example.talk'/></channel></devices>";
    let text = std::fs::read_to_string(&xml).unwrap().replace("</devices>", devices);
    std::fs::write(&xml, text).unwrap();
    let (text, well) = served.said(PYTHON, &["-c", BESIDE, &xml]).await;
    assert!(well && text.contains("content"), "{text}");
    served.stack.stop().await.unwrap();
}
