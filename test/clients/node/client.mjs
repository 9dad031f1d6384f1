// The official OpenAI client for JavaScript against a running node.
// SKEIN_BASE_URL and SKEIN_MODEL say where and which.
import assert from "node:assert/strict";
import OpenAI from "openai";

const model = process.env.SKEIN_MODEL;
const client = new OpenAI({ baseURL: process.env.SKEIN_BASE_URL, apiKey: "none", maxRetries: 0 });
const chat = {
  model,
  messages: [{ role: "user", content: "What is the capital of France?" }],
  temperature: 0,
  max_completion_tokens: 24,
};

const ids = [];
for await (const m of client.models.list()) ids.push(m.id);
assert.ok(ids.includes(model), `${model} is not among ${ids}`);
assert.equal((await client.models.retrieve(model)).id, model);

const whole = await client.chat.completions.create(chat);
const content = whole.choices[0].message.content;
assert.ok(content.trim());
assert.ok(["stop", "length"].includes(whole.choices[0].finish_reason));
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let text = "";
let usage;
for await (const chunk of await client.chat.completions.create({ ...chat, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, content);
assert.ok(usage.completion_tokens > 0);

const helper = client.chat.completions.stream({ ...chat, stream: true });
assert.equal(await helper.finalContent(), content);

const several = await client.chat.completions.create({ ...chat, n: 2, seed: 7, temperature: 0.8, stop: ["\n\n\n"], logprobs: true, top_logprobs: 2, top_k: 40 });
assert.deepEqual(several.choices.map((c) => c.index), [0, 1]);
assert.equal(several.choices[0].logprobs.content[0].top_logprobs.length, 2);

const texts = await client.completions.create({ model, prompt: ["One", "Two"], max_tokens: 4, temperature: 0 });
assert.deepEqual(texts.choices.map((c) => c.index), [0, 1]);

const refused = async (change, status, code, param) => {
  await assert.rejects(client.chat.completions.create({ ...chat, ...change }), (e) => {
    assert.ok(e instanceof OpenAI.APIError);
    assert.deepEqual([e.status, e.code, e.param], [status, code, param]);
    return true;
  });
};
await refused({ model: "no-such-model" }, 404, "model_not_found", "model");
await refused({ temperature: -1 }, 400, "decimal_below_min_value", "temperature");
await refused({ tools: [{ type: "function", function: { name: "f" } }] }, 400, "unsupported_parameter", "tools");

// A stream that is left early frees its place for the next.
const early = await client.chat.completions.create({ ...chat, stream: true });
for await (const _ of early) break;
assert.equal((await client.chat.completions.create(chat)).choices[0].message.content, content);
