#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ddictl_fuzz::boot_entry(input));
