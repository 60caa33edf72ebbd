package io.github.countersign.verify.grpc;

import io.github.countersign.verify.AssertionRefused;
import io.github.countersign.verify.AssertionVerifier;
import io.github.countersign.verify.Caller;
import io.github.countersign.verify.RequestParts;
import io.grpc.Context;
import io.grpc.Contexts;
import io.grpc.Metadata;
import io.grpc.ServerCall;
import io.grpc.ServerCallHandler;
import io.grpc.ServerInterceptor;
import io.grpc.Status;
import java.util.ArrayList;
import java.util.List;

/**
 * Lets only calls with a verified assertion reach the handlers. Register it last, because gRPC runs the last interceptor
 * first.
 *
 * <p>The path is the method's full name, the method is POST, the host is {@code :authority}. Messages are not compared with
 * {@code htb}.
 *
 * <p>Refused calls end with UNAUTHENTICATED, PERMISSION_DENIED or UNAVAILABLE, and have the code in the trailing metadata
 * {@code countersign-code}. For methods that do not exist gRPC runs no interceptor: they end with UNIMPLEMENTED.
 */
public final class AssertionInterceptor implements ServerInterceptor {
    private static final Metadata.Key<String> ASSERTION =
            Metadata.Key.of("countersign-assertion", Metadata.ASCII_STRING_MARSHALLER);
    private static final Metadata.Key<String> CODE =
            Metadata.Key.of("countersign-code", Metadata.ASCII_STRING_MARSHALLER);
    private static final Context.Key<Caller> CALLER = Context.key("countersign-caller");
    private static final System.Logger LOG = System.getLogger("io.github.countersign.verify");

    private final AssertionVerifier verifier;

    /**
     * Makes an interceptor.
     *
     * @param verifier applies the rules
     * @throws IllegalArgumentException if the verifier requires body binding
     */
    public AssertionInterceptor(AssertionVerifier verifier) {
        if (verifier.requiresBody()) {
            throw new IllegalArgumentException("gRPC messages cannot be compared with `htb`");
        }
        this.verifier = verifier;
    }

    /**
     * Returns the verified caller of the call that runs.
     *
     * @return the caller
     * @throws IllegalStateException outside of a call that was verified
     */
    public static Caller caller() {
        Caller caller = CALLER.get();
        if (caller == null) {
            throw new IllegalStateException("no AssertionInterceptor verified the call");
        }
        return caller;
    }

    @Override
    public <Q, A> ServerCall.Listener<Q> interceptCall(
            ServerCall<Q, A> call, Metadata headers, ServerCallHandler<Q, A> next) {
        Caller caller;
        try {
            caller = verified(call, headers);
        } catch (AssertionRefused refusal) {
            LOG.log(System.Logger.Level.INFO, "refused: {0}", refusal.getMessage());
            Metadata trailers = new Metadata();
            trailers.put(CODE, refusal.code());
            call.close(status(refusal), trailers);
            return new ServerCall.Listener<>() {};
        }
        return Contexts.interceptCall(Context.current().withValue(CALLER, caller), call, headers, next);
    }

    private Caller verified(ServerCall<?, ?> call, Metadata headers) {
        List<String> assertions = new ArrayList<>();
        Iterable<String> values = headers.getAll(ASSERTION);
        if (values != null) {
            values.forEach(assertions::add);
        }
        String assertion = RequestParts.onlyAssertion(assertions);
        String authority = call.getAuthority();
        RequestParts parts = new RequestParts(
                "POST",
                authority == null ? List.of() : List.of(authority),
                "/" + call.getMethodDescriptor().getFullMethodName());
        Caller caller = verifier.verifyHead(assertion, parts);
        verifier.admit(caller);
        return caller;
    }

    private static Status status(AssertionRefused refusal) {
        Status status = switch (refusal.status()) {
            case 401 -> Status.UNAUTHENTICATED;
            case 403 -> Status.PERMISSION_DENIED;
            default -> Status.UNAVAILABLE;
        };
        return status.withDescription(refusal.getMessage());
    }
}
