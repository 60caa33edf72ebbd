package io.github.countersign.verify;

/**
 * An assertion was refused, or could not be verified.
 *
 * <p>The {@linkplain #code() code} is stable and meant for programs. The {@linkplain #detail() detail} is for people, safe
 * to show to a caller, and may change. Neither contains the token or parts of it.
 */
public final class AssertionRefused extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final String code;
    private final int status;
    private final String detail;

    /**
     * Makes a refusal with the usual detail, for adapters and replay stores.
     *
     * @param code one of the codes of the specification, such as {@code assertion-replayed}
     * @throws IllegalArgumentException if there is no such code
     */
    public AssertionRefused(String code) {
        this(Refusal.of(code));
    }

    /**
     * Makes a refusal with a detail of its own.
     *
     * @param code one of the codes of the specification
     * @param detail for people; must be safe to show to a caller
     * @throws IllegalArgumentException if there is no such code
     */
    public AssertionRefused(String code, String detail) {
        this(Refusal.of(code), detail);
    }

    AssertionRefused(Refusal refusal) {
        this(refusal, refusal.detail);
    }

    AssertionRefused(Refusal refusal, String detail) {
        // A refusal is an ordinary outcome that strangers can cause, so it records no stack.
        super(refusal.code + ": " + detail, null, false, false);
        this.code = refusal.code;
        this.status = refusal.status;
        this.detail = detail;
    }

    /** {@return the stable code, such as {@code assertion-expired}} */
    public String code() {
        return code;
    }

    /** {@return the HTTP status of a response: 401, 403 or 503} */
    public int status() {
        return status;
    }

    /** {@return the reason for people} */
    public String detail() {
        return detail;
    }
}
