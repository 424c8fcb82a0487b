// The `openai` package for Node: unknown request fields go through as they are, and so do unknown
// fields of the answer. Needs OPENAI_BASE_URL.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ apiKey: process.env.OPENAI_API_KEY ?? "none", maxRetries: 0 });
const { data } = await client.models.list();
const hello = { role: "user", content: "Name three colors." };
const request = {
  model: data[0].id,
  messages: [hello],
  max_completion_tokens: 16,
  entropy: { temperature: { type: "entropy_target", entropy_target: 1.0 }, trace: "tokens" },
};

const completion = await client.chat.completions.create(request);
const whole = completion.choices[0].entropy;
assert.equal(whole.law, "entropy_target");
assert.equal(whole.fallback, null);
assert.equal(whole.tokens.length, whole.num_tokens);
assert.equal(whole.num_tokens, completion.usage.completion_tokens);
console.log("node, one answer:", { ...whole, tokens: `${whole.tokens.length} tokens` });

const tokens = [];
let summary;
for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
  for (const { entropy } of chunk.choices) {
    if (entropy?.tokens) tokens.push(...entropy.tokens);
    if (entropy?.law) summary = entropy; // on the chunk with the finish reason
  }
}
assert.equal(summary.law, "entropy_target");
assert.equal(tokens.length, summary.num_tokens);
assert.ok(tokens.every(({ entropy, temperature }) => entropy >= 0 && temperature > 0));
console.log("node, stream:", summary.entropy_mean);

const streaming = { ...request, stream: true, stream_options: { include_usage: true } };
const helper = client.chat.completions.stream(streaming);
for await (const chunk of helper) assert.ok(chunk.choices);
const final = helper.currentChatCompletionSnapshot ?? (await helper.finalChatCompletion());
assert.ok(["stop", "length"].includes(final.choices[0].finish_reason));
assert.ok(final.usage.completion_tokens >= 1);
assert.equal(final.choices[0].entropy.law, "entropy_target");
console.log("node, stream helper:", final.usage.completion_tokens, "tokens");

const named = await client.chat.completions.create({
  ...request,
  model: `${data[0].id}@adaptive`,
  entropy: undefined,
});
assert.equal(named.choices[0].entropy.profile, "adaptive");

if (process.env.CONFIDENCE && process.env.ABSTENTION) {
  const confidence = { probe: process.env.CONFIDENCE };
  const abstain = { calibration: process.env.ABSTENTION, promise: "joint", alpha: 0.1 };
  const asked = { ...request, entropy: { confidence, abstain } };
  const declined = (await client.chat.completions.create(asked)).choices[0];
  assert.equal(declined.message.content, "I don't know.");
  assert.equal(declined.entropy.abstain.abstained, true);
  assert.ok(declined.entropy.confidence.probability > 0);
  assert.equal(declined.entropy.fallback, null);
  const given = await client.chat.completions.create({ ...asked, entropy: { confidence } });
  assert.notEqual(given.choices[0].message.content, declined.message.content);
  console.log("node, declined at confidence", declined.entropy.confidence.probability);
}

const parameters = {
  type: "object",
  properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
  required: ["city"],
  additionalProperties: false,
};
const called = await client.chat.completions.create({
  ...request,
  max_completion_tokens: 64,
  // vLLM constrains the arguments of strict tools only
  tools: [{ type: "function", function: { name: "weather", parameters, strict: true } }],
  tool_choice: { type: "function", function: { name: "weather" } },
});
const [call] = called.choices[0].message.tool_calls;
assert.ok(["Paris", "Rome"].includes(JSON.parse(call.function.arguments).city));
const after = await client.chat.completions.create({
  ...request,
  messages: [
    hello,
    called.choices[0].message,
    { role: "tool", tool_call_id: call.id, content: "Sunny." },
  ],
});
assert.ok(after.choices[0].entropy.num_tokens >= 1);
console.log("node, tool call:", call.function.arguments);

const schema = {
  type: "object",
  properties: { color: { type: "string", enum: ["red", "blue"] } },
  required: ["color"],
  additionalProperties: false,
};
const structured = await client.chat.completions.create({
  ...request,
  max_completion_tokens: 64,
  response_format: { type: "json_schema", json_schema: { name: "color", schema, strict: true } },
});
assert.ok(["red", "blue"].includes(JSON.parse(structured.choices[0].message.content).color));
console.log("node, structured:", structured.choices[0].message.content);

await assert.rejects(client.chat.completions.create({ ...request, entropy: { bogus: 1 } }), {
  status: 400,
  param: "entropy.bogus",
});
