/** The current request as a program: Python SDK, Node SDK, curl. The key is read from the environment. */

const INDENT = '    ';

export function python(body, base) {
  const { entropy, ...known } = body;
  const lines = Object.entries(known).map(([name, value]) => `${INDENT}${name}=${literal(value, 1)},`);
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${base}v1`)}, api_key=os.environ.get("OPENAI_API_KEY", "none"))
answer = client.chat.completions.create(
${lines.join('\n')}
${INDENT}extra_body={"entropy": ${literal(entropy, 1)}},
)
print(answer.choices[0].message.content)
print(answer.choices[0].entropy)
`;
}

export function node(body, base) {
  return `import OpenAI from "openai";

const client = new OpenAI({
  baseURL: ${JSON.stringify(`${base}v1`)},
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const answer = await client.chat.completions.create(${JSON.stringify(body, null, 2)});
console.log(answer.choices[0].message.content);
console.log(answer.choices[0].entropy);
`;
}

export function curl(body, base) {
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl ${quoted(`${base}v1/chat/completions`)} \\
  -H 'Content-Type: application/json' \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -d '${data}'
`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A JSON value as a Python literal. */
function literal(value, depth) {
  if (value === null) return 'None';
  if (value === true) return 'True';
  if (value === false) return 'False';
  if (typeof value !== 'object') return JSON.stringify(value);
  const inner = Array.isArray(value)
    ? value.map((one) => literal(one, depth + 1))
    : Object.entries(value).map(([key, one]) => `${JSON.stringify(key)}: ${literal(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? '[]' : '{}';
  const line = `${open}${inner.join(', ')}${close}`;
  if (line.length < 70) return line;
  const pad = INDENT.repeat(depth);
  return `${open}\n${inner.map((one) => `${pad}${INDENT}${one},\n`).join('')}${pad}${close}`;
}
