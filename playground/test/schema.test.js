import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import {
  fieldOf, fieldsOf, initial, initialVariant, ownerOf, variantOf, withKey,
} from '../src/schema.js';

const schema = JSON.parse(readFileSync(new URL('../../docs/reference/wire-schema.json', import.meta.url)));
const controls = fieldsOf(schema, schema.$defs.Control);

/** Every field below a field, with its path. */
function* all(fields, prefix = '') {
  for (const field of fields) {
    const path = `${prefix}${field.name}`;
    yield { path, field };
    yield* all(field.fields ?? [], `${path}.`);
    yield* all(field.item?.fields ?? [], `${path}.`);
    for (const variant of field.variants ?? []) yield* all(variant.fields, `${path}.`);
  }
}

test('every control of the schema has a field with a form of its own and a description', () => {
  const found = [...all(controls)];
  const names = new Set(found.map(({ field }) => field.name));
  for (const name of Object.keys(schema.$defs.Control.properties)) assert.ok(names.has(name), name);
  for (const { path, field } of found) {
    assert.notEqual(field.kind, 'json', path);
    assert.ok(field.description.length > 5, path);
  }
});

test('every property of every definition that a request can hold is reached', () => {
  const reached = new Set([...all(controls)].map(({ path }) => path.split('.').at(-1)));
  const seen = new Set();
  const visit = (node) => {
    if (node?.$ref && !seen.has(node.$ref)) {
      seen.add(node.$ref);
      visit(schema.$defs[node.$ref.split('/').pop()]);
    }
    for (const name of Object.keys(node?.properties ?? {})) {
      if (name !== 'type') assert.ok(reached.has(name), name);
    }
    const below = [node?.items, ...Object.values(node?.properties ?? {})];
    for (const one of [...below, ...(node?.anyOf ?? []), ...(node?.oneOf ?? [])]) if (one) visit(one);
  };
  visit({ $ref: '#/$defs/Control' });
  assert.ok(seen.size > 8);
});

test('a law is chosen by its type and starts with it', () => {
  const law = controls.find((field) => field.name === 'temperature');
  assert.equal(law.kind, 'union');
  assert.deepEqual(Object.keys(initial(law)), ['type']);
});

test('laws by phase are a choice without a type, and start with a law for the thinking', () => {
  const law = controls.find((field) => field.name === 'temperature');
  const phases = law.variants.at(-1);
  assert.equal(phases.value, 'thinking, answer');
  const value = initialVariant(law, phases);
  assert.deepEqual(value, { thinking: initial(law) });
  assert.equal(variantOf(law, value), phases);
  assert.equal(variantOf(law, { type: 'edt' }).value, 'edt');
  assert.equal(variantOf(law, undefined), law.variants[0]);
});

test('artifact ids, limits and defaults come from the schema', () => {
  const steering = controls.find((field) => field.name === 'steering');
  const fields = Object.fromEntries(steering.item.fields.map((field) => [field.name, field]));
  assert.equal(fields.vector.artifact, 'steering-vector');
  assert.equal(fields.vector.required, true);
  assert.equal(fields.strength.limits, 'from -1000 to 1000');
  assert.equal(fields.positions.default, 'answer');
  assert.equal(fields.clamp.items.length, 2);
  assert.deepEqual(initial(fields.clamp), [null, null]);
});

test('a schema that the form does not know becomes a JSON field', () => {
  const odd = { anyOf: [{ type: 'number' }, { type: 'array' }], description: 'Odd.' };
  assert.equal(fieldOf(schema, odd).kind, 'json');
  assert.equal(fieldOf(schema, { description: 'Anything.' }).kind, 'json');
});

test('the questions that could be asked are a list, though a task may stand for them', () => {
  const ask = fieldsOf(schema, schema.$defs.DecisionControl).find((field) => field.name === 'ask');
  assert.equal(ask.kind, 'list');
  assert.equal(ask.max, 16);
  assert.deepEqual(ask.item.fields.map((field) => field.name), ['question', 'answers']);
});

test('a switch may also be a number, and a text needs no other form', () => {
  const found = new Map([...all(controls)].map(({ path, field }) => [path, field]));
  const thinking = found.get('difficulty.strategies.easy.thinking');
  assert.equal(thinking.kind, 'switch');
  assert.equal(thinking.limits, 'true, false, or above 0 below 1');
  assert.deepEqual(found.get('difficulty.price').slider, [0, 1]);
  assert.equal(found.get('difficulty.price').limits, 'from 0 to 100');
});

test('a decision starts with one question, and a choice with two options', () => {
  const fields = fieldsOf(schema, schema.$defs.DecisionRequest);
  const questions = fields.find((field) => field.name === 'questions');
  for (const { path, field } of all([questions])) assert.notEqual(field.kind, 'json', path);
  assert.deepEqual(initial({ kind: 'object', fields: [questions] }), { questions: [{ type: 'choice', choices: [{}, {}] }] });
  const predicate = questions.item.variants.find((one) => one.value === 'predicate');
  assert.deepEqual(initialVariant(questions.item, predicate), { type: 'predicate' });
});

test('a key without a value is absent', () => {
  assert.deepEqual(withKey({ a: 1 }, 'b', 2), { a: 1, b: 2 });
  assert.deepEqual(withKey({ a: 1 }, 'a', undefined), {});
  assert.deepEqual(withKey(undefined, 'a', false), { a: false });
});

test('an error belongs to the closest field that contains its parameter', () => {
  const paths = ['entropy', 'entropy.temperature', 'entropy.temperature.tau', 'temperature'];
  assert.equal(ownerOf('entropy.temperature.tau', paths), 'entropy.temperature.tau');
  assert.equal(ownerOf('entropy.temperature.tau2', paths), 'entropy.temperature');
  assert.equal(ownerOf('temperature', paths), 'temperature');
  assert.equal(ownerOf('messages', paths), null);
  assert.equal(ownerOf(null, paths), null);
});
