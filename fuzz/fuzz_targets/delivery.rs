//! See `gitlab_runner_api_testkit::fuzz::delivery`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| gitlab_runner_api_testkit::fuzz::delivery(data));
