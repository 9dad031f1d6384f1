// Python's behaviour where the library follows JavaScript's and published
// templates notice: printing of values, equality, a few methods and filters,
// dictionaries with integer keys.
import {
  ArrayValue,
  BooleanValue,
  FloatValue,
  FunctionValue,
  IntegerValue,
  Interpreter,
  KeywordArgumentsValue,
  NamespaceValue,
  NullValue,
  ObjectValue,
  StringValue,
  TupleValue,
  UndefinedValue,
} from "jinja-src/runtime";

export function splitKeywords(args) {
  const last = args[args.length - 1];
  if (last instanceof KeywordArgumentsValue) return [args.slice(0, -1), last.value];
  return [args, new Map()];
}

function quote(text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = mark;
  for (const c of text) {
    if (c === mark || c === "\\") out += "\\" + c;
    else if (c === "\n") out += "\\n";
    else if (c === "\r") out += "\\r";
    else if (c === "\t") out += "\\t";
    else if (c < " " || c === "\x7f") out += "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0");
    else out += c;
  }
  return out + mark;
}

// repr is Python's repr() of a value.
function repr(value) {
  if (value instanceof StringValue) return quote(value.value);
  if (value instanceof TupleValue) return "(" + value.value.map(repr).join(", ") + (value.value.length === 1 ? ",)" : ")");
  if (value instanceof ArrayValue) return "[" + value.value.map(repr).join(", ") + "]";
  if (value instanceof ObjectValue) {
    return "{" + value.items().value.map((pair) => repr(pair.value[0]) + ": " + repr(pair.value[1])).join(", ") + "}";
  }
  if (value instanceof UndefinedValue) return "Undefined";
  return str(value);
}

// str is Python's str() of a value.
export function str(value) {
  if (value instanceof NullValue) return "None";
  if (value instanceof UndefinedValue) return "";
  return value.toString();
}

BooleanValue.prototype.toString = function () {
  return this.value ? "True" : "False";
};
ObjectValue.prototype.toString = function () {
  return repr(this);
};
ArrayValue.prototype.toString = function () {
  return repr(this);
};

const numeric = (v) => v instanceof IntegerValue || v instanceof FloatValue || v instanceof BooleanValue;

// equal is Python's ==.
function equal(a, b) {
  if (numeric(a) && numeric(b)) return Number(a.value) === Number(b.value);
  if (a instanceof StringValue) return b instanceof StringValue && a.value === b.value;
  if (a instanceof NullValue) return b instanceof NullValue;
  if (a instanceof UndefinedValue) return b instanceof UndefinedValue;
  if (a instanceof ArrayValue) {
    if (!(b instanceof ArrayValue) || a.value.length !== b.value.length) return false;
    return a.value.every((item, i) => equal(item, b.value[i]));
  }
  if (a instanceof ObjectValue) {
    if (!(b instanceof ObjectValue) || a.value.size !== b.value.size) return false;
    for (const [key, item] of a.value) {
      if (!b.value.has(key) || !equal(item, b.value.get(key))) return false;
    }
    return true;
  }
  return a === b;
}

// IntegerKeyed is a dictionary literal with integer keys.
class IntegerKeyed extends ObjectValue {
  keys() {
    return new ArrayValue(Array.from(this.value.keys()).map((key) => new IntegerValue(Number(key))));
  }
  items() {
    return new ArrayValue(
      Array.from(this.value.entries()).map(([key, item]) => new ArrayValue([new IntegerValue(Number(key)), item])),
    );
  }
  get builtins() {
    const methods = new Map(super.builtins);
    methods.set("get", new FunctionValue(([key, otherwise]) => this.value.get(String(key.value)) || otherwise || new NullValue()));
    methods.set(
      "dictsort",
      new FunctionValue(() => {
        const items = this.items();
        items.value.sort((a, b) => a.value[0].value - b.value[0].value);
        return items;
      }),
    );
    return methods;
  }
}

// formatText is str.format with {}, {0} and {name}.
function formatText(text, args) {
  const [positional, keywords] = splitKeywords(args);
  let next = 0;
  return new StringValue(
    text.replace(/\{\{|\}\}|\{([A-Za-z0-9_]*)\}/g, (match, name) => {
      if (match === "{{") return "{";
      if (match === "}}") return "}";
      const value = /^[0-9]*$/.test(name) ? positional[name === "" ? next++ : Number(name)] : keywords.get(name);
      if (value === undefined) throw new Error(`format() has no value for ${match}`);
      return str(value);
    }),
  );
}

function stripper(text, left, right) {
  return new FunctionValue((args) => {
    const chars = args[0];
    if (chars === undefined || chars instanceof NullValue) {
      let s = text;
      if (left) s = s.trimStart();
      if (right) s = s.trimEnd();
      return new StringValue(s);
    }
    if (!(chars instanceof StringValue)) throw new Error("strip arg must be None or str");
    const set = new Set(Array.from(chars.value));
    const points = Array.from(text);
    let from = 0;
    let to = points.length;
    while (left && from < to && set.has(points[from])) from++;
    while (right && to > from && set.has(points[to - 1])) to--;
    return new StringValue(points.slice(from, to).join(""));
  });
}

// stringMethods are added to, or replace, those of the library.
export function stringMethods(text) {
  return [
    ["strip", stripper(text, true, true)],
    ["lstrip", stripper(text, true, false)],
    ["rstrip", stripper(text, false, true)],
    ["format", new FunctionValue((args) => formatText(text, args))],
  ];
}

// Filters that Jinja applies to None and undefined as to an empty list.
const lenient = new Set(["list", "selectattr", "rejectattr", "select", "reject", "map", "unique"]);

// Statements that give null without printing it.
const silent = new Set(["Set", "Macro", "Comment"]);

export class PythonInterpreter extends Interpreter {
  evaluate(statement, environment) {
    if (statement) {
      if (statement.type === "ObjectLiteral") return this.evaluateDict(statement, environment);
      if (statement.type === "TupleLiteral") {
        // Loops and tests of the library look at the type's name.
        const tuple = super.evaluate(statement, environment);
        tuple.type = "ArrayValue";
        return tuple;
      }
    }
    return super.evaluate(statement, environment);
  }

  evaluateBlock(statements, environment) {
    let out = "";
    for (const statement of statements) {
      const value = this.evaluate(statement, environment);
      if (!(value instanceof NullValue && silent.has(statement.type))) out += str(value);
    }
    return new StringValue(out);
  }

  evaluateDict(node, environment) {
    let integers = node.value.size > 0;
    const map = new Map();
    for (const [key, item] of node.value) {
      const name = this.evaluate(key, environment);
      if (!(name instanceof StringValue || name instanceof IntegerValue)) throw new Error(`Object keys must be strings: got ${name.type}`);
      if (!(name instanceof IntegerValue)) integers = false;
      map.set(String(name.value), this.evaluate(item, environment));
    }
    return integers ? new IntegerKeyed(map) : new ObjectValue(map);
  }

  evaluateMemberExpression(node, environment) {
    if (node.computed && node.property.type !== "SliceExpression") {
      const object = this.evaluate(node.object, environment);
      if (object instanceof IntegerKeyed) {
        const key = this.evaluate(node.property, environment);
        if (key instanceof IntegerValue) return object.value.get(String(key.value)) || new UndefinedValue();
      }
    }
    return super.evaluateMemberExpression(node, environment);
  }

  evaluateBinaryExpression(node, environment) {
    switch (node.operator.value) {
      case "~":
        return new StringValue(str(this.evaluate(node.left, environment)) + str(this.evaluate(node.right, environment)));
      case "==":
        return new BooleanValue(equal(this.evaluate(node.left, environment), this.evaluate(node.right, environment)));
      case "!=":
        return new BooleanValue(!equal(this.evaluate(node.left, environment), this.evaluate(node.right, environment)));
    }
    return super.evaluateBinaryExpression(node, environment);
  }

  applyFilter(operand, filter, environment) {
    const name = filter.type === "Identifier" ? filter.value : filter.callee.value;
    const missing = operand instanceof UndefinedValue || operand instanceof NullValue;
    if (name === "string" && !(operand instanceof StringValue)) return new StringValue(str(operand));
    if (name === "items" && operand instanceof IntegerKeyed) return operand.items();
    if (missing && name === "trim") return new StringValue(str(operand));
    if (missing && lenient.has(name)) return new ArrayValue([]);
    if (operand instanceof UndefinedValue && name === "length") return new IntegerValue(0);
    return super.applyFilter(operand, filter, environment);
  }
}

NamespaceValue.prototype.toString = function () {
  return "<Namespace " + repr(new ObjectValue(this.value)) + ">";
};
