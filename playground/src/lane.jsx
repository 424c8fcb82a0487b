/** One conversation under one profile. Two of them stand side by side. */

import { Chart } from './chart.jsx';
import { SetSizes, Status, Summary } from './report.jsx';
import { Tokens } from './tokens.jsx';

export function Lane({ lane, label, profiles, onProfile }) {
  const last = lane.turns.at(-1);
  const profile = profiles.find((one) => one.id === lane.profile);
  const id = `profile-${lane.name}`;
  return (
    <section class="lane" aria-label={`Conversation ${lane.name}`}>
      <div class="picker" data-path="entropy.profile">
        <label for={id}>{label}</label>
        <select id={id} value={lane.profile} onChange={(event) => onProfile(event.currentTarget.value)}>
          <option value="">none</option>
          {profiles.map((one) => <option key={one.id} value={one.id}>{one.id}</option>)}
        </select>
        {profile && <code>{JSON.stringify(known(profile.control))}</code>}
      </div>
      {lane.turns.map((turn, i) => <Turn key={i} turn={turn} id={`${lane.name}-${i}`} />)}
      {last?.answer.tokens.length > 0 && <Chart key={lane.turns.length} answer={last.answer} />}
      {last && <Summary answer={last.answer} />}
      <SetSizes turns={lane.turns} />
      <Status turn={last} />
    </section>
  );
}

function Turn({ turn: { user, answer }, id }) {
  const introduction = answer.report?.inquiry?.introduction;
  return (
    <article>
      <p class="user"><span class="hidden">You: </span>{user}</p>
      {introduction && <p class="note">{introduction}</p>}
      {answer.pieces.length > 0 && <Tokens answer={answer} id={id} />}
      {answer.error && <p role="alert" class="error">{answer.error.message}</p>}
    </article>
  );
}

/** The keys of a control that are set, at every level. */
function known(value) {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  const kept = Object.entries(value).filter(([, one]) => one !== null);
  return Object.fromEntries(kept.map(([key, one]) => [key, known(one)]));
}
