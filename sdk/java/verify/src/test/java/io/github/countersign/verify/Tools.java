package io.github.countersign.verify;

import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assumptions.abort;

/** What a test needs besides Java. */
final class Tools {
    private Tools() {}

    /** Skips the test, or lets it fail if COUNTERSIGN_REQUIRE_TOOLS is 1. */
    static void lacking(String tool) {
        assertNotEquals("1", System.getenv("COUNTERSIGN_REQUIRE_TOOLS"), "missing: " + tool);
        abort("missing: " + tool);
    }
}
