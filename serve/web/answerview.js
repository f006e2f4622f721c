// One answer on the page: its text, its weights, and how it came about.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { speed } from "./answer.js";
import { asDuration, asValue } from "./format.js";

const DECIDED = { router: "the router", request: "you", static: "nobody: the same for every prompt" };

/** The card of an arm. kind: "static" or "dynamic". answer: null before the first question. */
export function answerCard({ kind, title, subtitle, answer }) {
  const busy = answer?.state === "waiting" || answer?.state === "streaming";
  return html`
    <article class="card answer ${kind}" aria-labelledby="title-${kind}" aria-busy=${busy ? "true" : "false"}>
      <header>
        <div>
          <h2 id="title-${kind}">${title}</h2>
          <p class="quiet">${subtitle}</p>
        </div>
        ${answer ? html`<span class="badge ${answer.state}">${answer.state}</span>` : nothing}
      </header>
      ${answer ? shown(answer, busy) : html`<p class="placeholder">The answer appears here.</p>`}
    </article>`;
}

function shown(answer, busy) {
  const empty = html`<span class="quiet">(no text)</span>`;
  const { text, problem, routing, finish } = answer;
  return html`
    <div class="text ${busy ? "growing" : ""}">${text || busy ? text : empty}</div>
    ${problem ? html`<p class="problem">${problem}</p>` : nothing}
    ${finish === "length" ? html`<p class="quiet">Cut off at the limit of tokens.</p>` : nothing}
    ${routing ? html`${mixture(routing)} ${facts(answer)}` : nothing}`;
}

function mixture({ mixture: weights, source }) {
  const added = Object.entries(weights).sort(([, a], [, b]) => b - a);
  const none = source === "static" ? "One merged model, no expert added" : "The shared base alone";
  return html`
    <h3>Weights</h3>
    ${added.length ? html`<ul class="bars" role="list">${added.map(bar)}</ul>` : html`<p>${none}</p>`}`;
}

function bar([task, weight]) {
  const width = `${100 * Math.min(1, Math.abs(weight))}%`;
  return html`
    <li>
      <span class="name">${task}</span>
      <svg aria-hidden="true"><rect width=${width} height="100%" rx="3"></rect></svg>
      <span class="number">${weight.toFixed(2)}</span>
    </li>`;
}

function decided({ source, mixture }) {
  if (source === "router" && !Object.keys(mixture).length) return "the router, which trusts no expert here";
  return DECIDED[source] ?? source;
}

function facts(answer) {
  const { routing, first, tokens } = answer;
  const rate = speed(answer);
  const rows = [
    ["First token", first === null ? "–" : asDuration(first)],
    ["Speed", rate === null ? "–" : `${asValue(rate)} tokens/s`],
    ["Length", tokens === null ? "–" : `${tokens} ${tokens === 1 ? "token" : "tokens"}`],
    ["Confidence", routing.confidence?.toFixed(2) ?? "router not asked"],
    ["Chosen by", decided(routing)],
    ["Arm", `${routing.arm}, generation ${routing.generation}`],
  ];
  return html`
    <dl class="facts">
      ${rows.map(([term, told]) => html`<div><dt>${term}</dt><dd>${told}</dd></div>`)}
    </dl>`;
}
