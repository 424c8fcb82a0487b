/** Options by probability, as bars; what the prediction set rules out is struck. */

import { percent } from './answer.js';

const SHOWN = 12;

/**
 * @param name What a screen reader calls the list.
 * @param options `{label, probability, inSet}`, the most probable first; `inSet` is null without a set.
 */
export function Labels({ name, options }) {
  const rest = options.length - SHOWN;
  return (
    <>
      <ul class="labels" aria-label={name}>
        {options.slice(0, SHOWN).map(({ label, probability, inSet }, i) => (
          <li
            key={i}
            class={inSet === false ? 'out' : 'in'}
            style={{ '--share': `${100 * probability}%` }}
          >
            {label} {percent(probability)}{inSet === false ? ' (not in the set)' : ''}
          </li>
        ))}
      </ul>
      {rest > 0 && <p class="note">and {rest} less probable labels</p>}
    </>
  );
}

export const byProbability = (options) => [...options].sort((a, b) => b.probability - a.probability);
