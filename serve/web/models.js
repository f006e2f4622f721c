// What the endpoint serves, as it tells whoever may ask.

import { json } from "./api.js";
import { redraw } from "./redraw.js";

const AGAIN = 2000; // ms, while a bundle loads

/** name: the model id that stands for the bundle. tasks: of its experts. examples: prompts to pick.
 * problem: why nothing is known yet, in words. locked: whether a key would help. */
export const served = { name: null, tasks: [], examples: [], problem: null, locked: false };

let waiting = null;

/** Reads it anew, and again and again while the server is not there or loads. */
export async function learn() {
  clearTimeout(waiting);
  try {
    const [models, examples] = await Promise.all([json("v1/models"), json("v1/examples")]);
    const ids = models.data.map((model) => model.id);
    const name = ids[0];
    const own = ids.filter((id) => id.startsWith(`${name}:`)).map((id) => id.slice(name.length + 1));
    const tasks = own.filter((task) => task !== "dynamic" && task !== "static");
    Object.assign(served, { name, tasks, examples: examples.data, problem: null, locked: false });
  } catch (error) {
    Object.assign(served, { problem: error.message, locked: error.status === 401 });
    if (error.status === 0 || error.status === 503) waiting = setTimeout(learn, AGAIN);
  }
  redraw();
}
