//! See `bulkhead_fuzzer::find("domain")`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = bulkhead_fuzzer::find("domain").expect("a target of this name");
    (target.run)(bytes);
});
