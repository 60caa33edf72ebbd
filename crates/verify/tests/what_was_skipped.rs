//! The last test target: prints one line about the tests that were skipped in this run.
//!
//! It has no test harness, because a harness shows output only if a test fails.

fn main() {
    countersign_testkit::skipped::print_summary();
}
