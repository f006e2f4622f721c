// One drawing of the page for all that changed since the last frame.

let draw = () => {};
let due = false;

/** Names the function that draws the page. */
export function drawBy(drawing) {
  draw = drawing;
}

/** Has the page drawn at the next frame. */
export function redraw() {
  if (due) return;
  due = true;
  requestAnimationFrame(() => {
    due = false;
    draw();
  });
}

/** Has a screen reader say a sentence; the same one again is said again. */
export function say(sentence) {
  const region = document.getElementById("said");
  region.textContent = region.textContent === sentence ? `${sentence}\u00a0` : sentence;
}
