// One answer: asked for, streamed, timed.

import { events, Refusal } from "./api.js";
import { redraw } from "./redraw.js";

/** An answer that is still to come. state: waiting, streaming, done, stopped or failed. first, last: when
 * text came, in ms after the request was sent. tokens: of the answer, known at its end. */
export function begun(model) {
  const unknown = { routing: null, first: null, last: null, tokens: null, finish: null };
  return { model, state: "waiting", text: "", ...unknown };
}

/** Fills `answer` as `body` is answered; never throws. signal: an AbortSignal that stops it. */
export async function fill(answer, body, signal) {
  const sent = performance.now();
  try {
    for await (const { data } of events("v1/chat/completions", { body, signal })) {
      if (data === "[DONE]") break;
      take(answer, JSON.parse(data), performance.now() - sent);
      redraw();
    }
    // Without an end the connection broke quietly, and what stands there is not the answer.
    if (!answer.finish) throw new Refusal(0, "The answer broke off. Is the server still running?");
    answer.state = "done";
  } catch (error) {
    answer.state = signal.aborted ? "stopped" : "failed";
    if (!signal.aborted) answer.problem = error.message;
  }
  redraw();
}

function take(answer, chunk, moment) {
  // A stream has begun as a success; what goes wrong later comes as an event.
  if (chunk.error) throw new Refusal(500, chunk.error.message);
  const choice = chunk.choices[0];
  if (choice?.routing) answer.routing = choice.routing;
  if (choice?.finish_reason) answer.finish = choice.finish_reason;
  if (choice?.delta.content) {
    answer.first ??= moment;
    answer.last = moment;
    answer.text += choice.delta.content;
    answer.state = "streaming";
  }
  if (chunk.usage) answer.tokens = chunk.usage.completion_tokens;
}

/** Tokens a second behind the first; null where there were too few to tell. */
export function speed(answer) {
  const seconds = (answer.last - answer.first) / 1000;
  return answer.tokens > 1 && seconds > 0 ? (answer.tokens - 1) / seconds : null;
}
