// The endpoint's API as this page asks it: with the key of this tab, and with refusals as sentences.

import { createParser } from "./vendor/eventsource-parser/parse.js";

const STORED = "twinserve-key";

/** The API key, kept by the browser until the tab is closed; "" where there is none. */
export const key = {
  get: () => sessionStorage.getItem(STORED) ?? "",
  set: (secret) => (secret ? sessionStorage.setItem(STORED, secret) : sessionStorage.removeItem(STORED)),
};

/** Why there is no answer, in words for people. status: HTTP's, 0 where the server was not reached. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A response with status 200. A body makes it a POST. Throws Refusal, or AbortError by the signal. */
async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  if (body) headers["content-type"] = "application/json";
  const method = body ? "POST" : "GET";
  let response;
  try {
    // Relative: a proxy may have put the endpoint below a path of its own.
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw unreached(error);
  }
  if (response.ok) return response;
  throw new Refusal(response.status, await reason(response));
}

/** The JSON of a response. */
export async function json(path, options) {
  return (await ask(path, options)).json();
}

/** The server-sent events of a response, `{event, data}` each, as they come. opened: called once they may. */
export async function* events(path, { opened = () => {}, ...options }) {
  const response = await ask(path, options);
  opened();
  const come = [];
  const parser = createParser({ onEvent: (event) => come.push(event) });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      parser.feed(value);
      yield* come.splice(0);
    }
  } catch (error) {
    throw unreached(error);
  } finally {
    // A consumer that leaves early wants the server to know; a stream that broke has nothing to cancel.
    reader.cancel().catch(() => {});
  }
}

function unreached(error) {
  // fetch's own word for a connection that failed; all else keeps its name.
  return error instanceof TypeError ? new Refusal(0, "The server cannot be reached. Is it running?") : error;
}

async function reason(response) {
  if (response.status === 401) {
    return key.get()
      ? "The server does not know this API key. Give another one under “API key”."
      : "The server asks for an API key. Give yours under “API key”.";
  }
  const told = await response.json().catch(() => null);
  return told?.error?.message ?? `The server answered ${response.status} ${response.statusText}.`;
}
