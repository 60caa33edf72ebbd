package countersign

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth is the first depth of nested objects and arrays that is refused.
const maxDepth = 128

var (
	errDuplicateMember = errors.New("has a duplicate member")
	errNotJSON         = errors.New("is not valid JSON")
	errNotObject       = errors.New("is not a JSON object")
)

// parseObject parses a JSON object (RFC 8259). part names the text in the error.
//
// It refuses duplicate members at any depth: two parsers could otherwise read
// different content from the same signed token. encoding/json takes the last of them,
// ignores the case of member names, and replaces invalid UTF-8 and single surrogates.
// All of this is refused here or, for names, compared exactly.
//
// Values have the types of encoding/json, and numbers are json.Number.
func parseObject(text []byte, part string) (map[string]any, error) {
	value, err := parseStrict(text)
	if err != nil {
		return nil, fmt.Errorf("%s %w", part, err)
	}
	object, ok := value.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s %w", part, errNotObject)
	}
	return object, nil
}

func parseStrict(text []byte) (any, error) {
	if !utf8.Valid(text) {
		return nil, errNotJSON
	}
	p := jsonParser{rest: text}
	p.skipSpace()
	value, err := p.value(1)
	if err != nil {
		return nil, err
	}
	if p.skipSpace(); len(p.rest) > 0 {
		return nil, errNotJSON
	}
	return value, nil
}

// jsonParser parses the rest of a text that is valid UTF-8.
type jsonParser struct{ rest []byte }

func (p *jsonParser) skipSpace() {
	for len(p.rest) > 0 {
		switch p.rest[0] {
		case ' ', '\t', '\n', '\r':
			p.rest = p.rest[1:]
		default:
			return
		}
	}
}

// peek returns the next byte. It is 0, which begins nothing, at the end of the text.
func (p *jsonParser) peek() byte {
	if len(p.rest) == 0 {
		return 0
	}
	return p.rest[0]
}

// take skips this byte and white space after it, and returns whether it was there.
func (p *jsonParser) take(b byte) bool {
	if p.peek() != b {
		return false
	}
	p.rest = p.rest[1:]
	p.skipSpace()
	return true
}

// value parses a value and white space after it. An object or array is at this depth.
func (p *jsonParser) value(depth int) (value any, err error) {
	switch b := p.peek(); b {
	case '{', '[':
		if depth >= maxDepth {
			return nil, errNotJSON
		}
		if b == '{' {
			return p.object(depth)
		}
		return p.array(depth)
	case '"':
		value, err = p.string()
	case 't':
		value, err = true, p.literal("true")
	case 'f':
		value, err = false, p.literal("false")
	case 'n':
		value, err = nil, p.literal("null")
	default:
		value, err = p.number()
	}
	p.skipSpace()
	return value, err
}

func (p *jsonParser) object(depth int) (map[string]any, error) {
	p.take('{')
	object := make(map[string]any)
	if p.take('}') {
		return object, nil
	}
	for {
		// Names are compared after their escapes are resolved.
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if _, exists := object[name]; exists {
			return nil, errDuplicateMember
		}
		p.skipSpace()
		if !p.take(':') {
			return nil, errNotJSON
		}
		if object[name], err = p.value(depth + 1); err != nil {
			return nil, err
		}
		if p.take('}') {
			return object, nil
		}
		if !p.take(',') {
			return nil, errNotJSON
		}
	}
}

func (p *jsonParser) array(depth int) ([]any, error) {
	p.take('[')
	array := []any{}
	if p.take(']') {
		return array, nil
	}
	for {
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		array = append(array, value)
		if p.take(']') {
			return array, nil
		}
		if !p.take(',') {
			return nil, errNotJSON
		}
	}
}

func (p *jsonParser) literal(word string) error {
	if len(p.rest) < len(word) || string(p.rest[:len(word)]) != word {
		return errNotJSON
	}
	p.rest = p.rest[len(word):]
	return nil
}

func (p *jsonParser) number() (json.Number, error) {
	start := p.rest
	if p.peek() == '-' {
		p.rest = p.rest[1:]
	}
	if p.peek() == '0' {
		p.rest = p.rest[1:]
	} else if !p.digits() {
		return "", errNotJSON
	}
	if p.peek() == '.' {
		p.rest = p.rest[1:]
		if !p.digits() {
			return "", errNotJSON
		}
	}
	if p.peek() == 'e' || p.peek() == 'E' {
		p.rest = p.rest[1:]
		if p.peek() == '+' || p.peek() == '-' {
			p.rest = p.rest[1:]
		}
		if !p.digits() {
			return "", errNotJSON
		}
	}
	number := string(start[:len(start)-len(p.rest)])
	// Numbers that other parsers cannot represent are refused.
	if _, err := strconv.ParseFloat(number, 64); err != nil {
		return "", errNotJSON
	}
	return json.Number(number), nil
}

// digits skips digits, and returns whether there was one.
func (p *jsonParser) digits() bool {
	start := len(p.rest)
	for p.peek() >= '0' && p.peek() <= '9' {
		p.rest = p.rest[1:]
	}
	return len(p.rest) < start
}

// string parses a string, without white space after it.
func (p *jsonParser) string() (string, error) {
	if p.peek() != '"' {
		return "", errNotJSON
	}
	text := p.rest[1:]
	var unescaped []byte
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b == '"':
			p.rest = text[i+1:]
			return string(append(unescaped, text[:i]...)), nil
		case b < ' ':
			return "", errNotJSON
		case b == '\\':
			character, length := unescape(text[i:])
			if length == 0 {
				return "", errNotJSON
			}
			unescaped = utf8.AppendRune(append(unescaped, text[:i]...), character)
			text, i = text[i+length:], -1
		}
	}
	return "", errNotJSON
}

// unescape reads the escape at the beginning of a text. The length is 0 if it is not
// valid.
func unescape(text []byte) (character rune, length int) {
	if len(text) < 2 {
		return 0, 0
	}
	switch text[1] {
	case '"', '\\', '/':
		return rune(text[1]), 2
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	}
	unit, ok := escapedUnit(text)
	if !ok {
		return 0, 0
	}
	if !utf16.IsSurrogate(unit) {
		return unit, 6
	}
	low, ok := escapedUnit(text[6:])
	if pair := utf16.DecodeRune(unit, low); ok && pair != utf8.RuneError {
		return pair, 12
	}
	return 0, 0
}

// escapedUnit reads the UTF-16 unit of an escape like \u00e9.
func escapedUnit(text []byte) (rune, bool) {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	return rune(unit), err == nil
}
