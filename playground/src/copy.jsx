/** The current request, to run elsewhere. */

import { useState } from 'preact/hooks';

/**
 * @param languages Functions by name that make a program of a request.
 * @param body A function that returns the request as it would be sent now.
 */
export function CopyAs({ languages, body }) {
  const [shown, show] = useState(null);
  const copy = async (name) => {
    const text = languages[name](body(), new URL('.', location.href).href);
    // The clipboard exists only on secure origins and on this machine; the text is shown anyway.
    const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    show({ name, text, copied });
  };
  return (
    <details class="panel">
      <summary>Copy the request as a program</summary>
      {Object.keys(languages).map((name) => (
        <button key={name} type="button" onClick={() => copy(name)}>{name}</button>
      ))}
      <p role="status" class="note">
        {shown && (shown.copied ? `${shown.name} copied.` : 'Select the text to copy it.')}
      </p>
      {shown && <pre tabIndex="0" aria-label={`${shown.name} program`}>{shown.text}</pre>}
    </details>
  );
}
