/** How sure the server is of an answer: confidence, abstention, votes, clusters of meaning. */

import { fixed, percent } from './answer.js';

export function Confidence({ report }) {
  const { probability, high_entropy: disagree, outside, out_of_distribution: unlike } = report;
  return (
    <section class="badge" aria-label="Confidence">
      <strong>Confidence{probability != null && `: right with ${percent(probability)}`}</strong>
      {disagree != null && `, answers disagree with ${percent(disagree)}`}
      , self-certainty mean {fixed(report.self_certainty_mean)}, lowest window
      {' '}{fixed(report.self_certainty_window_min)} nats; least probable token
      {' '}{report.logprob_min == null ? '–' : percent(Math.exp(report.logprob_min))}
      {outside?.length > 0 && <p class="warning">Beyond the training data: {outside.join(', ')}</p>}
      {unlike && <p class="warning">The question is unlike the training questions.</p>}
    </section>
  );
}

const PROMISES = {
  joint: ({ alpha }) => `given and wrong in at most ${percent(alpha)} of all questions`,
  selective: ({ alpha, delta }) => `at most ${percent(alpha)} of the given answers are wrong, except with probability ${delta}`,
};

export function Abstention({ report }) {
  const { abstained, uncertainty, threshold, answer } = report;
  return (
    <section class="badge" aria-label="Abstention">
      <strong>{abstained ? 'Declined' : 'Answered'}</strong>: uncertainty {fixed(uncertainty, 3)},
      {threshold == null ? ' the calibration allows no answer' : ` at most ${fixed(threshold, 3)} is answered`}.
      {' '}Promise: {PROMISES[report.promise](report)}, over {report.questions} questions.
      {answer != null && <p class="withheld">Not given: {answer}</p>}
    </section>
  );
}

export function Vote({ report }) {
  const { weak = 0, threshold } = report;
  const voters = report.finished - weak;
  const aborted = report.stopped === 'none' ? '' : `, the rest aborted (${report.stopped})`;
  return (
    <section aria-label="Vote">
      <p class="badge">
        <strong>Vote: {report.answer ?? 'no answer'}</strong>, {percent(report.agreement)} of
        {' '}{plural(voters, 'sample')}{aborted}, {report.tokens} tokens
      </p>
      <Shares
        of="votes"
        rows={report.table.map(({ answer, votes }) => ({ answer, share: votes / voters, shown: votes }))}
      />
      {report.no_answer > 0 && <p class="note">{plural(report.no_answer, 'sample')} without an answer</p>}
      {threshold != null && (
        <p class="note">
          {plural(weak, 'sample')} without a vote: lowest window of self-certainty below {fixed(threshold)} nats
        </p>
      )}
    </section>
  );
}

const plural = (number, noun) => `${number} ${noun}${number === 1 ? '' : 's'}`;

export function Semantic({ report }) {
  return (
    <section aria-label="Semantic clusters">
      <p class="badge">
        <strong>Semantic entropy: {fixed(report.entropy)} nats</strong>, {percent(report.agreement)} of
        {' '}{report.n} samples agree, {report.tokens} tokens
        {report.saturated && '; all samples differ, so the entropy says nothing'}
      </p>
      <Shares
        of="share"
        rows={report.clusters.map(({ answer, share }) => ({ answer, share, shown: percent(share) }))}
      />
    </section>
  );
}

function Shares({ of, rows }) {
  return (
    <table>
      <thead><tr><th scope="col">answer</th><th scope="col">{of}</th></tr></thead>
      <tbody>
        {rows.map(({ answer, share, shown }, i) => (
          <tr key={i} style={{ '--share': `${100 * share}%` }}>
            <td>{answer ?? 'no answer'}</td>
            <td>{shown}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}
