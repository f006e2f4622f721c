// The mixture that a person pins instead of the router's choice.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { redraw } from "./redraw.js";
import { served } from "./models.js";

// On the grid that the endpoint rounds mixtures to, 1/64, so that what is asked for is what answers.
const STEP = 1 / 32;

/** on: whether it replaces the router. weights: task -> weight, those not named are 0. */
const pinned = { on: false, weights: {} };

/** The pinned mixture as the API takes it; undefined where the router decides. */
export function pinnedMixture() {
  if (!pinned.on) return undefined;
  const known = served.tasks.filter((task) => pinned.weights[task]);
  return Object.fromEntries(known.map((task) => [task, pinned.weights[task]]));
}

/** Radio buttons, and a slider for each expert. */
export function pinnedFields() {
  return html`
    <fieldset class="weights">
      <legend>Who weighs the experts of the dynamic answer?</legend>
      <div class="choice">${radio(false, "The router, for each prompt")} ${radio(true, "I do")}</div>
      ${pinned.on ? sliders() : nothing}
    </fieldset>`;
}

function radio(on, label) {
  const choose = () => {
    pinned.on = on;
    redraw();
  };
  return html`
    <label><input type="radio" name="weigh" .checked=${pinned.on === on} @change=${choose}> ${label}</label>`;
}

function sliders() {
  return html`
    <div class="alone">
      <span id="alone">One alone:</span>
      ${served.tasks.map((task) => chip(task, { [task]: 1 }))}
      ${chip("none: the shared base", {})}
    </div>
    <div class="sliders">${served.tasks.map(slider)}</div>`;
}

function chip(label, weights) {
  const set = () => weigh(weights);
  return html`<button type="button" class="chip" aria-describedby="alone" @click=${set}>${label}</button>`;
}

function slider(task, place) {
  const weight = pinned.weights[task] ?? 0;
  const change = ({ target }) => weigh({ ...pinned.weights, [task]: Number(target.value) });
  return html`
    <div>
      <label for="weight-${place}">${task}</label>
      <output for="weight-${place}">${weight.toFixed(2)}</output>
      <input id="weight-${place}" type="range" min="0" max="1" step=${STEP} .value=${String(weight)}
        @input=${change}>
    </div>`;
}

function weigh(weights) {
  pinned.weights = weights;
  redraw();
}
