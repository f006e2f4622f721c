// The report of one experiment: the decision, its arms, what differs between them, and where.

import { html, nothing } from "./vendor/lit-html/lit-html.js";
import { asCount, asEffect, asInterval, asMoment, asPercent, asRelative, asShares, asValue } from "./format.js";
import "./effectchart.js";

// Of the words of a decision or a status, those that are good news, and those that are bad.
const GOOD = /^(ok|better)$/i;
const BAD = /^(broken|worse)$/i;

/** Everything that a report tells. live: whether it changes by itself. */
export function reportView(report, live) {
  const { arms = [], metrics = [], guardrails = [], tasks = [], shadow, notes = [] } = report;
  return html`
    <section class="report" aria-labelledby="experiment">
      <header>
        <h2 id="experiment">${report.name}</h2>
        <span class="badge ${report.state}">${report.state}</span>
        <span class="quiet">version ${report.version}</span>
        <span class="live quiet">
          ${live ? html`<span class="dot" aria-hidden="true"></span><span>live</span>` : "not live"}
        </span>
      </header>
      ${alarm(report.srm)}
      ${report.decision
        ? html`<p class="decision"><span class="quiet">Decision</span> ${report.decision}</p>` : nothing}
      ${report.canary ? html`<p>${report.canary[0].toUpperCase()}${report.canary.slice(1)}.</p>` : nothing}
      <div class="card">
        <h3>Arms</h3>
        ${armTable(arms, report.control)}
        ${ratio(report.srm)}
      </div>
      ${metrics.map((metric) => metricCard(metric, report))}
      ${guardrails.length
        ? html`<div class="card"><h3>Guardrails</h3>${guardrailTable(guardrails)}</div>` : nothing}
      ${tasks.length ? html`<div class="card"><h3>By routed task</h3>${taskTable(tasks)}</div>` : nothing}
      ${shadow ? shadowCard(shadow) : nothing}
      ${notes.map((note) => html`<p class="quiet">${note}</p>`)}
    </section>`;
}

function alarm(srm) {
  if (!srm?.alarm) return nothing;
  return html`
    <p class="notice problem" role="alert">The arms did not get the shares of users that they should have
      (p = ${asValue(srm.p_value)}). Find out why before you believe anything below.</p>`;
}

function ratio(srm) {
  if (!srm || srm.alarm || srm.p_value === null) return nothing;
  return html`<p class="quiet">Users are shared as planned (sample ratio: p = ${asValue(srm.p_value)}).</p>`;
}

function armTable(arms, control) {
  return table("Arms", ["Arm", "Model", "# Share", "# Units", "# Responses"], arms.map((arm) => [
    html`${arm.name} ${arm.name === control ? html`<span class="badge">control</span>` : nothing}`,
    html`<code>${arm.model}</code>`, asPercent(arm.share), asCount(arm.units), asCount(arm.responses),
  ]));
}

function metricCard(metric, report) {
  // An experiment that just began has metrics and no figures.
  const { name, direction, unit, guardrail, level, arms = [] } = metric;
  const way = { higher: "higher is better", lower: "lower is better" }[direction];
  const series = byArm(report.over_time?.[name] ?? []);
  const intervals = ["# One-look interval", "# Always-valid interval"];
  const columns = ["Arm", "# Mean", "# Effect", "# Relative", ...intervals, "Decision"];
  const rows = arms.map((arm) => [
    arm.arm, asValue(arm.mean), asEffect(arm.effect), asRelative(arm.relative), asInterval(arm.low, arm.high),
    asInterval(arm.always_valid_low, arm.always_valid_high), judged(arm.decision),
  ]);
  const about = [
    way, typeof guardrail === "number" ? `guardrail ${asPercent(guardrail)}` : null,
    level ? `${asPercent(level)} intervals` : null,
  ];
  return html`
    <div class="card">
      <h3>${named(name, unit)} <span class="quiet">${about.filter(Boolean).join(", ")}</span></h3>
      ${rows.length ? table(`${name} by arm`, columns, rows) : html`<p class="quiet">No figures yet.</p>`}
      ${series.length ? overTime(name, unit, report.control, series) : nothing}
    </div>`;
}

function overTime(name, unit, control, series) {
  const title = `Effect on ${named(name, unit)} against ${control} over time, with its always-valid interval`;
  const rows = series.flatMap(({ arm, points }) => points.map((point) => [
    asMoment(point.moment), arm, asEffect(point.effect), asInterval(point.low, point.high),
  ]));
  return html`
    <figure>
      <figcaption>
        ${title}
        ${series.map(({ arm }, place) => html`<span class="key-of arm-${place % 4}">${arm}</span>`)}
      </figcaption>
      <effect-chart role="img" aria-label="${title}; the table below has the same numbers" .series=${series}>
      </effect-chart>
      <details><summary>The same as a table</summary>
        ${table(title, ["Moment", "Arm", "# Effect", "# Interval"], rows)}
      </details>
    </figure>`;
}

function named(metric, unit) {
  return unit ? `${metric} (${unit})` : metric;
}

function byArm(points) {
  const arms = [...new Set(points.map((point) => point.arm))];
  return arms.map((arm) => ({ arm, points: points.filter((point) => point.arm === arm) }));
}

function guardrailTable(guardrails) {
  return table("Guardrails", ["Metric", "Arm", "# Worse by", "# Limit", "Status"], guardrails.map((one) => [
    one.metric, one.arm, asRelative(one.value), asPercent(one.limit), judged(one.status),
  ]));
}

function taskTable(tasks) {
  const columns = ["Task", "Arm", "Metric", "# Units", "# Mean", "# Effect", "# Interval"];
  return table("By routed task", columns, tasks.map((one) => [
    taskName(one.task), one.arm, one.metric, asCount(one.units), asValue(one.mean),
    asEffect(one.effect), asInterval(one.low, one.high),
  ]));
}

function shadowCard({ arm, failed, rows }) {
  const columns = ["Task", "# Pairs", "# Same text", "# Interval", "# Latency (s)", "# Shadow's (s)"];
  return html`
    <div class="card">
      <h3>${arm} in the shadow</h3>
      ${table("Shadow", columns, rows.map((row) => [
        row.task === null ? "all" : taskName(row.task), asCount(row.pairs), asPercent(row.agreement),
        asShares(row.low, row.high), asValue(row.latency), asValue(row.shadow_latency),
      ]))}
      <p class="quiet">It answers the same requests, unseen; its latency is without waiting.
        ${failed ? `${asCount(failed)} of its answers failed.` : nothing}</p>
    </div>`;
}

function taskName(task) {
  return task === "base" ? "no expert trusted" : task;
}

function judged(word) {
  if (!word) return "–";
  const tone = GOOD.test(word) ? "good" : BAD.test(word) ? "bad" : "";
  return html`<span class="badge ${tone}">${word}</span>`;
}

/** A table that scrolls by itself where the screen is too narrow. "# " marks columns of numbers. */
function table(caption, columns, rows) {
  const numeric = columns.map((column) => (column.startsWith("# ") ? "number" : ""));
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label=${caption}>
      <table>
        <caption class="unseen">${caption}</caption>
        <thead><tr>${columns.map((column, place) => html`
          <th scope="col" class=${numeric[place]}>${column.replace("# ", "")}</th>`)}</tr></thead>
        <tbody>${rows.map(([first, ...rest]) => html`
          <tr><th scope="row">${first}</th>${rest.map((cell, place) => html`
            <td class=${numeric[place + 1]}>${cell}</td>`)}</tr>`)}</tbody>
      </table>
    </div>`;
}
