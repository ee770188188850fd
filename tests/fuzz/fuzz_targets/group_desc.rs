//! Fuzz target; see `ext4kit::testing::fuzz`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ext4kit::testing::fuzz::group_desc(data));
