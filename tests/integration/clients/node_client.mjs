// The `openai` package for Node: unknown request fields go through as they are, and so do unknown
// fields of the answer. Needs OPENAI_BASE_URL.
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ apiKey: process.env.OPENAI_API_KEY ?? "none" });
const { data } = await client.models.list();
const request = {
  model: data[0].id,
  messages: [{ role: "user", content: "Name three colors." }],
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
    else if (entropy) summary = entropy;
  }
}
assert.equal(summary.law, "entropy_target");
assert.equal(tokens.length, summary.num_tokens);
assert.ok(tokens.every(({ entropy, temperature }) => entropy >= 0 && temperature > 0));
console.log("node, stream:", summary);

const named = await client.chat.completions.create({
  ...request,
  model: `${data[0].id}@adaptive`,
  entropy: undefined,
});
assert.equal(named.choices[0].entropy.profile, "adaptive");
