package countersign

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// maxDepth is the first depth of nested objects and arrays that is refused.
const maxDepth = 128

var (
	errDuplicateMember = errors.New("has a duplicate member")
	errNotJSON         = errors.New("is not valid JSON")
	errNotObject       = errors.New("is not a JSON object")
)

// parseObject parses a JSON object. It refuses duplicate members at any depth:
// two parsers could otherwise read different content from the same signed token.
// It also refuses what encoding/json accepts or replaces: text that is not UTF-8,
// and escapes of single surrogates. Member names are compared exactly.
//
// Numbers are json.Number. part names the text in the error.
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
	// json.Valid also refuses data after the value, which a Decoder does not.
	if !utf8.Valid(text) || !json.Valid(text) || !surrogatesArePaired(text) {
		return nil, errNotJSON
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return readValue(decoder, 1)
}

// readValue reads the next value. An object or array is at the given depth.
func readValue(decoder *json.Decoder, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, errNotJSON
	}
	switch token := token.(type) {
	case json.Delim:
		if depth >= maxDepth {
			return nil, errNotJSON
		}
		if token == '{' {
			return readObject(decoder, depth)
		}
		return readArray(decoder, depth)
	case json.Number:
		if _, err := strconv.ParseFloat(token.String(), 64); err != nil {
			return nil, errNotJSON
		}
		return token, nil
	default:
		return token, nil
	}
}

func readObject(decoder *json.Decoder, depth int) (map[string]any, error) {
	object := make(map[string]any)
	for decoder.More() {
		token, err := decoder.Token()
		name, ok := token.(string)
		if err != nil || !ok {
			return nil, errNotJSON
		}
		// Names are compared after their escapes are resolved.
		if _, exists := object[name]; exists {
			return nil, errDuplicateMember
		}
		if object[name], err = readValue(decoder, depth+1); err != nil {
			return nil, err
		}
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errNotJSON
	}
	return object, nil
}

func readArray(decoder *json.Decoder, depth int) ([]any, error) {
	array := []any{}
	for decoder.More() {
		value, err := readValue(decoder, depth+1)
		if err != nil {
			return nil, err
		}
		array = append(array, value)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, errNotJSON
	}
	return array, nil
}

// surrogatesArePaired returns whether each escape of a UTF-16 surrogate belongs to
// a pair. The text must be valid JSON, so that each backslash begins an escape.
func surrogatesArePaired(text []byte) bool {
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		i++ // The character after the backslash.
		unit, ok := escapedUnit(text, i)
		if !ok {
			continue
		}
		i += 4
		switch {
		case unit >= 0xDC00 && unit <= 0xDFFF:
			return false
		case unit >= 0xD800 && unit <= 0xDBFF:
			if i+1 >= len(text) || text[i+1] != '\\' {
				return false
			}
			low, ok := escapedUnit(text, i+2)
			if !ok || low < 0xDC00 || low > 0xDFFF {
				return false
			}
			i += 6
		}
	}
	return true
}

// escapedUnit reads the UTF-16 unit of an escape of which text[at] is the letter u.
func escapedUnit(text []byte, at int) (uint64, bool) {
	if at+5 > len(text) || text[at] != 'u' {
		return 0, false
	}
	unit, err := strconv.ParseUint(string(text[at+1:at+5]), 16, 16)
	return unit, err == nil
}
