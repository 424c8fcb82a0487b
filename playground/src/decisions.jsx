/** Decisions: typed questions about a text, with the probability of every option. */

import { useState } from 'preact/hooks';
import { fixed } from './answer.js';
import { post } from './api.js';
import { CopyAs } from './copy.jsx';
import { Fields, FormContext, located, useFocus } from './form.jsx';
import { Header } from './header.jsx';
import { Labels, byProbability } from './labels.jsx';
import { fieldsOf, initial } from './schema.js';
import { DECISIONS } from './snippets.js';

const PREFIX = 'decision';
const FORM = ['questions', 'entropy'];

/** What the view starts with; a `form` of null has one empty question. */
export const EMPTY = { input: '', form: null, result: null };

export function Decisions({ model, header, artifacts, schema, draft, onDraft }) {
  const [error, setError] = useState(null);
  const [running, setRunning] = useState(false);
  const fields = fieldsOf(schema, schema.$defs.DecisionRequest).filter(({ name }) => FORM.includes(name));
  // With `entropy`, even if it is empty, the answers have sets and entropies.
  const form = draft.form ?? { ...initial({ kind: 'object', fields }), entropy: {} };
  const body = (input = draft.input) => ({ model, input, ...form });
  useFocus(error);

  const decide = async (input = draft.input) => {
    if (running) return;
    setRunning(true);
    setError(null);
    const asked = body(input);
    const start = performance.now();
    try {
      const { answers, usage } = await post('v1/decisions', asked);
      const seconds = (performance.now() - start) / 1000;
      onDraft({ ...draft, input, result: { answers, usage, seconds, questions: asked.questions } });
    } catch (failure) {
      setError(located(failure, `${PREFIX}.`));
    }
    setRunning(false);
  };
  const reply = (question, answer) => decide(`${draft.input}\n\n${question}\n${answer}`);

  return (
    <>
      <Header {...header} />
      <main aria-busy={running}>
        <aside aria-label="Settings">
          <FormContext.Provider value={{ error, artifacts }}>
            <details class="panel" open>
              <summary>Questions</summary>
              <Fields
                fields={fields}
                path={PREFIX}
                value={form}
                onChange={(next) => onDraft({ ...draft, form: next })}
              />
            </details>
          </FormContext.Provider>
          <CopyAs languages={DECISIONS} body={() => body()} />
        </aside>
        <div class="chat">
          <form class="composer" onSubmit={(event) => { event.preventDefault(); decide(); }}>
            <label for="input">Text to decide about</label>
            <textarea id="input" rows="6" value={draft.input} onInput={(event) => onDraft({ ...draft, input: event.currentTarget.value })} />
            <button type="submit" disabled={running}>Decide</button>
          </form>
          {error && <p role="alert" class="error">{error.message}</p>}
          {draft.result && <Result {...draft.result} asked={form.entropy?.ask ?? []} onReply={reply} />}
          <p role="status" class="note">{running ? 'Deciding…' : draft.result && `Decided in ${draft.result.seconds.toFixed(2)} s.`}</p>
        </div>
      </main>
    </>
  );
}

function Result({ answers, usage, questions, asked, onReply }) {
  return (
    <>
      {answers.map((answer, i) => (
        <Answer key={i} {...{ answer, asked, onReply }} question={questions[i]} />
      ))}
      <p class="note">{usage.input_tokens} tokens read, {usage.input_tokens_details.cached_tokens} of them from the cache</p>
    </>
  );
}

function Answer({ answer, question, asked, onReply }) {
  const title = answer.name ?? String(question?.instructions ?? '');
  const report = answer.entropy;
  const options = byProbability(optionsOf(answer, report?.prediction_set ?? null));
  const next = report?.next_question;
  return (
    <section class="decision" aria-label={`Decision ${title}`}>
      <p class="badge">
        <strong>{title}: {options[0]?.label ?? 'no answer'}</strong>
        {report?.prediction_set && `, ${report.prediction_set.length} of ${options.length} options in the prediction set at ${100 * report.confidence_level} %`}
        {report && !report.calibrated && ', not calibrated'}
        {report?.abstained && ', too uncertain to act on'}
        {report && `; entropy ${fixed(report.entropy)} nats`}
      </p>
      <Labels name={`Options of ${title}`} options={options} />
      {next && (
        <p class="replies">
          Ask next: {next}
          {(asked.find((one) => one.question === next)?.answers ?? ['yes', 'no']).map((one) => (
            <button key={one} type="button" onClick={() => onReply(next, one)}>{one}</button>
          ))}
        </p>
      )}
    </section>
  );
}

/** The options of an answer of any type, and which of them are in the set. */
function optionsOf(answer, set) {
  const found = {
    predicate: () => [
      { value: true, label: 'true', probability: answer.probability },
      { value: false, label: 'false', probability: 1 - answer.probability },
    ],
    choice: () => answer.probabilities.map((one) => ({ ...one, label: String(one.value) })),
    score: () => answer.probabilities,
    refusal: () => [],
  }[answer.type]();
  return found.map((one) => ({ ...one, inSet: set && set.includes(one.value) }));
}
