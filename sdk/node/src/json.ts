/**
 * Strict JSON: what two parsers could read differently is refused.
 *
 * `JSON.parse` takes the last of duplicate members, accepts lone surrogates, and does not tell
 * `1` from `1.0`. The limits are those of the Rust package, so that both accept the same texts.
 */

const MAX_DEPTH = 127;
const HIGHEST_INTEGER = 2n ** 64n - 1n;
const NUMBER = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
// All but quotation marks, backslashes and control characters.
const PLAIN_TEXT = /[ !#-[\]-\uffff]*/y;
const ESCAPE = /\\(?:["\\/bfnrt]|u[0-9A-Fa-f]{4})/y;

export type JsonValue = null | boolean | number | string | readonly JsonValue[] | JsonObject;
/** It has no prototype: a member `__proto__` is a member like others. */
export type JsonObject = { readonly [name: string]: JsonValue };

/** The text is not strict JSON, or not a JSON object. The message never contains the text. */
export class StrictJsonError extends Error {
  override readonly name = "StrictJsonError";
}

// The members of each object that were written as an integer from 0 to 2^64 - 1.
const integers = new WeakMap<object, Set<string>>();

/** Returns whether a member is a number from 0 to 2^64 - 1 without fraction and exponent. */
export function isInteger(object: JsonObject, name: string): boolean {
  return integers.get(object)?.has(name) ?? false;
}

/** Returns the members of a JSON object. `part` names the text in the error. */
export function parseObject(octets: Uint8Array, part: string): JsonObject {
  let text: string;
  try {
    // A byte order mark is not ignored: it is not JSON.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(octets);
  } catch {
    throw new StrictJsonError(`${part} is not UTF-8`);
  }
  return new Parser(text, part).object();
}

class Parser {
  private position = 0;
  private depth = 0;
  private lastWasInteger = false;

  constructor(
    private readonly text: string,
    private readonly part: string,
  ) {}

  object(): JsonObject {
    this.skipSpace();
    const isObject = this.text[this.position] === "{";
    const value = this.value();
    this.skipSpace();
    if (this.position !== this.text.length) throw this.invalid();
    if (!isObject) throw this.problem("is not a JSON object");
    return value as JsonObject;
  }

  private value(): JsonValue {
    this.lastWasInteger = false;
    switch (this.text[this.position]) {
      case "{":
        return this.nested(() => this.members());
      case "[":
        return this.nested(() => this.items());
      case '"':
        return this.string();
      case "t":
        return this.word("true", true);
      case "f":
        return this.word("false", false);
      case "n":
        return this.word("null", null);
      default:
        return this.number();
    }
  }

  private nested<T>(read: () => T): T {
    this.depth += 1;
    if (this.depth > MAX_DEPTH) throw this.problem("is nested too deeply");
    this.position += 1;
    const value = read();
    this.depth -= 1;
    this.lastWasInteger = false;
    return value;
  }

  private members(): JsonObject {
    const members: Record<string, JsonValue> = Object.create(null);
    const whole = new Set<string>();
    this.skipSpace();
    if (!this.accept("}")) {
      do {
        this.skipSpace();
        // Names are compared after their escapes are resolved: "a" is the same as "\u0061".
        const name = this.string();
        if (name in members) throw this.problem("has a duplicate member");
        this.skipSpace();
        this.expect(":");
        this.skipSpace();
        members[name] = this.value();
        if (this.lastWasInteger) whole.add(name);
        this.skipSpace();
      } while (this.accept(","));
      this.expect("}");
    }
    integers.set(members, whole);
    return Object.freeze(members);
  }

  private items(): readonly JsonValue[] {
    const items: JsonValue[] = [];
    this.skipSpace();
    if (!this.accept("]")) {
      do {
        this.skipSpace();
        items.push(this.value());
        this.skipSpace();
      } while (this.accept(","));
      this.expect("]");
    }
    return Object.freeze(items);
  }

  private string(): string {
    const start = this.position;
    this.expect('"');
    this.skip(PLAIN_TEXT);
    let hasEscape = false;
    while (this.text[this.position] === "\\") {
      hasEscape = true;
      if (!this.skip(ESCAPE)) throw this.invalid();
      this.skip(PLAIN_TEXT);
    }
    this.expect('"');
    if (!hasEscape) return this.text.slice(start + 1, this.position - 1);
    const text: string = JSON.parse(this.text.slice(start, this.position));
    // A lone surrogate can only be written as an escape, because the text is UTF-8.
    if (!isWellFormed(text)) throw this.problem("has a text that is not Unicode");
    return text;
  }

  private number(): number {
    NUMBER.lastIndex = this.position;
    const found = NUMBER.exec(this.text);
    if (found === null) throw this.invalid();
    this.position = NUMBER.lastIndex;
    const literal = found[0];
    const number = Number(literal);
    if (!Number.isFinite(number)) throw this.problem("has a number that is too large");
    this.lastWasInteger =
      found[1] === undefined &&
      found[2] === undefined &&
      !literal.startsWith("-") &&
      BigInt(literal) <= HIGHEST_INTEGER;
    return number;
  }

  private word<T>(word: string, value: T): T {
    if (!this.text.startsWith(word, this.position)) throw this.invalid();
    this.position += word.length;
    return value;
  }

  private skipSpace(): void {
    for (;;) {
      const character = this.text[this.position];
      if (character !== " " && character !== "\n" && character !== "\r" && character !== "\t") {
        return;
      }
      this.position += 1;
    }
  }

  /** Skips what a sticky pattern matches. Returns whether it does. */
  private skip(pattern: RegExp): boolean {
    pattern.lastIndex = this.position;
    if (!pattern.test(this.text)) return false;
    this.position = pattern.lastIndex;
    return true;
  }

  private accept(character: string): boolean {
    if (this.text[this.position] !== character) return false;
    this.position += 1;
    return true;
  }

  private expect(character: string): void {
    if (!this.accept(character)) throw this.invalid();
  }

  private invalid(): StrictJsonError {
    return this.problem("is not valid JSON");
  }

  private problem(problem: string): StrictJsonError {
    return new StrictJsonError(`${this.part} ${problem}`);
  }
}

function isWellFormed(text: string): boolean {
  // In the mode `u`, a pair of surrogates is one character, so that only lone ones match.
  return !/[\ud800-\udfff]/u.test(text);
}
