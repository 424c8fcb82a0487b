import assert from 'node:assert/strict';
import test from 'node:test';
import { addChunk, heat, inWords, measured, newAnswer } from '../src/answer.js';
import { events } from '../src/api.js';

const token = (entropy, temperature = 1) => ({ entropy, temperature });
const logprob = (text) => ({ token: text, logprob: -0.5, top_logprobs: [{ token: text, logprob: -0.5 }] });

function chunk(content, tokens, logprobs, more = {}) {
  return { choices: [{ delta: { content }, entropy: { tokens, ...more.report }, logprobs: logprobs && { content: logprobs }, finish_reason: more.finish ?? null }] };
}

function answerOf(...chunks) {
  const answer = newAnswer();
  chunks.forEach((one, i) => addChunk(answer, one, i + 1));
  return answer;
}

test('each token is a piece with its own measurement', () => {
  const answer = answerOf(chunk('a', [token(1)], [logprob('a')]), chunk('b', [token(3)], [logprob('b')]));
  assert.deepEqual(answer.pieces.map((piece) => piece.text), ['a', 'b']);
  assert.equal(measured(answer, answer.pieces[1]).entropy, 3);
  assert.equal(answer.content, 'ab');
  assert.equal(answer.first, 1);
});

test('a chunk of several tokens is divided where their texts are known', () => {
  const tokens = [token(1), token(3)];
  const split = answerOf(chunk('ab', tokens, [logprob('a'), logprob('b')]));
  assert.equal(split.pieces.length, 2);
  const whole = answerOf(chunk('ab', tokens, null));
  assert.deepEqual(whole.pieces, [{ text: 'ab', from: 0, to: 2 }]);
  assert.equal(measured(whole, whole.pieces[0]).entropy, 2);
});

test('a token without text belongs to the next text, and the final one to none', () => {
  const answer = answerOf(
    chunk('', [token(1)], [logprob('\ufffd')]),
    chunk('🙂', [token(2)], [logprob('🙂')]),
    chunk('', [token(0)], [logprob('')], { finish: 'stop', report: { num_tokens: 3, entropy_mean: 1 } }),
  );
  assert.deepEqual(answer.pieces, [{ text: '🙂', from: 0, to: 2 }]);
  assert.equal(answer.tokens.length, 3);
  assert.equal(answer.finish, 'stop');
  assert.match(inWords(answer), /^3 tokens in 3.00 s, mean entropy 1.00 nats\.$/);
});

test('an answer without measurements has no heat', () => {
  const answer = answerOf({ choices: [{ delta: { content: 'Is it big?' }, finish_reason: null }] });
  assert.equal(heat(measured(answer, answer.pieces[0]).entropy), null);
  assert.equal(heat(0), 0);
  assert.equal(heat(600), 1);
});

test('events that arrive in arbitrary parts are whole, and characters are not torn', async () => {
  const bytes = new TextEncoder().encode('data: {"a": "é🙂"}\n\n: comment\n\ndata: [DONE]\n\n');
  for (const size of [1, 3, 7, 1000]) {
    const parts = [];
    for (let i = 0; i < bytes.length; i += size) parts.push(bytes.slice(i, i + size));
    const found = [];
    for await (const data of events(ReadableStream.from(parts))) found.push(data);
    assert.deepEqual(found, ['{"a": "é🙂"}', '[DONE]']);
  }
});
