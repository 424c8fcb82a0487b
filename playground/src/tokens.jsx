/** The tokens of an answer, shaded by entropy; the selected one with all that was measured. */

import { Component } from 'preact';
import { useState } from 'preact/hooks';
import { fixed, heat, measured, percent } from './answer.js';

const GROUP = 40;
const STEPS = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -Infinity, End: Infinity };

/** One tab stop for the whole answer; arrow keys move between its tokens. */
export function Tokens({ answer, id }) {
  const [selected, select] = useState(null);
  const last = answer.pieces.length - 1;
  const move = (event) => {
    const step = STEPS[event.key];
    if (step === undefined || last < 0) return;
    event.preventDefault();
    const next = Math.min(Math.max((selected ?? 0) + step, 0), last);
    select(next);
    document.getElementById(`${id}-${next}`)?.scrollIntoView({ block: 'nearest' });
  };
  const point = (event) => {
    const { piece } = event.target.dataset;
    if (piece !== undefined) select(Number(piece));
  };
  const groups = [];
  for (let start = 0; start <= last; start += GROUP) {
    const pieces = answer.pieces.slice(start, start + GROUP);
    const inside = selected >= start && selected < start + GROUP ? selected : null;
    groups.push(<Group key={start} {...{ answer, id, start, pieces }} selected={inside} />);
  }
  return (
    <>
      <div
        class="tokens"
        role="listbox"
        tabIndex="0"
        aria-label="Tokens of the answer. Arrow keys select one."
        aria-activedescendant={selected === null ? undefined : `${id}-${selected}`}
        onKeyDown={move}
        onFocus={() => select((now) => now ?? (last < 0 ? null : 0))}
        onPointerOver={point}
        onClick={point}
      >
        {groups}
      </div>
      {answer.done && <p class="hidden">{answer.content}</p>}
      {answer.tokens.length > 0 && <Details answer={answer} piece={answer.pieces[selected]} />}
    </>
  );
}

/** Some consecutive tokens, drawn again only when they change: a long answer stays cheap. */
class Group extends Component {
  shouldComponentUpdate(next) {
    return next.pieces.length !== this.props.pieces.length || next.selected !== this.props.selected;
  }

  render({ answer, id, start, pieces, selected }) {
    return pieces.map((piece, i) => {
      const index = start + i;
      const facts = measured(answer, piece);
      const level = heat(facts.entropy);
      return (
        <span
          key={index}
          id={`${id}-${index}`}
          role="option"
          aria-selected={index === selected}
          aria-label={label(piece, facts, index === selected)}
          data-piece={index}
          class={level === null ? 'token' : 'token measured'}
          style={level === null ? undefined : { '--heat': `${Math.round(level * 100)}%` }}
        >
          {piece.text}
        </span>
      );
    });
  }
}

/** What a screen reader says: everything of the selected token; a blank one has a name, too. */
function label(piece, facts, selected) {
  if (selected) return inWords(piece, facts);
  return piece.text.trim() ? undefined : visible(piece.text);
}

function inWords(piece, { entropy, temperature, alternatives }) {
  const best = alternatives.slice(0, 3).map((one) => `${visible(one.token)} ${probability(one.logprob)}`);
  const others = best.length ? `; most probable: ${best.join(', ')}` : '';
  return `${visible(piece.text)}: entropy ${fixed(entropy)} nats, temperature ${fixed(temperature)}${others}`;
}

function Details({ answer, piece }) {
  if (!piece) return <p class="details note">Point at a token, or focus the answer and use the arrow keys.</p>;
  const { entropy, temperature, logprob, alternatives, sampled } = measured(answer, piece);
  return (
    <div class="details">
      <p>
        <code>{visible(piece.text)}</code> H = {fixed(entropy)} nats, T = {fixed(temperature)}
        {logprob !== null && `, p = ${probability(logprob)}`}
      </p>
      {alternatives.length > 0 && (
        <ul aria-label="Most probable tokens at T = 1">
          {alternatives.map((one, i) => (
            <li key={i} style={{ '--share': `${100 * Math.exp(one.logprob)}%` }}>
              <code>{visible(one.token)}</code> {probability(one.logprob)}{one.token === sampled && ', sampled'}
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

const probability = (logprob) => percent(Math.exp(logprob));
const visible = (text) => text.replaceAll(' ', '␣').replaceAll('\n', '⏎').replaceAll('\t', '⇥');
