package countersign

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// compare compares the strict parser with encoding/json: it accepts no more, and reads
// the same.
func compare(t *testing.T, text []byte) {
	t.Helper()
	value, err := parseStrict(text)
	if err != nil {
		return
	}
	if !utf8.Valid(text) || !json.Valid(text) {
		t.Fatalf("%q was accepted", text)
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	var want any
	if err := decoder.Decode(&want); err != nil || !reflect.DeepEqual(value, want) {
		t.Fatalf("%q: got %#v, want %#v, %v", text, value, want, err)
	}
}

func TestStrictParserReadsWhatOthersRead(t *testing.T) {
	for _, text := range []string{
		`{}`, `[]`, `""`, `0`, `-0`, `-0.0e+1`, `1E-400`, `12.50`, `true`, `false`, `null`, " \t\r\n1 ",
		`{"a":{"b":[1,2,{"c":null}]},"A":2}`, `"\"\\\/\b\f\n\r\t\u0000\u00e9\ud83d\ude00"`, `"caf` + "\u00e9" + `"`,
		`{"":0}`, `[[],{}]`, `"\u005c\u005c"`, `"\\ud800"`, `"` + "\u007f\u2028" + `"`, `[ 1 , 2 ]`, `{ "a" : 1 , "b" : 2 }`,
		strings.Repeat("[", 127) + strings.Repeat("]", 127), `"\ufffd"`,
	} {
		if _, err := parseStrict([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		compare(t, []byte(text))
	}
	for _, text := range []string{
		``, ` `, `{`, `}`, `[`, `]`, `"`, `"\"`, `01`, `1.`, `.1`, `+1`, `-`, `1e`, `1e+`, `1e400`, `-1e400`, `0x1`, `NaN`,
		`Infinity`, `tru`, `True`, `nul`, `truefalse`, `1 2`, `{}{}`, `[1,]`, `[,1]`, `[1 2]`, `{"a"}`, `{"a":}`, `{"a":1,}`,
		`{,}`, `{a:1}`, `{'a':1}`, `{1:1}`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\u+123"`, `"\u 123"`, `"\ud800"`, `"\udc00"`,
		`"\ud800\ud800"`, `"\ud800x"`, `"\ud800\n"`, `"\ud800\u0041"`, "\"\n\"", "\"\x00\"", "\"\xff\"", "\ufeff{}", "\x00",
		"{}\x00", `{"a":1 "b":2}`, `{"a" 1}`, `[1}`, `{"a":1]`, `//`, "\v1", "\u00a01",
		strings.Repeat("[", 128) + strings.Repeat("]", 128), strings.Repeat("[", 100_000),
	} {
		if value, err := parseStrict([]byte(text)); !errors.Is(err, errNotJSON) || value != nil {
			t.Errorf("%q: %v %v", text, value, err)
		}
	}
	for _, text := range []string{
		`{"a":1,"a":1}`, `{"a":1,"\u0061":1}`, `[{"x":{"a":1,"b":2,"a":null}}]`, `{"":0,"":0}`,
	} {
		if _, err := parseStrict([]byte(text)); !errors.Is(err, errDuplicateMember) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzStrictParser(f *testing.F) {
	f.Add([]byte(`{"a":[1.5e3,"\ud83d\ude00",null,true],"b":{}}`))
	f.Add([]byte(`{"a":1,"\u0061":2}`))
	f.Fuzz(compare)
}
