/** What the page sends: the request's own fields, the control, and the conversation of a lane. */

const number = (name, description, limits, start) => ({
  name, description, limits, start, kind: 'number', required: false, optional: true, default: null,
});

/** Fields beside `entropy`; the server's model defaults apply where nothing is entered. */
export const REQUEST_FIELDS = [
  number('temperature', 'T0. A temperature law starts from it.', 'from 0 to 2'),
  number('top_p', 'Sample from the most probable tokens that together have this probability.', 'above 0 to 1'),
  number('max_tokens', 'Maximum number of tokens of an answer.', 'from 1', 200),
  number('seed', 'The same seed gives the same answer again.', ''),
  number('top_logprobs', 'Alternatives shown for each token; 0 shows none.', 'from 0 to 20', 5),
  {
    name: 'reasoning_effort', kind: 'choice', required: false, optional: true, default: null,
    description: 'For models that reason, and for difficulty with effort.',
    options: ['none', 'minimal', 'low', 'medium', 'high'],
  },
];

export const START = Object.fromEntries(
  REQUEST_FIELDS.filter((field) => field.start !== undefined).map((field) => [field.name, field.start]),
);

const WHOLE = ['inquiry', 'vote', 'semantic', 'abstain'];

/** Whether a control, or the profile that it starts from, sends an answer as a whole, untraced. */
export function answersAtOnce(control, profile) {
  return WHOLE.some((name) => control[name] ?? profile?.control[name]);
}

export function bodyOf({ model, settings, control, profile, messages, atOnce }) {
  const { top_logprobs: alternatives, ...own } = settings;
  const entropy = { trace: atOnce ? 'summary' : 'tokens', ...(profile && { profile }), ...control };
  const wanted = alternatives && !atOnce ? { logprobs: true, top_logprobs: alternatives } : {};
  return { model, messages, ...own, ...wanted, entropy };
}

export const STREAM = { stream: true, stream_options: { include_usage: true } };

/** The messages of a conversation, ending with what the user is about to say. */
export function messagesOf(system, turns, prompt) {
  const said = turns.flatMap(({ user, answer }) => [
    { role: 'user', content: user },
    { role: 'assistant', content: answer.content },
  ]);
  const opening = system ? [{ role: 'system', content: system }] : [];
  return [...opening, ...said, ...(prompt ? [{ role: 'user', content: prompt }] : [])];
}
