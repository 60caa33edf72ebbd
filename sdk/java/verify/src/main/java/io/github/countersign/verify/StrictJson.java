package io.github.countersign.verify;

import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Strict JSON (RFC 8259): what two parsers could read differently is refused.
 *
 * <p>Refused are duplicate members at any depth, trailing data, invalid UTF-8, half surrogate pairs, and numbers beyond a
 * double. The limits are those of the Rust package, so that both accept the same texts.
 *
 * <p>Values are {@code Map}, {@code List}, {@code String}, {@code Boolean}, {@code null}, {@code Long} or, above 2^63 − 1,
 * {@code BigInteger} for integers of 64 bits, and {@code Double} for all other numbers.
 */
final class StrictJson {
    private static final int MAX_DEPTH = 127;
    private static final BigInteger HIGHEST_INTEGER = BigInteger.ONE.shiftLeft(64).subtract(BigInteger.ONE);
    private static final BigInteger LOWEST_INTEGER = BigInteger.valueOf(Long.MIN_VALUE);
    /** No integer of 64 bits has more characters. */
    private static final int MAX_INTEGER_CHARACTERS = 20;

    private final String text;
    private int position;

    private StrictJson(String text) {
        this.text = text;
    }

    /** The text is not strict JSON, or not a JSON object. The message never contains the text. */
    static final class Malformed extends Exception {
        Malformed(String message) {
            super(message);
        }
    }

    /** Returns the members of a JSON object. {@code part} names the text in the message of the exception. */
    static Map<String, Object> parseObject(byte[] octets, String part) throws Malformed {
        String text;
        try {
            // A new decoder reports what is not UTF-8; `new String` would replace it.
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(octets)).toString();
        } catch (CharacterCodingException e) {
            throw new Malformed(part + " is not UTF-8");
        }
        Object value;
        try {
            value = new StrictJson(text).document();
        } catch (Malformed e) {
            throw new Malformed(part + " " + e.getMessage());
        }
        Map<String, Object> members = Members.asObject(value);
        if (members == null) {
            throw new Malformed(part + " is not a JSON object");
        }
        return members;
    }

    private Object document() throws Malformed {
        Object value = value(0);
        skipSpace();
        if (position != text.length()) {
            throw invalid();
        }
        return value;
    }

    private Object value(int depth) throws Malformed {
        skipSpace();
        return switch (peek()) {
            case '{' -> object(deeper(depth));
            case '[' -> array(deeper(depth));
            case '"' -> string();
            case 't' -> word("true", Boolean.TRUE);
            case 'f' -> word("false", Boolean.FALSE);
            case 'n' -> word("null", null);
            default -> number();
        };
    }

    private static int deeper(int depth) throws Malformed {
        if (depth >= MAX_DEPTH) {
            throw new Malformed("is nested too deeply");
        }
        return depth + 1;
    }

    private Map<String, Object> object(int depth) throws Malformed {
        Map<String, Object> members = new LinkedHashMap<>();
        position++;
        skipSpace();
        if (accept('}')) {
            return Map.of();
        }
        do {
            skipSpace();
            // Names are compared after their escapes are resolved: an escaped letter is the same as the letter.
            String name = string();
            skipSpace();
            expect(':');
            if (members.containsKey(name)) {
                throw new Malformed("has a duplicate member");
            }
            members.put(name, value(depth));
            skipSpace();
        } while (accept(','));
        expect('}');
        return Collections.unmodifiableMap(members);
    }

    private List<Object> array(int depth) throws Malformed {
        List<Object> items = new ArrayList<>();
        position++;
        skipSpace();
        if (accept(']')) {
            return List.of();
        }
        do {
            items.add(value(depth));
            skipSpace();
        } while (accept(','));
        expect(']');
        return Collections.unmodifiableList(items);
    }

    private String string() throws Malformed {
        expect('"');
        StringBuilder found = new StringBuilder();
        while (true) {
            char next = next();
            if (next == '"') {
                break;
            }
            if (next < 0x20) {
                throw invalid();
            }
            found.append(next == '\\' ? escape() : next);
        }
        // Halves can only be written as escapes, because the text is UTF-8.
        for (int i = 0; i < found.length(); i++) {
            char c = found.charAt(i);
            if (Character.isHighSurrogate(c) && i + 1 < found.length() && Character.isLowSurrogate(found.charAt(i + 1))) {
                i++;
            } else if (Character.isSurrogate(c)) {
                throw new Malformed("has a text that is not Unicode");
            }
        }
        return found.toString();
    }

    private char escape() throws Malformed {
        char kind = next();
        return switch (kind) {
            case '"', '\\', '/' -> kind;
            case 'b' -> '\b';
            case 'f' -> '\f';
            case 'n' -> '\n';
            case 'r' -> '\r';
            case 't' -> '\t';
            case 'u' -> {
                int unit = 0;
                for (int i = 0; i < 4; i++) {
                    unit = unit << 4 | hexadecimal(next());
                }
                yield (char) unit;
            }
            default -> throw invalid();
        };
    }

    private static int hexadecimal(char c) throws Malformed {
        // Not Character.digit, which knows digits of other scripts.
        if (c >= '0' && c <= '9') {
            return c - '0';
        }
        char lower = (char) (c | 0x20);
        if (lower >= 'a' && lower <= 'f') {
            return lower - 'a' + 10;
        }
        throw invalid();
    }

    private Object number() throws Malformed {
        int start = position;
        accept('-');
        if (!accept('0')) {
            digits();
        } else if (isDigit(peekOrNul())) {
            throw invalid();
        }
        boolean isInteger = true;
        if (accept('.')) {
            isInteger = false;
            digits();
        }
        if (accept('e') || accept('E')) {
            isInteger = false;
            if (!accept('+')) {
                accept('-');
            }
            digits();
        }
        String number = text.substring(start, position);
        if (isInteger && number.length() <= MAX_INTEGER_CHARACTERS && !number.equals("-0")) {
            BigInteger integer = new BigInteger(number);
            if (integer.bitLength() < Long.SIZE) {
                return integer.longValue();
            }
            if (integer.compareTo(HIGHEST_INTEGER) <= 0 && integer.compareTo(LOWEST_INTEGER) >= 0) {
                return integer;
            }
        }
        double real = Double.parseDouble(number);
        if (Double.isInfinite(real)) {
            throw new Malformed("has a number that is too large");
        }
        return real;
    }

    private void digits() throws Malformed {
        if (!isDigit(peek())) {
            throw invalid();
        }
        while (isDigit(peekOrNul())) {
            position++;
        }
    }

    private static boolean isDigit(char c) {
        return c >= '0' && c <= '9';
    }

    private Object word(String word, Object value) throws Malformed {
        if (!text.startsWith(word, position)) {
            throw invalid();
        }
        position += word.length();
        return value;
    }

    private void skipSpace() {
        while (position < text.length() && " \t\r\n".indexOf(text.charAt(position)) >= 0) {
            position++;
        }
    }

    private boolean accept(char expected) {
        if (position < text.length() && text.charAt(position) == expected) {
            position++;
            return true;
        }
        return false;
    }

    private void expect(char expected) throws Malformed {
        if (!accept(expected)) {
            throw invalid();
        }
    }

    private char peek() throws Malformed {
        if (position >= text.length()) {
            throw invalid();
        }
        return text.charAt(position);
    }

    private char peekOrNul() {
        return position < text.length() ? text.charAt(position) : '\0';
    }

    private char next() throws Malformed {
        char next = peek();
        position++;
        return next;
    }

    private static Malformed invalid() {
        return new Malformed("is not valid JSON");
    }
}
