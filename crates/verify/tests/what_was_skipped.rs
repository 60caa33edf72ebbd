//! The last test target: prints one line that says what this run could not test.
//!
//! It has no test harness, because that would show the line only if a test failed.

fn main() {
    countersign_testkit::skipped::print_summary();
}
