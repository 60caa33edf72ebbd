package io.github.countersign.verify.servlet;

import io.github.countersign.verify.AssertionRefused;
import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import io.github.countersign.verify.ProblemDetails;
import io.github.countersign.verify.RequestParts;
import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.FilterChain;
import jakarta.servlet.ServletException;
import jakarta.servlet.ServletRequest;
import jakarta.servlet.ServletRequestWrapper;
import jakarta.servlet.ServletResponse;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.IOException;
import java.util.Collections;
import java.util.Enumeration;
import java.util.List;
import java.util.Locale;
import java.util.Objects;
import java.util.Optional;

/**
 * Lets only requests with a verified assertion pass. Others get problem details (RFC 9457).
 *
 * <p>It must be the first filter, and be mapped to {@code /*}: what runs before it, or outside of its mapping, does not know
 * the caller. Map it to forwards, includes and asynchronous dispatches too, so that no earlier filter can go around it. Error
 * pages of requests that the container refuses itself run without it.
 *
 * <p>The target is {@code getRequestURI()} and {@code getQueryString()}, which containers do not decode. Targets with
 * characters outside of ASCII are refused, because containers show different ones. A container for HTTP/2 that shows no
 * {@code Host} field needs the verifier's option {@code authority}.
 *
 * <p>Method, target and header fields are those of the container's own request, whatever earlier filters made of them. If an
 * earlier filter changed the method or the target, the request is refused, because its handler would not be the one that the
 * assertion is for. Only a filter that puts the verifier's {@code pathPrefix} in front again may do so.
 */
public final class AssertionFilter implements Filter {
    /** The longest body if none is given, in bytes. */
    public static final int DEFAULT_MAX_BODY = 1024 * 1024;

    private static final String CALLER = "io.github.countersign.verify.caller";
    private static final System.Logger LOG = System.getLogger("io.github.countersign.verify");

    private final AssertionVerifier verifier;
    private final int maxBody;

    /** What the filter found. Requests of unverified paths have no caller. */
    private record Checked(Optional<Caller> caller) {}

    /**
     * Makes a filter.
     *
     * @param verifier applies the rules
     */
    public AssertionFilter(AssertionVerifier verifier) {
        this(verifier, DEFAULT_MAX_BODY);
    }

    /**
     * Makes a filter.
     *
     * @param verifier applies the rules
     * @param maxBody the longest body in bytes, if the verifier requires body binding. The filter then reads the body, so
     *     that the parameters of forms in bodies are not available; read the body instead. Forms without
     *     {@code Content-Length} are refused.
     */
    public AssertionFilter(AssertionVerifier verifier, int maxBody) {
        this.verifier = Objects.requireNonNull(verifier);
        if (maxBody < 0 || maxBody == Integer.MAX_VALUE) {
            throw new IllegalArgumentException("maxBody is out of range");
        }
        this.maxBody = maxBody;
    }

    /**
     * Returns the verified caller of a request.
     *
     * @param request in a handler
     * @return the caller; empty if the path is one of the unverified ones
     * @throws IllegalStateException if no filter checked the request
     */
    public static Optional<Caller> findCaller(ServletRequest request) {
        if (request.getAttribute(CALLER) instanceof Checked checked) {
            return checked.caller();
        }
        throw new IllegalStateException("no AssertionFilter checked the request");
    }

    /**
     * Returns the verified caller of a request.
     *
     * @param request in a handler
     * @return the caller
     * @throws IllegalStateException if there is none: the path is one of the unverified ones, or no filter checked the
     *     request
     */
    public static Caller caller(ServletRequest request) {
        return findCaller(request).orElseThrow(() -> new IllegalStateException("the request has no verified caller"));
    }

    @Override
    public void doFilter(ServletRequest request, ServletResponse response, FilterChain chain)
            throws IOException, ServletException {
        if (!(request instanceof HttpServletRequest http) || !(response instanceof HttpServletResponse answer)) {
            throw new ServletException("only HTTP requests have assertions");
        }
        // Forwards and the like show another target. The request was checked when it arrived.
        if (http.getDispatcherType() != DispatcherType.REQUEST && http.getAttribute(CALLER) instanceof Checked) {
            chain.doFilter(request, response);
            return;
        }
        // Nothing but this filter sets the caller.
        http.removeAttribute(CALLER);
        HttpServletRequest passed;
        try {
            passed = checked(http);
        } catch (AssertionRefused refusal) {
            LOG.log(System.Logger.Level.INFO, "refused: {0}", refusal.getMessage());
            refuse(answer, refusal);
            return;
        }
        chain.doFilter(passed, response);
    }

    private HttpServletRequest checked(HttpServletRequest request) throws IOException {
        if (request.getDispatcherType() != DispatcherType.REQUEST) {
            throw new AssertionRefused("assertion-request-unclear");
        }
        HttpServletRequest received = received(request);
        if (!isUnchanged(received, request)) {
            throw new AssertionRefused(
                    "assertion-request-unclear", "an earlier filter changed the request's method or target");
        }
        String target = target(received);
        if (verifier.isUnverified(received.getMethod(), target)) {
            request.setAttribute(CALLER, new Checked(Optional.empty()));
            return request;
        }
        String assertion = RequestParts.onlyAssertion(values(received, RequestParts.HEADER));
        RequestParts parts = new RequestParts(received.getMethod(), values(received, "Host"), target);
        Caller caller = verifier.verifyHead(assertion, parts);
        HttpServletRequest passed = request;
        if (verifier.requiresBody()) {
            // Without `htb` the request is refused anyway.
            byte[] body = caller.htb().isPresent() ? body(received, request) : null;
            verifier.checkBody(caller, body);
            passed = new BufferedRequest(request, body);
        }
        verifier.admit(caller);
        request.setAttribute(CALLER, new Checked(Optional.of(caller)));
        return passed;
    }

    /** Returns the container's own request: earlier filters may have wrapped it, and may show what callers ask them to. */
    private static HttpServletRequest received(HttpServletRequest request) {
        ServletRequest received = request;
        while (received instanceof ServletRequestWrapper wrapper) {
            received = wrapper.getRequest();
        }
        if (received instanceof HttpServletRequest http) {
            return http;
        }
        throw new AssertionRefused("assertion-request-unclear");
    }

    /** Returns whether handlers are chosen by the method and the target that are verified. */
    private boolean isUnchanged(HttpServletRequest received, HttpServletRequest shown) {
        if (received == shown) {
            return true;
        }
        return received.getMethod().equals(shown.getMethod())
                && Objects.equals(received.getQueryString(), shown.getQueryString())
                && Objects.equals(received.getServletPath(), shown.getServletPath())
                && Objects.equals(received.getPathInfo(), shown.getPathInfo())
                && (hasPrefix("", received, shown) || hasPrefix(verifier.pathPrefix(), received, shown));
    }

    private static boolean hasPrefix(String prefix, HttpServletRequest received, HttpServletRequest shown) {
        return (prefix + received.getRequestURI()).equals(shown.getRequestURI())
                && (prefix + received.getContextPath()).equals(shown.getContextPath());
    }

    private static String target(HttpServletRequest request) {
        String path = request.getRequestURI();
        String query = request.getQueryString();
        String target = query == null ? path : path + "?" + query;
        if (path.indexOf('?') >= 0 || !target.chars().allMatch(c -> c > 0x20 && c < 0x7f)) {
            throw new AssertionRefused(
                    "assertion-request-unclear", "the server does not tell the request's target as it was received");
        }
        return target;
    }

    private static List<String> values(HttpServletRequest request, String name) {
        Enumeration<String> values = request.getHeaders(name);
        return values == null ? List.of() : Collections.list(values);
    }

    private byte[] body(HttpServletRequest received, HttpServletRequest request) throws IOException {
        if (received.getContentLengthLong() > maxBody) {
            throw tooLong();
        }
        byte[] body = request.getInputStream().readNBytes(maxBody + 1);
        if (body.length > maxBody) {
            throw tooLong();
        }
        if (!isWhole(received, body.length)) {
            throw new AssertionRefused(
                    "assertion-request-unclear", "the request's body may have been read before it could be verified");
        }
        return body;
    }

    /**
     * Returns whether these are all bytes of the body. If an earlier filter asked for parameters, the container has read a form
     * and shows its fields to the handler, but only the rest of the body can be verified. Without a length, that cannot be
     * noticed.
     */
    private static boolean isWhole(HttpServletRequest received, int bytes) {
        long length = received.getContentLengthLong();
        if (length >= 0) {
            return bytes == length;
        }
        // HTTP/1 has no body then.
        boolean hasNoBody = received.getProtocol().startsWith("HTTP/1")
                && values(received, "Transfer-Encoding").isEmpty();
        return hasNoBody || values(received, "Content-Type").stream().noneMatch(AssertionFilter::isForm);
    }

    private static boolean isForm(String mediaType) {
        String lower = mediaType.strip().toLowerCase(Locale.ROOT);
        return lower.startsWith("application/x-www-form-urlencoded") || lower.startsWith("multipart/");
    }

    private static AssertionRefused tooLong() {
        return new AssertionRefused("assertion-body-not-bound", "the request's body is too long to be verified");
    }

    private static void refuse(HttpServletResponse response, AssertionRefused refusal) throws IOException {
        ProblemDetails problem = ProblemDetails.of(refusal);
        response.resetBuffer();
        response.setStatus(problem.status());
        problem.headers().forEach(response::setHeader);
        // Containers send no body in responses to HEAD.
        response.getOutputStream().write(problem.body());
    }
}
