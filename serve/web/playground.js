// The playground: one prompt, answered by the static and the dynamic model side by side.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { begun, fill } from "./answer.js";
import { answerCard } from "./answerview.js";
import { served } from "./models.js";
import { pinnedFields, pinnedMixture } from "./pinned.js";
import { redraw, say } from "./redraw.js";

const form = { prompt: "", tokens: 256, temperature: 0 };
const answers = { static: null, dynamic: null };
let stopper = null; // an AbortController while anything runs

/** The whole view. */
export function playground() {
  const problems = new Set(Object.values(answers).map((answer) => answer?.problem).filter(Boolean));
  const id = (kind) => `${served.name ?? "NAME"}:${kind}`;
  return html`
    <h1 tabindex="-1">Playground</h1>
    <p class="lead">One prompt, two ways to merge: the <b class="static">static</b> model has the same weights
      for every prompt, the <b class="dynamic">dynamic</b> one composes them for this one.</p>
    <form class="card ask" @submit=${submit} @keydown=${shortcut}>
      ${examples()}
      <label for="prompt">Prompt</label>
      <textarea id="prompt" rows="4" required .value=${form.prompt} @input=${keep("prompt")}
        aria-describedby="shortcut"></textarea>
      ${pinnedFields()}
      <div class="row">
        ${number("tokens", "Tokens at most", { min: 1, max: 100000, step: 1 })}
        ${number("temperature", "Temperature", { min: 0, max: 2, step: 0.1 })}
        <div class="actions">
          <span id="shortcut" class="quiet">Ctrl + Enter asks</span>
          <button type="button" ?disabled=${!stopper} @click=${stop}>Stop</button>
          <button class="primary" ?disabled=${stopper || !served.name}>Ask both</button>
        </div>
      </div>
    </form>
    <div role="alert">
      ${[...problems].map((problem) => html`<p class="notice problem">${problem}</p>`)}
    </div>
    ${verdict()}
    <div class="pair">
      ${answerCard({ kind: "static", title: "Static", subtitle: id("static"), answer: answers.static })}
      ${answerCard({ kind: "dynamic", title: "Dynamic", subtitle: id("dynamic"), answer: answers.dynamic })}
    </div>
    <p class="quiet">Times are measured in this browser, of two answers that share the server.</p>`;
}

/** Ends what runs; for a view that is left, too. */
export function stop() {
  stopper?.abort();
}

function examples() {
  if (!served.examples.length) return nothing;
  const tasks = [...new Set(served.examples.map((example) => example.task))];
  const take = ({ target }) => {
    form.prompt = served.examples[target.value].prompt;
    redraw();
  };
  const group = (task) => html`
    <optgroup label=${task}>
      ${served.examples.map((example, place) => example.task === task
        ? html`<option value=${place}>${brief(example.prompt)}</option>` : nothing)}
    </optgroup>`;
  return html`
    <label for="example">Example</label>
    <select id="example" @change=${take}>
      <option value="" disabled selected>Take a prompt of …</option>
      ${tasks.map(group)}
    </select>`;
}

function brief(prompt) {
  // The last line: templates begin alike.
  const line = prompt.trim().split("\n").at(-1);
  return line.length > 80 ? `${line.slice(0, 79)}…` : line;
}

function number(field, label, { min, max, step }) {
  return html`
    <div class="field">
      <label for=${field}>${label}</label>
      <input id=${field} type="number" required min=${min} max=${max} step=${step}
        .value=${String(form[field])} @input=${keep(field)}>
    </div>`;
}

function verdict() {
  if (answers.static?.state !== "done" || answers.dynamic?.state !== "done") return nothing;
  const same = answers.static.text === answers.dynamic.text;
  return html`<p class="verdict">${same ? "Both answers are the same." : "The answers differ."}</p>`;
}

function keep(field) {
  return ({ target }) => {
    form[field] = target.value;
  };
}

function shortcut(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.currentTarget.requestSubmit();
}

async function submit(event) {
  event.preventDefault();
  if (stopper || !served.name) return;
  stopper = new AbortController();
  const { signal } = stopper;
  for (const kind of Object.keys(answers)) answers[kind] = begun(`${served.name}:${kind}`);
  redraw();
  say("Asked. Both answers are on their way.");
  await Promise.all(Object.values(answers).map((answer) => fill(answer, body(answer.model), signal)));
  stopper = null;
  redraw();
  say(told());
}

function body(model) {
  return {
    model,
    messages: [{ role: "user", content: form.prompt }],
    max_tokens: Number(form.tokens),
    temperature: Number(form.temperature),
    stream: true,
    stream_options: { include_usage: true },
    ...(model.endsWith(":dynamic") ? { mixture: pinnedMixture() } : {}),
  };
}

function told() {
  const of = ({ state, text, problem }) => ({ done: text, stopped: "stopped" })[state] ?? problem;
  return `Static: ${of(answers.static)} Dynamic: ${of(answers.dynamic)}`;
}
