//! What an image's header says, read in a helper that can open this image and nothing else.

use crate::driver::Environment;
use bulkhead_wire::control::{Access, HelperRequest};
use bulkhead_wire::descriptor::Descriptor;
use bulkhead_wire::error::{Code, Error, Origin};
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Time to read one image's header; a file server may be slow.
const HEADER_WITHIN: Duration = Duration::from_secs(8);
/// Bytes of the answer about one image.
const ANSWER_MAX_BYTES: u64 = 1 << 20;

/// What `qemu-img info` says of one image, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Image {
    /// What a guest sees of it, in bytes.
    pub(crate) virtual_size: u64,
    /// What it takes on the host, in bytes.
    pub(crate) actual_size: Option<u64>,
    /// The image below it.
    pub(crate) full_backing_filename: Option<String>,
    /// And of which format that is.
    pub(crate) backing_filename_format: Option<String>,
    #[serde(default)]
    children: Vec<Child>,
}

/// What an image is made of.
#[derive(Debug, Deserialize)]
struct Child {
    name: String,
    info: ChildInfo,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ChildInfo {
    virtual_size: u64,
}

impl Image {
    /// The length of the file, in bytes.
    pub(crate) fn file_size(&self) -> Option<u64> {
        self.children.iter().find(|child| child.name == "file").map(|child| child.info.virtual_size)
    }
}

impl Environment {
    /// Reads the header of an image of a domain's.
    pub(crate) async fn image(&self, domain: &str, path: &str, format: &str) -> Result<Image, Error> {
        let named =
            |error: Error| Error { message: format!("Domain '{domain}': {}", error.message), ..error };
        let system = |error: std::io::Error| {
            Error::system(Origin::QEMU, format!("Domain '{domain}': image {path}"), &error)
        };
        let (reading, writing) =
            nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| system(errno.into()))?;
        let key = format!("image-{}", self.next_number());
        let request = HelperRequest {
            key: key.clone(),
            class: "qemu-img".to_owned(),
            program: PathBuf::from("/usr/bin/qemu-img"),
            arguments: ["info", "--output=json", "-U", "-f", format, path].map(str::to_owned).to_vec(),
            environment: vec![("LC_ALL".to_owned(), "C".to_owned())],
            files: vec![(PathBuf::from(path), Access::Read)],
            listeners: Vec::new(),
            outputs: Vec::new(),
            descriptors: vec![(1, Descriptor::new(writing))],
            ports: Vec::new(),
            network: false,
            errors: None,
            autodestroy: true,
        };
        self.stack.start_helper(request).await.map_err(named)?;
        let mut text = Vec::new();
        let read = async {
            let flags = nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK);
            nix::fcntl::fcntl(&reading, flags)?;
            let pipe = tokio::net::unix::pipe::Receiver::from_owned_fd(reading)?;
            pipe.take(ANSWER_MAX_BYTES).read_to_end(&mut text).await
        };
        let read = tokio::time::timeout(HEADER_WITHIN, read).await;
        if !matches!(read, Ok(Ok(_))) {
            let _ = self.stack.kill_helper(&key).await;
            let message = format!(
                "Domain '{domain}': image {path} could not be read within {} s",
                HEADER_WITHIN.as_secs()
            );
            return Err(Error::new(Code::OPERATION_TIMEOUT, Origin::QEMU, message));
        }
        serde_json::from_slice(&text).map_err(|_error| {
            let message =
                format!("Domain '{domain}': image {path} is damaged, or not of the format {format}");
            Error::new(Code::CONFIG_UNSUPPORTED, Origin::QEMU, message)
        })
    }
}
