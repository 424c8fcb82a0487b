/** Start: ask for the key if the server needs one, load what it offers, show the chat. */

import { render } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { get, setKey } from './api.js';
import { Chat } from './chat.jsx';
import { Decisions, EMPTY } from './decisions.jsx';
import './app.css';

const ROUTES = ['v1/entropy/profiles', 'v1/entropy/artifacts', 'v1/entropy/schema'];

async function load() {
  const models = await get('v1/models'); // alone, because it fails without the key
  const [profiles, artifacts, schema] = await Promise.all(ROUTES.map(get));
  const names = models.data.map((card) => card.id);
  const ids = new Set(profiles.data.map((profile) => profile.id));
  const isPlain = (name) => !ids.has(name.slice(name.lastIndexOf('@') + 1));
  return { models: names.filter(isPlain), profiles: profiles.data, artifacts: artifacts.data, schema };
}

function App() {
  const [offer, setOffer] = useState(null);
  const [error, setError] = useState(null);
  const start = () => load().then((loaded) => { setOffer(loaded); setError(null); }, setError);
  useEffect(() => void start(), []);
  if (offer) return <Views {...offer} />;
  if (error?.status === 401) return <KeyForm onKey={(key) => { setKey(key); start(); }} />;
  return (
    <main class="gate">
      <h1>Entrostat playground</h1>
      {error
        ? <><p role="alert" class="error">{error.message}</p><button type="button" onClick={start}>Try again</button></>
        : <p role="status">Loading…</p>}
    </main>
  );
}

/** The chat keeps its conversation while the decisions are shown, and these their questions. */
function Views({ models, ...offer }) {
  const [view, setView] = useState('chat');
  const [model, setModel] = useState(models[0]);
  const [draft, setDraft] = useState(EMPTY);
  const header = { view, onView: setView, models, model, onModel: setModel };
  return (
    <>
      <div hidden={view !== 'chat'}><Chat {...{ ...offer, model, header }} /></div>
      {view === 'decisions' && <Decisions {...{ ...offer, model, header, draft }} onDraft={setDraft} />}
    </>
  );
}

function KeyForm({ onKey }) {
  const [tried, setTried] = useState(false);
  const submit = (event) => {
    event.preventDefault();
    setTried(true);
    onKey(event.currentTarget.elements.key.value);
  };
  return (
    <main class="gate">
      <h1>Entrostat playground</h1>
      <form onSubmit={submit}>
        <label for="key">API key of this server</label>
        <input id="key" name="key" type="password" autocomplete="off" required />
        <button type="submit">Use key</button>
        <p class="note">The key is kept in the memory of this page only. Reloading forgets it.</p>
        {tried && <p role="alert" class="error">The server refuses this key.</p>}
      </form>
    </main>
  );
}

render(<App />, document.getElementById('app'));
