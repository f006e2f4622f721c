// The page: its head, which view is shown, and who asks.

import { html, nothing, render } from "./vendor/lit-html/lit-html.js";
import { key } from "./api.js";
import { experiments, leave, open } from "./experiments.js";
import { learn, served } from "./models.js";
import { playground, stop } from "./playground.js";
import { drawBy, redraw, say } from "./redraw.js";

const VIEWS = { "": "Playground", experiments: "Experiments" };
let view = "";

function draw() {
  render(head(), document.getElementById("head"));
  render(html`${problem()} ${view ? experiments() : playground()}`, document.getElementById("main"));
}

function head() {
  return html`
    <div class="bar">
      <a class="brand" href="#/"><img src="web/icon.svg" alt="" width="24" height="24"> twinserve</a>
      ${served.name ? html`<span class="model" title="model">${served.name}</span>` : nothing}
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(([place, name]) => html`
          <a href="#/${place}" aria-current=${place === view ? "page" : nothing}>${name}</a>`)}
      </nav>
      <details class="key" ?open=${served.locked}>
        <summary>API key${key.get() ? html`<span class="badge done">set</span>` : nothing}</summary>
        <form class="card" @submit=${unlock}>
          <label for="key">API key</label>
          <input id="key" type="password" autocomplete="off" spellcheck="false" .value=${key.get()}
            aria-describedby="kept">
          <button class="primary">Use this key</button>
          <p id="kept" class="quiet">Kept in this tab until it is closed, and sent to this server alone.</p>
        </form>
      </details>
    </div>`;
}

function problem() {
  return html`<div role="alert">
    ${served.problem
      ? html`<p class="notice ${served.locked ? "problem" : ""}">${served.problem}</p>` : nothing}
  </div>`;
}

async function unlock(event) {
  event.preventDefault();
  key.set(event.target.querySelector("input").value.trim());
  await learn();
  if (served.problem) return;
  document.querySelector("details.key").open = false;
  say(`${served.name} may be asked.`);
  show();
}

function show() {
  const [, place = "", name] = location.hash.match(/^#\/([a-z]*)\/?(.*)$/) ?? [];
  const changed = view !== place;
  view = place in VIEWS ? place : "";
  document.title = `${VIEWS[view]} – twinserve`;
  if (view) {
    stop();
    open(name ? decodeURIComponent(name) : null);
  } else {
    leave();
  }
  redraw();
  // Else a keyboard or a screen reader would stay on the link that was followed.
  if (changed) requestAnimationFrame(() => document.querySelector("h1")?.focus());
}

drawBy(draw);
addEventListener("hashchange", show);
show();
learn();
