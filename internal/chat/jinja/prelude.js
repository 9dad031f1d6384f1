// The bridge between internal/chat (Go) and the jinja library. It is bundled
// with the library by scripts/build-jinja.mjs into jinja.bundle.js, which runs
// inside goja: no Node, no DOM, no Intl, no console.
//
// It adds three things to the library: values made directly from Go, so that
// the keys of a dict keep their order; limits, so that a hostile template ends
// with an error and not with the process; and Python's behaviour where it
// matters to published templates (python.js).
import { tokenize } from "jinja-src/lexer";
import { parse } from "jinja-src/parser";
import {
  ArrayValue,
  BooleanValue,
  Environment,
  FloatValue,
  FunctionValue,
  IntegerValue,
  NullValue,
  ObjectValue,
  StringValue,
} from "jinja-src/runtime";
import { PythonInterpreter, splitKeywords, stringMethods } from "./python.js";

class LimitError extends Error {}

// Raised is what raise_exception throws: the template's own refusal.
class Raised extends Error {}

// Largest string that may exist while a template runs, in UTF-16 units, and
// longest list. Set by Go before the first template is compiled.
let maxLength = 1 << 24;
let maxItems = 1 << 20;

function tooLong() {
  return new LimitError("the template builds more text than is allowed");
}

// Two natives of JavaScript allocate from a number or a product that the
// template chooses; nothing else in the library does.
const nativeRepeat = String.prototype.repeat;
String.prototype.repeat = function (count) {
  if (this.length * count > maxLength) throw tooLong();
  return nativeRepeat.call(this, count);
};
const nativeJoin = Array.prototype.join;
Array.prototype.join = function (separator) {
  const gap = separator === undefined ? 1 : String(separator).length;
  let total = gap * this.length;
  for (let i = 0; i < this.length; i++) {
    if (typeof this[i] === "string") total += this[i].length;
    if (total > maxLength) throw tooLong();
  }
  return nativeJoin.call(this, separator);
};

function replaceText(text, args) {
  const [positional, keywords] = splitKeywords(args);
  const [from, to] = positional;
  if (!(from instanceof StringValue && to instanceof StringValue)) throw new Error("replace() arguments must be strings");
  const count = positional[2] || keywords.get("count");
  let left = count instanceof IntegerValue && count.value >= 0 ? count.value : Infinity;
  const parts = from.value === "" ? ["", ...Array.from(text), ""] : text.split(from.value);
  const hits = Math.min(left, parts.length - 1);
  if (text.length + hits * to.value.length > maxLength) throw tooLong();
  let out = parts[0];
  for (let i = 1; i < parts.length; i++) out += (i <= hits ? to.value : from.value) + parts[i];
  return new StringValue(out);
}

const libraryBuiltins = Object.getOwnPropertyDescriptor(StringValue.prototype, "builtins").get;
Object.defineProperty(StringValue.prototype, "builtins", {
  get() {
    if (this.methods === undefined) {
      const text = this.value;
      const methods = libraryBuiltins.call(this);
      for (const [name, method] of stringMethods(text)) methods.set(name, method);
      methods.set("replace", new FunctionValue((args) => replaceText(text, args)));
      this.methods = methods;
    }
    return this.methods;
  },
});

class LimitedInterpreter extends PythonInterpreter {
  constructor(env, maxSteps) {
    super(env);
    this.steps = maxSteps;
    this.produced = 0;
    this.iterables = new Set();
  }

  charge(steps) {
    this.steps -= steps;
    if (this.steps < 0) throw new LimitError("the template takes more steps than are allowed: does it loop for ever?");
  }

  evaluate(statement, environment) {
    this.charge(1);
    const result = super.evaluate(statement, environment);
    const value = result.value;
    if (value != null && typeof value === "object") {
      if (value.length > maxItems) throw tooLong();
      // A loop costs something for each item even if its body is empty.
      if (this.iterables.has(statement)) this.charge(25 * (value.length || value.size || 0));
    } else if (typeof value === "string" && value.length > maxLength) throw tooLong();
    return result;
  }

  evaluateFor(node, environment) {
    this.iterables.add(node.iterable.type === "SelectExpression" ? node.iterable.lhs : node.iterable);
    return super.evaluateFor(node, environment);
  }

  evaluateBlock(statements, environment) {
    const result = super.evaluateBlock(statements, environment);
    // A block's text is counted once for each enclosing block; eight times
    // the limit leaves room for that.
    this.produced += result.value.length;
    if (this.produced > 8 * maxLength) throw tooLong();
    return result;
  }
}

function range(start, stop, step) {
  let from = start;
  let to = stop;
  if (to === undefined) {
    from = 0;
    to = start;
  }
  const by = step === undefined ? 1 : step;
  if (by === 0) throw new Error("range() step must not be zero");
  if ((to - from) / by > maxItems) throw tooLong();
  const out = [];
  for (let i = from; by > 0 ? i < to : i > to; i += by) out.push(i);
  return out;
}

globalThis.skein = {
  limit(length, items) {
    maxLength = length;
    maxItems = items;
  },
  compile(source) {
    return parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true }));
  },
  // names and values are parallel lists; strftime is a function of a format.
  render(program, names, values, strftime, maxSteps) {
    const env = new Environment();
    const yes = new BooleanValue(true);
    const no = new BooleanValue(false);
    const none = new NullValue();
    for (const [name, value] of [["true", yes], ["True", yes], ["false", no], ["False", no], ["none", none], ["None", none]]) {
      env.setVariable(name, value);
    }
    env.set("raise_exception", (message) => {
      throw new Raised(String(message));
    });
    env.set("range", range);
    env.set("strftime_now", (format) => strftime(String(format)));
    for (let i = 0; i < names.length; i++) env.setVariable(names[i], values[i]);
    return new LimitedInterpreter(env, maxSteps).run(program).value;
  },
  // describe sorts an exception for Go: [kind, message].
  describe(error) {
    if (error instanceof Raised) return ["raised", error.message];
    if (error instanceof LimitError) return ["limit", error.message];
    if (error instanceof Error) return ["error", error.message];
    return ["error", String(error)];
  },
  string: (v) => new StringValue(v),
  integer: (v) => new IntegerValue(v),
  float: (v) => new FloatValue(v),
  boolean: (v) => new BooleanValue(v),
  none: () => new NullValue(),
  list: (items) => new ArrayValue(items),
  dict(keys, values) {
    const map = new Map();
    for (let i = 0; i < keys.length; i++) map.set(keys[i], values[i]);
    return new ObjectValue(map);
  },
};
