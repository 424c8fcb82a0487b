/** The chat: settings, one or two conversations, and the form of every control. */

import { useMemo, useReducer, useRef, useState } from 'preact/hooks';
import { addChunk, newAnswer } from './answer.js';
import { chat } from './api.js';
import { CopyAs } from './copy.jsx';
import { Fields, FormContext, located, useFocus } from './form.jsx';
import { Header } from './header.jsx';
import { Lane } from './lane.jsx';
import { REQUEST_FIELDS, START, STREAM, answersAtOnce, bodyOf, messagesOf } from './request.js';
import { fieldsOf } from './schema.js';
import * as snippets from './snippets.js';

const newLane = (name, profile = '') => ({ name, profile, turns: [] });
const REPLIES = ['Yes', 'No', 'I do not know'];

export function Chat({ model, header, profiles, artifacts, schema }) {
  const [settings, setSettings] = useState(START);
  const [control, setControl] = useState({});
  const [system, setSystem] = useState('');
  const [prompt, setPrompt] = useState('');
  const [lanes, setLanes] = useState([newLane('A')]);
  const [error, setError] = useState(null);
  const [running, setRunning] = useState(null);
  const redraw = useFrames();

  const body = (lane, text) => bodyOf({
    model, settings, control, profile: lane.profile,
    messages: messagesOf(system, lane.turns.filter((turn) => turn.answer.content), text),
    atOnce: answersAtOnce(control, profiles.find((one) => one.id === lane.profile)),
  });

  const send = async (text) => {
    if (running || !text.trim()) return;
    const abort = new AbortController();
    setRunning(abort);
    setError(null);
    setPrompt('');
    const answers = lanes.map((lane) => {
      const request = { ...body(lane, text), ...STREAM };
      const answer = newAnswer();
      lane.turns = [...lane.turns, { user: text, answer }];
      return fill(answer, request, abort.signal, redraw);
    });
    const failures = (await Promise.all(answers)).filter(Boolean);
    setRunning(null);
    if (failures.length === lanes.length) setPrompt((now) => now || text);
    if (failures.length) setError(located(failures[0]));
  };

  useFocus(error);

  const form = useMemo(() => (
    <FormContext.Provider value={{ error, artifacts }}>
      <details class="panel">
        <summary>Request</summary>
        <Fields fields={REQUEST_FIELDS} path="" value={settings} onChange={setSettings} />
      </details>
      <details class="panel">
        <summary>Controls</summary>
        <Fields
          fields={controlsOf(schema)}
          path="entropy"
          value={control}
          onChange={setControl}
        />
      </details>
    </FormContext.Provider>
  ), [settings, control, error, schema, artifacts]);

  const compare = () => {
    const [first] = lanes;
    const names = lanes.length === 1 ? ['A', 'B'] : ['A'];
    setLanes(names.map((name) => newLane(name, name === 'A' ? first.profile : '')));
  };
  const setProfile = (lane, profile) => setLanes(lanes.map((one) => (one === lane ? { ...one, profile } : one)));
  const asks = lanes[0].turns.at(-1)?.answer.report?.inquiry?.action === 'ask';
  const keys = (event) => {
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send(prompt);
    }
  };

  return (
    <>
      <Header {...header}>
        <button type="button" disabled={Boolean(running)} onClick={compare}>
          {lanes.length === 1 ? 'Compare two profiles' : 'One profile'}
        </button>
        <button type="button" disabled={Boolean(running)} onClick={() => setLanes(lanes.map((lane) => ({ ...lane, turns: [] })))}>
          Clear
        </button>
      </Header>
      <main aria-busy={Boolean(running)} onKeyDown={(event) => event.key === 'Escape' && running?.abort()}>
        <aside aria-label="Settings">
          <label class="field">
            System prompt
            <textarea rows="2" value={system} onChange={(event) => setSystem(event.currentTarget.value)} />
          </label>
          {form}
          <CopyAs languages={snippets.CHAT} body={() => body(lanes[0], prompt || 'Hello')} />
        </aside>
        <div class="chat">
          <div class={lanes.length === 1 ? 'lanes' : 'lanes two'}>
            {lanes.map((lane) => (
              <Lane key={lane.name} lane={lane} label={lanes.length === 1 ? 'Profile' : `Profile ${lane.name}`} profiles={profiles} onProfile={(profile) => setProfile(lane, profile)} />
            ))}
          </div>
          {asks && !running && (
            <p class="replies">{REPLIES.map((reply) => (
              <button key={reply} type="button" onClick={() => send(reply)}>{reply}</button>
            ))}</p>
          )}
          <form class="composer" onSubmit={(event) => { event.preventDefault(); send(prompt); }}>
            <label for="prompt">Message</label>
            <textarea id="prompt" rows="3" value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} onKeyDown={keys} />
            {running
              ? <button type="button" onClick={() => running.abort()}>Stop</button>
              : <button type="submit">Send</button>}
          </form>
        </div>
      </main>
    </>
  );
}

/** The form's fields: the profile has a picker of its own, and the page asks for every token. */
function controlsOf(schema) {
  return fieldsOf(schema, schema.$defs.Control)
    .filter((field) => field.name !== 'profile')
    .map((field) => (field.name === 'trace' ? { ...field, default: 'tokens' } : field));
}

/** Fill an answer from the server; returns the error if there is one. */
async function fill(answer, request, signal, redraw) {
  const start = performance.now();
  const seconds = () => (performance.now() - start) / 1000;
  let failure = null;
  try {
    for await (const chunk of chat(request, signal)) {
      addChunk(answer, chunk, seconds());
      redraw();
    }
  } catch (error) {
    if (error.name !== 'AbortError') failure = answer.error = error;
  }
  answer.seconds = seconds();
  answer.done = true;
  redraw();
  return failure;
}

/** A function that draws the page again, at most once per frame. */
function useFrames() {
  const [, draw] = useReducer((count) => count + 1, 0);
  const frame = useRef(0);
  return () => {
    frame.current ||= requestAnimationFrame(() => {
      frame.current = 0;
      draw();
    });
  };
}
