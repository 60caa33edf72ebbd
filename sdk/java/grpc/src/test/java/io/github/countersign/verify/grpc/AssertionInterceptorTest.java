package io.github.countersign.verify.grpc;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.github.countersign.verify.InProcessReplayStore;
import io.github.countersign.verify.junit5.TestGateway;
import io.grpc.CallOptions;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.MethodDescriptor.MethodType;
import io.grpc.Server;
import io.grpc.ServerServiceDefinition;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.MetadataUtils;
import io.grpc.stub.ServerCalls;
import io.grpc.stub.StreamObserver;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** The interceptor in a real server, with a real channel. */
class AssertionInterceptorTest {
    private static final String HOST = "orders.example.org";
    private static final String CALLER = "spiffe://example.org/shop";
    private static final TestGateway GATEWAY = new TestGateway("orders");
    private static final MethodDescriptor<String, String> GET = method("Get", MethodType.UNARY);
    private static final MethodDescriptor<String, String> LIST = method("List", MethodType.SERVER_STREAMING);
    private static final Metadata.Key<String> ASSERTION =
            Metadata.Key.of("countersign-assertion", Metadata.ASCII_STRING_MARSHALLER);

    private Server server;
    private ManagedChannel channel;

    /** Texts as messages, so that no generated code is needed. */
    private static final class Text implements MethodDescriptor.Marshaller<String> {
        @Override
        public InputStream stream(String value) {
            return new ByteArrayInputStream(value.getBytes(StandardCharsets.UTF_8));
        }

        @Override
        public String parse(InputStream stream) {
            try (stream) {
                return new String(stream.readAllBytes(), StandardCharsets.UTF_8);
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
    }

    private static MethodDescriptor<String, String> method(String name, MethodType type) {
        return MethodDescriptor.<String, String>newBuilder()
                .setType(type)
                .setFullMethodName("shop.Orders/" + name)
                .setRequestMarshaller(new Text())
                .setResponseMarshaller(new Text())
                .build();
    }

    private static void answer(String request, StreamObserver<String> answers) {
        answers.onNext(request + " " + AssertionInterceptor.caller().sub());
        answers.onCompleted();
    }

    @BeforeEach
    void start() throws IOException {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .replayStore(new InProcessReplayStore())
                .build();
        server = NettyServerBuilder.forAddress(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0))
                .addService(ServerServiceDefinition.builder("shop.Orders")
                        .addMethod(GET, ServerCalls.asyncUnaryCall(AssertionInterceptorTest::answer))
                        .addMethod(LIST, ServerCalls.asyncServerStreamingCall(AssertionInterceptorTest::answer))
                        .build())
                .intercept(new AssertionInterceptor(verifier))
                .build()
                .start();
        channel = NettyChannelBuilder.forAddress("127.0.0.1", server.getPort())
                .usePlaintext()
                .overrideAuthority(HOST)
                .build();
    }

    @AfterEach
    void stop() throws InterruptedException {
        channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
        server.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
    }

    private static String signed(String url) {
        return GATEWAY.assertion("POST", url, CALLER).sign();
    }

    private List<String> call(MethodDescriptor<String, String> method, String... tokens) {
        Metadata headers = new Metadata();
        for (String token : tokens) {
            headers.put(ASSERTION, token);
        }
        var intercepted =
                io.grpc.ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
        CallOptions options = CallOptions.DEFAULT.withDeadlineAfter(10, TimeUnit.SECONDS);
        if (method.getType() == MethodType.UNARY) {
            return List.of(ClientCalls.blockingUnaryCall(intercepted, method, options, "order"));
        }
        List<String> answers = new ArrayList<>();
        ClientCalls.blockingServerStreamingCall(intercepted, method, options, "order")
                .forEachRemaining(answers::add);
        return answers;
    }

    private void isRefused(Status.Code status, String code, String... tokens) {
        for (var method : List.of(GET, LIST)) {
            StatusRuntimeException refused = assertThrows(StatusRuntimeException.class, () -> call(method, tokens));
            assertEquals(status, refused.getStatus().getCode());
            Metadata trailers = refused.getTrailers();
            assertEquals(code, trailers.get(Metadata.Key.of("countersign-code", Metadata.ASCII_STRING_MARSHALLER)));
        }
    }

    @Test
    void theCallerIsKnown() {
        for (var method : List.of(GET, LIST)) {
            String token = signed("https://" + HOST + "/" + method.getFullMethodName());
            assertEquals(List.of("order " + CALLER), call(method, token));
        }
    }

    @Test
    void otherCallsAreRefused() {
        String other = "https://" + HOST + "/shop.Orders/Other";
        isRefused(Status.Code.UNAUTHENTICATED, "assertion-missing");
        isRefused(Status.Code.UNAUTHENTICATED, "assertion-duplicate", signed(other), signed(other));
        isRefused(Status.Code.UNAUTHENTICATED, "assertion-malformed", "a.b.c");
        isRefused(Status.Code.PERMISSION_DENIED, "assertion-path", signed(other));
        isRefused(Status.Code.PERMISSION_DENIED, "assertion-authority", signed("https://evil.example/shop.Orders/Get"));
        isRefused(
                Status.Code.PERMISSION_DENIED,
                "assertion-method",
                GATEWAY.assertion("GET", "https://" + HOST + "/shop.Orders/Get", CALLER).sign());
    }

    @Test
    void anAssertionIsUsedOnce() {
        String token = signed("https://" + HOST + "/shop.Orders/Get");
        call(GET, token);
        StatusRuntimeException refused = assertThrows(StatusRuntimeException.class, () -> call(GET, token));
        assertEquals("assertion-replayed: the assertion was used before", refused.getStatus().getDescription());
    }

    @Test
    void bodiesCannotBeCompared() {
        var verifier = GATEWAY.verifierOptions()
                .jwksJson(GATEWAY.keySet())
                .requireBodyBinding()
                .build();
        assertThrows(IllegalArgumentException.class, () -> new AssertionInterceptor(verifier));
    }
}
