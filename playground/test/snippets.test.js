import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { answersAtOnce, bodyOf, messagesOf } from '../src/request.js';
import { CHAT, DECISIONS } from '../src/snippets.js';

const { curl, Node: node, Python: python } = CHAT;

const BODY = {
  model: 'm',
  messages: [{ role: 'user', content: 'It\'s "quoted"\n$HOME `x` \\ é' }],
  logprobs: true,
  seed: 1,
  entropy: { trace: 'tokens', temperature: { type: 'hapo', tau: 0.05 }, difficulty: { effort: false, probe: null } },
};

test('curl sends the body as it is', () => {
  const script = curl(BODY, 'http://h/').replace('curl', 'print() { for last; do :; done; printf %s "$last"; }; print');
  assert.deepEqual(JSON.parse(execFileSync('sh', ['-c', script])), BODY);
});

test('Python passes the body to the SDK', () => {
  const program = python(BODY, 'http://h/');
  const stub = `
import json, sys, types
class Client:
    def __init__(self, **_): self.chat = self.completions = self
    def create(self, extra_body, **known):
        print(json.dumps({**known, **extra_body})); sys.exit()
sys.modules["openai"] = types.SimpleNamespace(OpenAI=Client)
`;
  assert.deepEqual(JSON.parse(execFileSync('python3', ['-c', stub + program])), BODY);
});

test('Node passes the body to the SDK', () => {
  const stub = 'class OpenAI { chat = { completions: { create(body) { console.log(JSON.stringify(body)); process.exit(); } } }; }';
  const program = node(BODY, 'http://h/').replace('import OpenAI from "openai";', stub);
  const out = execFileSync('node', ['--input-type=module', '-e', program]);
  assert.deepEqual(JSON.parse(out), BODY);
});

test('the request has the profile, the control and the conversation; what comes at once has none', () => {
  const turns = [{ user: 'hi', answer: { content: 'hello' } }];
  const messages = messagesOf('be kind', turns, 'more');
  assert.deepEqual(messages.map((one) => one.role), ['system', 'user', 'assistant', 'user']);
  const parts = { model: 'm', settings: { seed: 1, top_logprobs: 3 }, control: { trace: 'none' }, profile: 'p', messages };
  const body = bodyOf({ ...parts, atOnce: false });
  assert.deepEqual(body, { model: 'm', messages, seed: 1, logprobs: true, top_logprobs: 3, entropy: { trace: 'none', profile: 'p' } });
  assert.equal(bodyOf({ ...parts, atOnce: true }).logprobs, undefined);
  const traced = (atOnce) => bodyOf({ ...parts, control: {}, atOnce }).entropy.trace;
  assert.deepEqual([traced(false), traced(true)], ['tokens', 'summary']);
  assert.equal(answersAtOnce({}, { control: { inquiry: { task: 't' } } }), true);
  assert.equal(answersAtOnce({ vote: {} }, undefined), true);
  assert.equal(answersAtOnce({ steering: [] }, undefined), false);
});
