/** The current request as a program: Python SDK, Node SDK, curl. The key is read from the environment. */

const INDENT = '    ';

const chat = {
  method: 'chat.completions.create',
  route: 'v1/chat/completions',
  shown: ['choices[0].message.content', 'choices[0].entropy'],
};
const decisions = {
  method: 'decisions.create',
  route: 'v1/decisions',
  shown: ['answers'],
  open: 'client.post("/decisions", { body: ', // the Node SDK has no method for decisions
  close: ' })',
};

/** Programs that send a chat completion, by language. */
export const CHAT = languages(chat);
/** Programs that ask for decisions, by language. */
export const DECISIONS = languages(decisions);

function languages(call) {
  return {
    Python: (body, base) => python(body, base, call),
    Node: (body, base) => node(body, base, call),
    curl: (body, base) => curl(body, base, call),
  };
}

function python(body, base, { method, shown }) {
  const { entropy, ...known } = body;
  const lines = Object.entries(known).map(([name, value]) => `${INDENT}${name}=${literal(value, 1)},`);
  if (entropy) lines.push(`${INDENT}extra_body={"entropy": ${literal(entropy, 1)}},`);
  return `import os

from openai import OpenAI

client = OpenAI(base_url=${JSON.stringify(`${base}v1`)}, api_key=os.environ.get("OPENAI_API_KEY", "none"))
answer = client.${method}(
${lines.join('\n')}
)
${shown.map((path) => `print(answer.${path})`).join('\n')}
`;
}

function node(body, base, { method, shown, open = `client.${method}(`, close = ')' }) {
  return `import OpenAI from "openai";

const client = new OpenAI({
  baseURL: ${JSON.stringify(`${base}v1`)},
  apiKey: process.env.OPENAI_API_KEY ?? "none",
});
const answer = await ${open}${JSON.stringify(body, null, 2)}${close};
${shown.map((path) => `console.log(answer.${path});`).join('\n')}
`;
}

function curl(body, base, { route }) {
  const data = JSON.stringify(body, null, 2).replaceAll("'", "'\\''");
  return `curl ${quoted(`${base}${route}`)} \\
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
