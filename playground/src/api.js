/** Requests to the server. The API key is kept in this module's memory and nowhere else. */

let key = '';

export function setKey(value) {
  key = value.trim();
}

/** An error answer; `param` is the path of the field that the server refuses. */
export class ApiError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.param = error.param ?? null;
  }
}

async function request(path, options = {}) {
  const headers = { 'Content-Type': 'application/json' };
  if (key) headers.Authorization = `Bearer ${key}`;
  const response = await fetch(path, { ...options, headers }).catch((error) => {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, { message: 'The server does not answer.' });
  });
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  const unknown = { message: `The server answers ${response.status}.` };
  throw new ApiError(response.status, body.error ?? unknown);
}

export async function get(path) {
  return (await request(path)).json();
}

export async function post(path, body) {
  return (await request(path, { method: 'POST', body: JSON.stringify(body) })).json();
}

/** The chunks of a streamed chat completion. */
export async function* chat(body, signal) {
  const options = { method: 'POST', body: JSON.stringify(body), signal };
  const response = await request('v1/chat/completions', options);
  for await (const data of events(response.body)) {
    if (data === '[DONE]') return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.code ?? 500, chunk.error);
    yield chunk;
  }
}

/** The `data` lines of a stream of server-sent events. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split('\n');
      rest = lines.pop();
      for (const line of lines) if (line.startsWith('data: ')) yield line.slice(6).trimEnd();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
