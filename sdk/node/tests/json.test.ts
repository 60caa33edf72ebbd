/** The strict parser of JSON. */

import { expect, test } from "vitest";
import { isInteger, parseObject, StrictJsonError } from "../src/json.js";

const parse = (text: string | Uint8Array) => parseObject(Buffer.from(text as string), "text");

test.each([
  "{}",
  ' { "a" : [ 1 , -2.5e+3 , true , false , null , "x" , { } , [ ] ] }\n\t\r',
  '{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\ud83d\\ude00\u{1f600}\u007f\u2028"}',
  '{"a":{"a":1},"b":{"a":1}}',
  '{"a":0,"b":-0,"c":0.0,"d":1E-400,"e":1e308}',
  `{"a":${"[".repeat(126)}${"]".repeat(126)}}`,
])("accepts what JSON.parse reads the same way: %s", (text) => {
  expect(parse(text)).toEqual(JSON.parse(text));
});

test.each([
  ["duplicate", '{"a":1,"a":1}'],
  ["duplicate", '{"a":1,"\\u0061":1}'],
  ["duplicate", '{"x":[{"a":1,"a":2}]}'],
  ["duplicate", '{"__proto__":1,"__proto__":2}'],
  ["not a JSON object", "[]"],
  ["not a JSON object", "1"],
  ["not a JSON object", '"{}"'],
  ["not Unicode", '{"a":"\\ud800"}'],
  ["not Unicode", '{"a":"\\ude00\\ud83d"}'],
  ["not Unicode", '{"\\udfff":1}'],
  ["too large", '{"a":1e309}'],
  ["too large", `{"a":1${"0".repeat(309)}}`],
  ["too deeply", `{"a":${"[".repeat(127)}${"]".repeat(127)}}`],
])("refuses what parsers read differently (%s): %s", (problem, text) => {
  expect(() => parse(text)).toThrow(problem);
});

test.each([
  "",
  " ",
  "{",
  "}",
  "{}x",
  "{}{}",
  "{},",
  "\ufeff{}",
  "{'a':1}",
  "{a:1}",
  '{"a":1,}',
  '{,"a":1}',
  '{"a" 1}',
  '{"a":}',
  '{"a":1 "b":2}',
  '{"a":[1,]}',
  '{"a":[1 2]}',
  '{"a":[,1]}',
  '{"a":01}',
  '{"a":-}',
  '{"a":+1}',
  '{"a":.5}',
  '{"a":1.}',
  '{"a":1e}',
  '{"a":0x1}',
  '{"a":NaN}',
  '{"a":Infinity}',
  '{"a":True}',
  '{"a":nul}',
  '{"a":"x}',
  '{"a":"\\x"}',
  '{"a":"\\u00g0"}',
  '{"a":"\n"}',
  '{"a":"\0"}',
  '{"a":1}\0',
  '{"a":1}//',
  '{"a":1/**/}',
  "\v{}",
  "\u00a0{}",
])("refuses what is not JSON: %j", (text) => {
  expect(() => parse(text)).toThrow(StrictJsonError);
});

test.each([[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0xc3]])(
  "refuses bytes that are not UTF-8: %j",
  (...octets) => {
    const text = Buffer.concat([Buffer.from('{"a":"'), Buffer.from(octets), Buffer.from('"}')]);
    expect(() => parse(text)).toThrow("not UTF-8");
  },
);

test("tells integers from other numbers", () => {
  const members = parse(
    '{"a":0,"b":18446744073709551615,"c":18446744073709551616,"d":-1,"e":1.0,"f":1e3,"g":-0,' +
      '"h":"1","i":[1],"j":{"k":1},"l":true}',
  );
  expect(Object.keys(members).filter((name) => isInteger(members, name))).toEqual(["a", "b"]);
});

test("members have no prototype and cannot be changed", () => {
  const members = parse('{"__proto__":{"admin":true},"a":{"b":[1]}}');
  expect("admin" in members).toBe(false);
  expect("toString" in members).toBe(false);
  expect(Object.keys(members)).toEqual(["__proto__", "a"]);
  expect(() => Object.assign(members, { a: 1 })).toThrow(TypeError);
});

test("long texts take linear time", () => {
  const text = `{"a":"${"\\\\".repeat(400_000)}"}`;
  expect((parse(text).a as string).length).toBe(400_000);
});
