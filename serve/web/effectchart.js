// <effect-chart>: effects over time as lines, each in the band of its interval, drawn by uPlot.

/* global uPlot */

const HEIGHT = 220;
const dark = matchMedia("(prefers-color-scheme: dark)");

/** series: `{arm, points: [{moment, effect, low, high}]}` each, moments in seconds since 1970. */
class EffectChart extends HTMLElement {
  #series = [];
  #plot = null;
  #sizes = new ResizeObserver(() => this.#plot?.setSize({ width: this.clientWidth, height: HEIGHT }));
  #repaint = () => this.#draw();

  set series(series) {
    this.#series = series;
    if (this.isConnected) this.#draw();
  }

  connectedCallback() {
    this.#draw();
    this.#sizes.observe(this);
    dark.addEventListener("change", this.#repaint);
  }

  disconnectedCallback() {
    this.#sizes.disconnect();
    dark.removeEventListener("change", this.#repaint);
    this.#plot?.destroy();
    this.#plot = null;
  }

  #draw() {
    this.#plot?.destroy();
    // A canvas knows no style sheet: the colours are looked up, anew where light and dark change.
    const style = getComputedStyle(this);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const grid = { stroke: colour("line"), width: 1 };
    const axis = { stroke: colour("quiet"), grid, ticks: { show: false } };
    const lines = this.#series.flatMap((_, place) => {
      const stroke = colour(`arm-${place % 4}`);
      return [{ stroke, width: 2, points: { show: false } }, { width: 0, points: { show: false } },
        { width: 0, points: { show: false } }];
    });
    const bands = this.#series.map((_, place) => ({
      series: [3 * place + 3, 3 * place + 2],
      fill: `color-mix(in srgb, ${colour(`arm-${place % 4}`)} 18%, transparent)`,
    }));
    const options = {
      width: this.clientWidth, height: HEIGHT, legend: { show: false }, cursor: { show: false },
      scales: { y: { range: withZero } },
      axes: [axis, { ...axis, size: 56, space: 24 }],
      series: [{}, ...lines], bands, hooks: { drawAxes: [(plot) => zero(plot, colour("quiet"))] },
    };
    this.#plot = new uPlot(options, this.#data(), this);
  }

  /** One list of moments for all arms, and for each arm its effects, lower and upper ends at them. */
  #data() {
    const moments = [...new Set(this.#series.flatMap(({ points }) => points.map((point) => point.moment)))];
    moments.sort((a, b) => a - b);
    const columns = this.#series.flatMap(({ points }) => {
      const at = new Map(points.map((point) => [point.moment, point]));
      const column = (field) => moments.map((moment) => at.get(moment)?.[field] ?? null);
      return ["effect", "low", "high"].map(column);
    });
    return [moments, ...columns];
  }
}

/** A range that shows the line of no effect, wherever the effects are. */
function withZero(_, low, high) {
  return uPlot.rangeNum(Math.min(low, 0), Math.max(high, 0), 0.1, true);
}

/** The line of no effect, which is what intervals are held against. */
function zero(plot, colour) {
  const { ctx, bbox } = plot;
  const y = plot.valToPos(0, "y", true);
  ctx.save();
  ctx.strokeStyle = colour;
  ctx.setLineDash([6, 4]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.restore();
}

customElements.define("effect-chart", EffectChart);
