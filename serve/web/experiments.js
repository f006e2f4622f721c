// The experiments: which there are, and the report of one, live.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { events, json } from "./api.js";
import { redraw, say } from "./redraw.js";
import { reportView } from "./report.js";

const SOONEST = 1000; // ms to the next try of a stream that broke; doubled with each
const LATEST = 30000;

/** names: null before they are known. absent: whether this endpoint runs no experiments at all. */
const state = { names: null, absent: false, problem: null, chosen: null, report: null, live: false };
let follower = null; // an AbortController while a view is open

/** The whole view. */
export function experiments() {
  return html`
    <h1 tabindex="-1">Experiments</h1>
    <div role="alert">${state.problem ? html`<p class="notice problem">${state.problem}</p>` : nothing}</div>
    ${content()}`;
}

function content() {
  if (state.absent || state.names?.length === 0) return empty();
  if (!state.names) return state.problem ? nothing : html`<p class="quiet">Loading …</p>`;
  return html`
    <nav class="list" aria-label="Experiments of this endpoint">
      ${state.names.map(({ name, state: how }) => html`
        <a class="chip" href="#/experiments/${encodeURIComponent(name)}"
          aria-current=${name === state.chosen ? "page" : nothing}>
          ${name} <span class="quiet">${how}</span></a>`)}
    </nav>
    ${state.report ? reportView(state.report, state.live) : nothing}`;
}

function empty() {
  return html`
    <div class="card placeholder">
      <h2>No experiment runs here</h2>
      <p>An experiment gives each user one of several arms, as the static and the dynamic model, and measures
        which serves them better. Its arms, effects and guardrails appear on this page while it runs.</p>
    </div>`;
}

/** Shows the report of one experiment, by default the first that runs, and follows it. */
export async function open(name) {
  leave();
  const { signal } = (follower = new AbortController());
  Object.assign(state, { problem: null, chosen: name, report: null });
  try {
    state.names = (await json("v1/experiments", { signal })).data;
    state.absent = false;
    state.chosen ??= (state.names.find((one) => one.state === "running") ?? state.names[0])?.name ?? null;
    redraw();
    if (state.chosen) await follow(`v1/experiments/${encodeURIComponent(state.chosen)}`, signal);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === 404 && !state.chosen) state.absent = true;
    else state.problem = error.message;
  }
  redraw();
}

/** Ends what is followed. */
export function leave() {
  follower?.abort();
}

async function follow(path, signal) {
  for (let pause = SOONEST; ; pause = Math.min(LATEST, 2 * pause)) {
    const opened = () => {
      state.live = true;
      pause = SOONEST;
      redraw();
    };
    try {
      // Whole each time: what was told between two streams would be missed.
      show(await json(path, { signal }));
      for await (const { event, data } of events(`${path}/events`, { signal, opened })) {
        if (event === "report") show(JSON.parse(data));
      }
    } catch (error) {
      const refused = error.status >= 400 && error.status < 500 && error.status !== 429;
      // What breaks or is overloaded comes back; a refusal would be the same again. A report that came can be
      // read all the same.
      if (refused && !state.report) throw error;
      if (signal.aborted || refused) return;
    } finally {
      state.live = false;
      redraw();
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
    if (signal.aborted) return;
  }
}

function show(report) {
  if (state.report && report.decision !== state.report.decision) say(report.decision);
  state.report = report;
  redraw();
}
