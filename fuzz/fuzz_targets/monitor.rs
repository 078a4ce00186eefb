//! See `bulkhead_fuzzer::find("monitor")`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = bulkhead_fuzzer::find("monitor").expect("a target of this name");
    (target.run)(bytes);
});
