//! Firmware variables of a domain that is undefined: what becomes of them has to be said.

use bulkhead::wire::error::Code;
use bulkhead_tests::fixture::{Root, domain, skip};
use std::path::Path;

const REMOVE: u32 = 4;
const KEEP: u32 = 8;
const XML: &str = "<domain type='qemu'><name>efi</name><memory unit='MiB'>64</memory><os firmware='efi'>\
    <type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>";

#[tokio::test]
async fn a_domain_with_firmware_variables_is_undefined_only_with_a_word_about_them() {
    if !Path::new("/usr/share/qemu/firmware/60-edk2-x86_64.json").exists() {
        skip("no ovmf");
        return;
    }
    let root = Root::new();
    let stack = root.open().await.unwrap();
    let domains = stack.domains();
    let variables = root.path().join("lib/qemu/nvram/efi_VARS.fd");
    let guest = domains.domain_define_xml_flags(XML.to_owned(), 0).await.unwrap();
    // The answer is the same whether or not the file is there, which a client can't see, and names what can be said.
    let before = domains.domain_undefine_flags(guest.clone(), 0).await.unwrap_err();
    assert_eq!(before.code, Code::OPERATION_INVALID);
    assert!(before.message.contains("UNDEFINE_NVRAM") && before.message.contains("KEEP_NVRAM"), "{before}");
    let xml = domains.domain_get_xml_desc(guest.clone(), 0).await.unwrap();
    assert!(xml.contains(&variables.display().to_string()), "{xml}");
    std::fs::create_dir_all(variables.parent().unwrap()).unwrap();
    std::fs::write(&variables, "x").unwrap();
    let refusal = domains.domain_undefine_flags(guest.clone(), 0).await.unwrap_err();
    assert_eq!((refusal.code, &refusal.message), (Code::OPERATION_INVALID, &before.message));
    let refusal = domains.domain_undefine_flags(guest.clone(), REMOVE | KEEP).await.unwrap_err();
    assert_eq!(refusal.code, Code::INVALID_ARG);
    domains.domain_undefine_flags(guest, KEEP).await.unwrap();
    assert!(variables.exists() && domain(&stack, "efi").await.is_err());
    let guest = domains.domain_define_xml_flags(XML.to_owned(), 0).await.unwrap();
    domains.domain_undefine_flags(guest, REMOVE).await.unwrap();
    assert!(!variables.exists());
    // What is not there is not missed, and what a person keeps elsewhere is not ours to remove.
    let guest = domains.domain_define_xml_flags(XML.to_owned(), 0).await.unwrap();
    domains.domain_undefine_flags(guest, REMOVE).await.unwrap();
    let elsewhere = root.path().join("theirs_VARS.fd");
    std::fs::write(&elsewhere, "x").unwrap();
    let nvram = format!("<nvram>{}</nvram></os>", elsewhere.display());
    let xml = XML.replace("</os>", &nvram);
    let guest = domains.domain_define_xml_flags(xml, 0).await.unwrap();
    domains.domain_undefine_flags(guest, REMOVE).await.unwrap();
    assert!(elsewhere.exists());
    // Without firmware variables there is nothing to say.
    let plain = XML.replace(" firmware='efi'", "");
    let guest = domains.domain_define_xml_flags(plain, 0).await.unwrap();
    domains.domain_undefine_flags(guest, 0).await.unwrap();
    stack.stop().await.unwrap();
}
