/** What the server reports about a finished answer. */

import { fixed, inWords, mean, percent } from './answer.js';
import { Labels, byProbability } from './labels.jsx';
import { Abstention, Confidence, Semantic, Vote } from './selective.jsx';

export function Summary({ answer }) {
  if (!answer.done) return null;
  const { report, tokens } = answer;
  if (report?.inquiry) return <Inquiry report={report.inquiry} seconds={answer.seconds} />;
  const entropy = report?.entropy_mean ?? mean(tokens.map((one) => one.entropy));
  const temperature = report?.temperature_mean ?? mean(tokens.map((one) => one.temperature));
  const rows = {
    tokens: report?.num_tokens ?? tokens.length,
    seconds: `${answer.seconds.toFixed(2)}${answer.first === null ? '' : `, first text after ${answer.first.toFixed(2)}`}`,
    entropy: `mean ${fixed(entropy)}, highest ${fixed(report?.entropy_max)} nats`,
    ...(report?.sampled_entropy_mean != null && {
      'entropy at T': `mean ${fixed(report.sampled_entropy_mean)} nats`,
    }),
    temperature: `mean ${fixed(temperature)}, T0 ${fixed(report?.base_temperature)}`,
    heated: percent(report?.share_heated),
    cooled: percent(report?.share_cooled),
    ...(report?.law && { law: report.law }),
    ...(report?.truncation && { truncation: report.truncation }),
    ...(report?.profile && { profile: report.profile }),
    ...(report?.num_clamped != null && { 'not at target': `${report.num_clamped} tokens` }),
    end: answer.finish ?? 'stopped',
  };
  return (
    <>
      {report?.difficulty && <Difficulty report={report.difficulty} />}
      {report?.abstain && <Abstention report={report.abstain} />}
      {report?.confidence && <Confidence report={report.confidence} />}
      {report?.vote && <Vote report={report.vote} />}
      {report?.semantic && <Semantic report={report.semantic} />}
      <dl class="summary">
        {Object.entries(rows).map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {report?.steering?.map((one, i) => <Steering key={i} report={one} />)}
      {report?.fallback && <p class="warning">Not applied or not measured: {report.fallback}</p>}
    </>
  );
}

function Difficulty({ report }) {
  const { label, probabilities, mode, source, strategy } = report;
  const share = probabilities?.[label] === undefined ? '' : ` (${percent(probabilities[label])})`;
  return (
    <p class="badge">
      <strong>Difficulty: {label ?? 'unknown'}{share}</strong>
      {strategy && (
        <>
          {mode === 'shadow' ? ', would apply: ' : ', strategy: '}
          {strategy.temperature !== null && `T0 ${strategy.temperature}, `}
          at most {strategy.max_tokens} tokens{strategy.prompt && ', added text'}
        </>
      )}
      , decided by {source}
      {report.price != null && ` at price ${report.price}`}
      {Object.entries(report.expected_accuracy ?? {}).map(([name, accuracy]) => (
        <span key={name} class="row">
          {name}: predicted accuracy {percent(accuracy)}, {fixed(report.expected_tokens?.[name], 0)} tokens
        </span>
      ))}
    </p>
  );
}

function Steering({ report }) {
  const amount = ['strength', 'strength_relative', 'clamp'].find((name) => report[name] != null);
  return (
    <p class="badge">
      <strong>Steering: {report.vector}</strong>, {amount} {String(report[amount])}, layers {report.layers.join(', ')}
    </p>
  );
}

function Inquiry({ report, seconds }) {
  const inSet = new Set(report.prediction_set);
  const labels = Object.entries(report.probabilities)
    .map(([label, probability]) => ({ label, probability, inSet: inSet.has(label) }));
  return (
    <section class="inquiry" aria-label="Inquiry">
      <p class="badge">
        <strong>
          {report.action === 'answer' ? `Answer: ${report.label}` : `Question ${report.turn}`}
        </strong>
        , {report.prediction_set.length} of {labels.length} labels in the prediction set at
        {' '}{percent(report.confidence_level)}, {seconds.toFixed(2)} s
        {report.reason && `, stopped: ${report.reason}`}
        {!report.calibrated && ', not calibrated for this history'}
      </p>
      <Labels name="Labels by probability" options={byProbability(labels)} />
      {report.expected_size != null && (
        <p class="note">Expected size of the set after the next answer: {fixed(report.expected_size)}</p>
      )}
    </section>
  );
}

/** Sizes of the prediction set, turn by turn. */
export function SetSizes({ turns }) {
  const sizes = turns.map(({ answer }) => answer.report?.inquiry?.prediction_set.length);
  const known = sizes.filter((size) => size !== undefined);
  return known.length > 1 ? <p class="sizes">Prediction set: {known.join(' → ')} labels</p> : null;
}

/** For screen readers: when an answer starts, and one sentence when it ends. */
export function Status({ turn }) {
  const text = !turn ? '' : turn.answer.done ? (turn.answer.error ? '' : inWords(turn.answer)) : 'Answering…';
  return <p role="status" class="note">{text}</p>;
}
