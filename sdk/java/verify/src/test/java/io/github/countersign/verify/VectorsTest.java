package io.github.countersign.verify;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.DynamicTest.dynamicTest;

import com.nimbusds.jose.util.JSONObjectUtils;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;

/** The vectors that all packages share. */
class VectorsTest {
    private static final Path FILE = Path.of("..", "..", "vectors", "vectors.json");

    @TestFactory
    Stream<DynamicTest> vectors() throws Exception {
        if (!Files.exists(FILE)) {
            Tools.lacking("sdk/vectors/vectors.json");
        }
        Map<String, Object> vectors = StrictJson.parseObject(Files.readAllBytes(FILE), "vectors");
        assertEquals(1L, vectors.get("version"));
        Members keySets = new Members(vectors).members("key_sets");
        return ((List<?>) vectors.get("cases"))
                .stream()
                        .map(item -> new Members(Members.asObject(item)))
                        .map(vector -> dynamicTest(
                                vector.text("rule") + ": " + vector.text("name"), () -> check(vector, keySets)));
    }

    private static void check(Members vector, Members keySets) {
        Members expected = vector.members("expect");
        if (expected.has("code")) {
            AssertionRefused refused = assertThrows(AssertionRefused.class, () -> verify(vector, keySets));
            assertEquals(expected.text("code"), refused.code());
            return;
        }
        Caller caller = verify(vector, keySets);
        assertEquals(expected.text("sub"), caller.sub());
        assertEquals(expected.optionalText("trust_domain"), caller.trustDomain().orElse(null));
        assertEquals(expected.bool("request_bound"), caller.isRequestBound());
        contains(caller.claims(), expected.raw().get("claims"));
    }

    private static Caller verify(Members vector, Members keySets) {
        Members options = vector.members("options");
        Members request = vector.members("request");
        AssertionVerifier.Builder builder = AssertionVerifier.builder(options.text("issuer"), options.text("audience"))
                .jwksJson(JSONObjectUtils.toJSONString(
                        keySets.members(vector.text("key_set")).raw()))
                .skew(Duration.ofSeconds(options.integer("skew")))
                .clock(() -> Instant.ofEpochSecond(vector.integer("now")));
        if (options.optionalText("authority") != null) {
            builder.authority(options.text("authority"));
        }
        if (options.optionalText("path_prefix") != null) {
            builder.pathPrefix(options.text("path_prefix"));
        }
        if (options.bool("allow_caller_binding")) {
            builder.allowCallerBinding();
        }
        if (options.bool("require_body_binding")) {
            builder.requireBodyBinding();
        }
        String body = request.optionalText("body");
        return builder.build()
                .verify(
                        RequestParts.onlyAssertion(vector.texts("assertions")),
                        new RequestParts(request.text("method"), request.texts("hosts"), request.text("target")),
                        body == null ? null : Base64.getUrlDecoder().decode(body));
    }

    /** Checks that all expected members are there, in nested objects too. */
    private static void contains(Object found, Object expected) {
        Map<String, Object> members = Members.asObject(expected);
        if (members == null) {
            assertEquals(expected, found);
            return;
        }
        Map<String, Object> actual = Members.asObject(found);
        assertNotNull(actual);
        members.forEach((name, value) -> contains(actual.get(name), value));
    }
}
