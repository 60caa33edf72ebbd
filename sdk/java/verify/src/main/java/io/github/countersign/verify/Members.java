package io.github.countersign.verify;

import java.math.BigInteger;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Typed access to the members of a JSON object of the payload. Every failure is {@code assertion-claims}. */
record Members(Map<String, Object> raw) {
    private static final long LATEST = Long.MAX_VALUE;

    /** Returns the value as an object with members, or null if it is none. */
    @SuppressWarnings("unchecked") // The strict parser makes maps with texts as keys only.
    static Map<String, Object> asObject(Object value) {
        return value instanceof Map<?, ?> ? (Map<String, Object>) value : null;
    }

    String text(String name) {
        if (raw.get(name) instanceof String text) {
            return text;
        }
        throw malformed();
    }

    String optionalText(String name) {
        return raw.get(name) == null ? null : text(name);
    }

    /** Returns an integer from 0 to 2^64 − 1. Beyond 2^63 − 1 the exact number has no meaning. */
    long integer(String name) {
        Object value = raw.get(name);
        if (value instanceof Long integer && integer >= 0) {
            return integer;
        }
        if (value instanceof BigInteger) {
            return LATEST;
        }
        throw malformed();
    }

    /** Returns seconds since 1970 as a time. Times beyond those of {@link Instant} become the last one. */
    Instant instant(String name) {
        long seconds = integer(name);
        return seconds > Instant.MAX.getEpochSecond() ? Instant.MAX : Instant.ofEpochSecond(seconds);
    }

    Instant optionalInstant(String name) {
        return raw.get(name) == null ? null : instant(name);
    }

    boolean bool(String name) {
        if (raw.get(name) instanceof Boolean bool) {
            return bool;
        }
        throw malformed();
    }

    /** Returns a boolean whose absence means false. A {@code null} is malformed. */
    boolean flag(String name) {
        return has(name) && bool(name);
    }

    List<String> texts(String name) {
        if (!(raw.get(name) instanceof List<?> items)) {
            throw malformed();
        }
        List<String> texts = new ArrayList<>();
        for (Object item : items) {
            if (!(item instanceof String text)) {
                throw malformed();
            }
            texts.add(text);
        }
        return List.copyOf(texts);
    }

    boolean has(String name) {
        return raw.containsKey(name);
    }

    Members members(String name) {
        Map<String, Object> members = asObject(raw.get(name));
        if (members == null) {
            throw malformed();
        }
        return new Members(members);
    }

    Members optionalMembers(String name) {
        return raw.get(name) == null ? null : members(name);
    }

    static AssertionRefused malformed() {
        return new AssertionRefused(Refusal.CLAIMS);
    }
}
