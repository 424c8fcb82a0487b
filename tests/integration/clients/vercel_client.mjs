// Vercel's AI SDK with `@ai-sdk/openai-compatible`: controls go in through `providerOptions`, and a
// `metadataExtractor` reads the report. Needs OPENAI_BASE_URL.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL;
const apiKey = process.env.OPENAI_API_KEY ?? "none";
const listed = await fetch(`${baseURL}/models`, { headers: { Authorization: `Bearer ${apiKey}` } });
const name = (await listed.json()).data[0].id;

const metadataExtractor = {
  extractMetadata: async ({ parsedBody }) => ({
    entrostat: { entropy: parsedBody.choices[0].entropy },
  }),
  createStreamExtractor: () => {
    let summary;
    return {
      processChunk: (chunk) => {
        for (const { entropy } of chunk.choices ?? []) if (entropy?.num_tokens) summary = entropy;
      },
      buildMetadata: () => summary && { entrostat: { entropy: summary } },
    };
  },
};
const provider = createOpenAICompatible({
  name: "entrostat",
  baseURL,
  apiKey,
  includeUsage: true,
  supportsStructuredOutputs: true,
  metadataExtractor,
});
const entropy = { temperature: { type: "entropy_target", entropy_target: 1.0 } };
const request = {
  model: provider(name),
  prompt: "Name three colors.",
  maxOutputTokens: 16,
  maxRetries: 0,
  providerOptions: { entrostat: { entropy } },
};

const answer = await generateText(request);
assert.equal(answer.providerMetadata.entrostat.entropy.law, "entropy_target");
assert.equal(answer.providerMetadata.entrostat.entropy.num_tokens, answer.usage.outputTokens);
console.log("vercel, one answer:", answer.providerMetadata.entrostat.entropy.entropy_mean);

const stream = streamText(request);
let text = "";
for await (const part of stream.textStream) text += part;
assert.ok(text);
assert.ok(["stop", "length"].includes(await stream.finishReason));
assert.ok((await stream.usage).outputTokens >= 1);
assert.equal((await stream.providerMetadata).entrostat.entropy.law, "entropy_target");
console.log("vercel, stream:", JSON.stringify(text));

const named = await generateText({
  ...request,
  model: provider(`${name}@adaptive`),
  providerOptions: {},
});
assert.equal(named.providerMetadata.entrostat.entropy.profile, "adaptive");

const weather = tool({
  description: "The weather in a city.",
  inputSchema: z.object({ city: z.enum(["Paris", "Rome"]) }),
  strict: true, // vLLM constrains the arguments of strict tools only
  execute: async ({ city }) => `Sunny in ${city}.`,
});
const called = await generateText({
  ...request,
  maxOutputTokens: 64,
  tools: { weather },
  prepareStep: ({ stepNumber }) => ({
    toolChoice: stepNumber === 0 ? { type: "tool", toolName: "weather" } : "none",
  }),
  stopWhen: stepCountIs(2),
});
assert.equal(called.steps.length, 2);
assert.ok(["Paris", "Rome"].includes(called.steps[0].toolCalls[0].input.city));
assert.ok(called.steps[1].providerMetadata.entrostat.entropy.num_tokens >= 1);
console.log("vercel, tool call:", called.steps[0].toolCalls[0].input);

const structured = await generateText({
  ...request,
  maxOutputTokens: 64,
  output: Output.object({ schema: z.object({ color: z.enum(["red", "blue"]) }) }),
});
assert.ok(["red", "blue"].includes(structured.output.color));
console.log("vercel, structured:", structured.output);

await assert.rejects(
  generateText({ ...request, providerOptions: { entrostat: { entropy: { bogus: 1 } } } }),
  (error) => error.statusCode === 400 && error.responseBody.includes("entropy.bogus"),
);
