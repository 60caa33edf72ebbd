package io.github.countersign.verify;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;

import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class StrictJsonTest {
    private static Map<String, Object> parse(String text) throws StrictJson.Malformed {
        return StrictJson.parseObject(text.getBytes(StandardCharsets.UTF_8), "text");
    }

    @ParameterizedTest
    @ValueSource(
            strings = {
                "", " ", "{", "}", "[]", "1", "null", "\"a\"", "{} {}", "{}x", "{}\0", "\ufeff{}", "{,}", "{\"a\":1,}",
                "{\"a\"}", "{a:1}", "{'a':1}", "{\"a\":01}", "{\"a\":+1}", "{\"a\":.5}", "{\"a\":1.}", "{\"a\":1e}",
                "{\"a\":-}", "{\"a\":0x1}", "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":1e999}", "{\"a\":[1,]}",
                "{\"a\":tru}", "{\"a\":True}", "{\"a\":\"\t\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\\ud800\"}",
                "{\"a\":\"\\udc00\\ud800\"}", "{\"a\":\"\\u12\"}", "{\"a\":\"\\u\uff11\uff11\uff11\uff11\"}",
                "{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}", "{\"a\":{\"b\":[{\"c\":1,\"c\":1}]}}", "{\"a\":1}\u00a0",
                "{\"a\":\u0661}", "{/**/}", "{\"a\":\"b", "{\"a\":1 2}", "{\"a\"=1}", "{\"a\":1;\"b\":2}",
            })
    void otherTextsAreRefused(String text) {
        assertThrows(StrictJson.Malformed.class, () -> parse(text));
    }

    @Test
    void otherBytesAreRefused() {
        for (byte[] octets : new byte[][] {
            {'{', '"', (byte) 0xff, '"', ':', '1', '}'},
            {'{', '"', (byte) 0xc0, (byte) 0x80, '"', ':', '1', '}'},
            {'{', '"', (byte) 0xed, (byte) 0xa0, (byte) 0x80, '"', ':', '1', '}'}
        }) {
            assertThrows(StrictJson.Malformed.class, () -> StrictJson.parseObject(octets, "text"));
        }
    }

    @Test
    void strictJsonIsRead() throws StrictJson.Malformed {
        Map<String, Object> found = parse(
                " {\"a\" : [1, -2, 1.5, 1e2, true, false, null, {}],\n\"b\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"} ");
        assertEquals(List.of(1L, -2L, 1.5, 100.0, true, false), ((List<?>) found.get("a")).subList(0, 6));
        assertNull(((List<?>) found.get("a")).get(6));
        assertEquals("\"\\/\b\f\n\r\t\u00e9\ud83d\ude00", found.get("b"));
        assertEquals(BigInteger.TWO.pow(64).subtract(BigInteger.ONE), parse("{\"a\":18446744073709551615}").get("a"));
        assertEquals(Double.class, parse("{\"a\":18446744073709551616}").get("a").getClass());
        assertEquals(Double.class, parse("{\"a\":-0}").get("a").getClass());
        assertThrows(UnsupportedOperationException.class, () -> found.put("c", 1));
    }

    @Test
    void theDepthIsLimited() throws StrictJson.Malformed {
        parse("{\"a\":" + "[".repeat(126) + "]".repeat(126) + "}");
        assertThrows(
                StrictJson.Malformed.class, () -> parse("{\"a\":" + "[".repeat(127) + "]".repeat(127) + "}"));
        assertThrows(StrictJson.Malformed.class, () -> parse("{\"a\":" + "[".repeat(1_000_000)));
    }

    @ParameterizedTest
    @ValueSource(strings = {"A", "AA=", "AA==", "AB", "A A", "AA\n", "+/", "AAA.", "\u00e9"})
    void otherBase64IsRefused(String text) {
        assertNull(Octets.decodeBase64url(text));
    }
}
