/** An answer while it streams: its text in pieces, and what was measured for each token. */

export function newAnswer() {
  return {
    content: '', // what goes back to the server as the assistant's message
    pieces: [], // {text, from, to}: a text and the range of its tokens
    tokens: [], // {entropy, temperature}, nats
    logprobs: [], // {token, logprob, top_logprobs}
    report: null,
    usage: null,
    finish: null,
    error: null,
    done: false,
    first: null, // seconds until the first text
    seconds: 0,
  };
}

/** Add a chunk of the stream. Several tokens may share a text, and a token may have none. */
export function addChunk(answer, chunk, seconds) {
  answer.seconds = seconds;
  if (chunk.usage) answer.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  answer.tokens.push(...(choice.entropy?.tokens ?? []));
  answer.logprobs.push(...(choice.logprobs?.content ?? []));
  const delta = choice.delta ?? {};
  answer.content += delta.content ?? '';
  const text = delta.content || delta.reasoning || delta.reasoning_content || '';
  if (text) {
    answer.first ??= seconds;
    addText(answer, text);
  }
  if (choice.finish_reason) {
    answer.finish = choice.finish_reason;
    answer.report = choice.entropy ?? null;
  }
}

function addText(answer, text) {
  const from = answer.pieces.at(-1)?.to ?? 0;
  const to = Math.max(answer.tokens.length, answer.logprobs.length, from);
  const parts = answer.logprobs.slice(from, to).map((one) => one.token);
  if (parts.length === to - from && parts.length > 1 && parts.join('') === text) {
    parts.forEach((part, i) => answer.pieces.push({ text: part, from: from + i, to: from + i + 1 }));
  } else {
    answer.pieces.push({ text, from, to });
  }
}

/** Mean entropy, mean temperature, logprob and alternatives of a piece; null if not measured. */
export function measured(answer, { from, to }) {
  const tokens = answer.tokens.slice(from, to);
  const logprobs = answer.logprobs.slice(from, to);
  return {
    entropy: mean(tokens.map((one) => one.entropy)),
    temperature: mean(tokens.map((one) => one.temperature)),
    logprob: logprobs.length ? logprobs.reduce((sum, one) => sum + one.logprob, 0) : null,
    alternatives: [...(logprobs[0]?.top_logprobs ?? [])].sort((a, b) => b.logprob - a.logprob),
    sampled: logprobs[0]?.token,
  };
}

export function mean(values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
}

export const FULL_SCALE = 6;

/** Position of an entropy on the color scale, 0 to 1; a square root, as in `entrostat chat`. */
export function heat(entropy) {
  return entropy === null ? null : Math.sqrt(Math.min(Math.max(entropy / FULL_SCALE, 0), 1));
}

export const fixed = (value, digits = 2) =>
  value === null || value === undefined ? '–' : value.toFixed(digits);
export const percent = (value) =>
  value === null || value === undefined ? '–' : `${(100 * value).toFixed(0)} %`;

/** One sentence about a finished answer. */
export function inWords(answer) {
  const count = answer.report?.num_tokens ?? answer.tokens.length;
  const seconds = `${answer.seconds.toFixed(2)} s`;
  if (answer.report?.inquiry) return `Answered in ${seconds}.`;
  const h = answer.report?.entropy_mean ?? mean(answer.tokens.map((one) => one.entropy));
  const ending = answer.finish ? '' : 'Stopped. ';
  return `${ending}${count} tokens in ${seconds}, mean entropy ${fixed(h)} nats.`;
}
