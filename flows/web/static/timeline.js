// The time line of one conversation: four charts over one axis of time, from the JSON of the view.
import { moment, zoneName } from "./app.js";

const box = document.getElementById("timeline");
const charts = [];
let data = null;
let range = null;

const { axis, boxes, clipped, color, hatch, limit, tint, upTo } = drawing;

function columns(windows) {
  // A window is drawn at its end. Where some are missing, a null breaks the line: silence is not zero.
  const out = { x: [], p50: [], p95: [], loss: [], mean: [], mos: [], genesys: [] };
  const slide = windows.length > 1 ? Math.min(...windows.slice(1).map((w, i) => w.end - windows[i].end).filter((d) => d > 0)) : 5;
  const push = (x, w) => {
    out.x.push(x);
    out.p50.push(w?.latency_ms?.p50 ?? null);
    out.p95.push(w?.latency_ms?.p95 ?? null);
    out.loss.push(w?.packet_loss ? w.packet_loss.max * 100 : null);
    out.mean.push(w?.packet_loss ? w.packet_loss.mean * 100 : null);
    out.mos.push(w?.mos?.value ?? null);
    out.genesys.push(w ? genesysMos(w.end) : null);
  };
  windows.forEach((w, i) => {
    if (i && w.end - windows[i - 1].end > slide * 1.5) push(windows[i - 1].end + slide / 2, null);
    push(w.end, w);
  });
  return out;
}

// Genesys' value is the lowest of a leg: it holds for all the time that the leg was measured, which is the call's.
function genesysMos(at) {
  const known = data.media.filter((one) => one.at >= at || one.at >= data.conversation.last - 10).map((one) => one.mos);
  return known.length ? Math.min(...known) : null;
}

function spans() {
  const end = Math.max(data.conversation.last, data.figures.now);
  return {
    gaps: data.gaps.map((gap) => [gap.start, gap.end ?? end]),
    incidents: data.conversation.incidents.filter((i) => i.lasting).map((i) => [i.raised, i.resolved ?? end]),
  };
}

function background(chart) {
  const { gaps, incidents } = spans();
  boxes(chart, gaps, hatch);
  boxes(chart, incidents, tint);
}

function lanes(chart) {
  const rules = [...new Set(data.conversation.incidents.map((i) => i.rule))];
  const { left, top, width, height } = chart.bbox;
  const lane = height / (rules.length + 1);
  const context = chart.ctx;
  context.save();
  context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "left";
  for (const incident of data.conversation.incidents) {
    const y = top + rules.indexOf(incident.rule) * lane;
    const end = incident.lasting ? incident.resolved ?? Math.max(data.conversation.last, data.figures.now) : incident.raised;
    const place = clipped(chart, incident.raised, Math.max(end, incident.raised + 0.5));
    if (!place) continue;
    context.fillStyle = color("--span");
    context.strokeStyle = color("--limit");
    context.lineWidth = (incident.id === box.dataset.incident ? 3 : 1.5) * devicePixelRatio;
    context.fillRect(place[0], y + 4, place[1], lane - 8);
    context.strokeRect(place[0], y + 4, place[1], lane - 8);
    context.fillStyle = color("--text");
    const text = incident.reason ?? (incident.lasting ? "open" : "");
    if (context.measureText(text).width + 12 < place[1]) context.fillText(text, place[0] + 6, y + lane / 2);
  }
  context.fillStyle = color("--text");
  [...rules, "Callbacks"].forEach((rule, i) => context.fillText(names[rule] ?? rule, 8 * devicePixelRatio, top + (i + 0.5) * lane));
  const y = top + rules.length * lane + lane / 2;
  context.textAlign = "center";
  for (const incident of data.conversation.incidents) for (const attempt of incident.delivery) {
    const x = chart.valToPos(attempt.at, "x", true);
    if (x < left || x > left + width) continue;
    const kind = { CALLBACK_DELIVERED: ["✓", "--good"], CALLBACK_DEAD: ["✕", "--bad"] }[attempt.action] ?? ["↻", "--warn"];
    context.fillStyle = color(kind[1]);
    context.fillText(kind[0], x, y);
  }
  context.restore();
}

function parties(chart) {
  const { left, top, width, height } = chart.bbox;
  const lane = height / data.lanes.length;
  const context = chart.ctx;
  context.save();
  context.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "left";
  data.lanes.forEach((party, i) => {
    const y = top + i * lane;
    context.fillStyle = color("--text");
    context.fillText(party.name, 8 * devicePixelRatio, y + lane / 2, left - 12 * devicePixelRatio);
    for (const part of party.parts) {
      const place = clipped(chart, part.start, part.end ?? Math.max(data.conversation.last, part.start));
      if (!place) continue;
      context.fillStyle = color(part.state === "hold" ? "--hatch-a" : "--accent-soft");
      context.strokeStyle = color("--accent");
      context.lineWidth = devicePixelRatio;
      context.fillRect(place[0], y + 4, place[1], lane - 8);
      context.strokeRect(place[0], y + 4, place[1], lane - 8);
      context.fillStyle = color("--text");
      if (context.measureText(part.state).width + 12 < place[1]) context.fillText(part.state, place[0] + 6, y + lane / 2);
    }
  });
  context.restore();
}

const names = {
  LATENCY_THRESHOLD_EXCEEDED: "Latency", PACKET_LOSS_DETECTED: "Packet loss", LOW_MOS: "Low MOS", STREAM_STALLED: "Stalled",
  CALL_FAILED: "Call failed", ONE_WAY_AUDIO: "One-way audio", DEAD_AIR: "Dead air",
};

function readout(chart) {
  const i = chart.cursor.idx;
  const c = data.columns;
  const place = document.getElementById("readout");
  if (i == null || c.x[i] == null || c.p95[i] === undefined) { place.textContent = "Point at a chart to read its values."; return; }
  const n = (value, digits, unit) => (value == null ? "–" : `${value.toFixed(digits)}${unit}`);
  place.textContent = `Window to ${moment(c.x[i], "time")} ${zoneName()}: p50 ${n(c.p50[i], 0, " ms")}, p95 ${n(c.p95[i], 0, " ms")}, highest loss ${n(c.loss[i], 2, " %")}, mean ${n(c.mean[i], 2, " %")}, MOS ${n(c.mos[i], 2, "")}${c.genesys[i] == null ? "" : `, Genesys ${n(c.genesys[i], 2, "")}`}`;
}

// A click offers the lines of the journal that a window was made of.
function offerLines(chart) {
  const window = data.windows.find((one) => one.end === data.columns.x[chart.cursor.idx]);
  if (!window) return;
  const link = document.getElementById("raw");
  link.href = `/journal?${new URLSearchParams({ id: data.conversation.id, from: window.start, to: window.end })}`;
  link.textContent = `Journal lines of the window to ${moment(window.end, "time")}`;
  link.hidden = false;
}

function options(element, height, series, hooks, y, unit = "") {
  const lines = axis(12);
  return {
    width: element.clientWidth, height, legend: { show: false },
    cursor: { sync: { key: "timeline" }, drag: { x: true, y: false }, points: { size: 7 } },
    scales: { x: { time: true, range: () => range }, y },
    tzDate: (at) => (zoneName() === "UTC" ? uPlot.tzDate(new Date(at * 1e3), "Etc/UTC") : new Date(at * 1e3)),
    axes: [
      { ...lines, space: element.clientWidth < 500 ? 52 : 70, values: (_, at) => at.map((t, i) => moment(t, at.length > 1 && at[1] - at[0] < 60 ? "time" : "minute")) },
      { ...lines, size: 88, space: 24, splits: y.splits && (() => y.splits), values: y.hidden ? () => [] : (_, at) => at.map((value) => `${Number(value.toPrecision(6))}${unit}`), grid: y.hidden ? { show: false } : lines.grid, ticks: y.hidden ? { show: false } : lines.ticks },
    ],
    series: [{}, ...series],
    hooks: {
      drawClear: [background], draw: hooks, setCursor: [readout],
      setSelect: [(chart) => {
        if (chart.select.width < 4) return;
        zoom([chart.posToVal(chart.select.left, "x"), chart.posToVal(chart.select.left + chart.select.width, "x")]);
        chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      }],
    },
  };
}

function whole() {
  const c = data.conversation;
  const length = Math.max(c.last - c.first, 10);
  return [c.first - length * 0.01, c.last + length * 0.01];
}

function zoom(next) {
  range = next;
  for (const chart of charts) chart.redraw(true, true), chart.setScale("x", { min: range[0], max: range[1] });
  // The range is in the address, so that what is seen can be sent to someone.
  const address = new URL(location.href);
  const [from, to] = whole()[0] === range[0] && whole()[1] === range[1] ? [null, null] : range;
  for (const [key, value] of [["from", from], ["to", to], ["incident", null]]) {
    if (value === null) address.searchParams.delete(key); else address.searchParams.set(key, value.toFixed(1));
  }
  history.replaceState(null, "", address);
}

// Plus and minus zoom about the middle, the arrows move by a quarter, 0 shows everything.
function zoomByKeys(event) {
  const all = whole();
  const [from, to] = range;
  const quarter = (to - from) / 4;
  const steps = {
    "+": [quarter, -quarter], "=": [quarter, -quarter], "-": [-2 * quarter, 2 * quarter], ArrowLeft: [-quarter, -quarter], ArrowRight: [quarter, quarter],
  };
  const step = event.key === "0" ? [-Infinity, Infinity] : steps[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey || event.target !== box) return;
  event.preventDefault();
  const next = [Math.max(from + step[0], all[0]), Math.min(to + step[1], all[1])];
  if (next[1] - next[0] >= 1) zoom(next[0] === all[0] && next[1] === all[1] ? all : next);
}

function draw() {
  // An update must not take away what the pointer shows.
  const pointed = charts.findIndex((chart) => chart.cursor.left >= 0);
  const cursor = pointed < 0 ? null : { left: charts[pointed].cursor.left, top: charts[pointed].cursor.top };
  for (const chart of charts.splice(0)) chart.destroy();
  const c = data.columns;
  const line = (stroke, dash, more = {}) => ({ stroke: color(stroke), width: 2, dash, points: { show: c.x.length < 40, size: 5 }, spanGaps: false, ...more });
  const ms = data.conversation.max_latency_ms;
  const loss = data.conversation.packet_loss_threshold == null ? null : data.conversation.packet_loss_threshold * 100;
  const narrow = box.clientWidth < 500;
  const add = (name, height, series, values, hooks, y, unit, more = {}) => {
    const element = box.querySelector(`[data-chart=${name}]`);
    const why = box.querySelector(`[data-empty=${name}]`);
    if (why) why.hidden = values.some((one) => one.some((value) => value != null));
    const chart = new uPlot({ ...options(element, height, series, hooks, y, unit), ...more }, [c.x, ...values], element);
    chart.over.addEventListener("dblclick", () => zoom(whole()));
    chart.over.addEventListener("click", () => offerLines(chart));
    charts.push(chart);
  };
  add("latency", narrow ? 170 : 210, [line("--p95"), line("--p50", [6, 4])], [c.p95, c.p50], [limit(ms)], upTo(ms), " ms", { bands: [{ series: [1, 2], fill: color("--band") }] });
  add("loss", narrow ? 140 : 160, [line("--lossc", undefined, { paths: uPlot.paths.bars({ size: [0.7, 24] }), fill: color("--lossc"), points: { show: false } }), line("--meanc", [6, 4])], [c.loss, c.mean], [limit(loss)], upTo(loss), " %");
  const mos = [limit(data.mos_below), limit(data.media.length ? data.genesys_mos_below : null)];
  add("mos", narrow ? 130 : 140, [line("--mosc"), line("--genesys", [2, 3])], [c.mos, c.genesys], mos, { range: () => [1, 5], splits: [1, 2, 3, 4, 5] });
  const empty = [{ show: false }], nothing = [c.x.map(() => null)];
  if (data.lanes.length) add("parties", 64 + 30 * data.lanes.length, empty, nothing, [parties], { range: () => [0, 1], hidden: true });
  const rules = new Set(data.conversation.incidents.map((i) => i.rule)).size;
  add("lanes", 64 + 30 * (rules + 1), empty, nothing, [lanes], { range: () => [0, 1], hidden: true });
  // After the charts have drawn themselves, which they do later and without a cursor.
  if (cursor) setTimeout(() => charts[Math.min(pointed, charts.length - 1)].setCursor(cursor));
}

function asked() {
  const incident = data.conversation.incidents.find((i) => i.id === box.dataset.incident);
  if (incident) return [incident.raised - 60, (incident.resolved ?? data.figures.now) + 60];
  const [from, to] = [Number(box.dataset.from), Number(box.dataset.to)];
  return to > from ? [from, to] : null;
}

async function load() {
  const answer = await fetch(box.dataset.src);
  if (!answer.ok) return;
  const zoomed = range && data && (range[0] !== whole()[0] || range[1] !== whole()[1]);
  data = await answer.json();
  box.querySelector("[data-chart=parties]").parentElement.hidden = !data.lanes.length;
  data.columns = columns(data.windows);
  if (!zoomed) {
    range = whole();
    const want = charts.length ? null : asked();
    if (want && want[1] > range[0] && want[0] < range[1]) range = [Math.max(want[0], range[0]), Math.min(want[1], range[1])];
  }
  draw();
}

let drawn = 0;
box.addEventListener("keydown", (event) => { if (data) zoomByKeys(event); });
document.addEventListener("refreshed", load);
document.addEventListener("zone", () => data && draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => data && draw());
new ResizeObserver(() => { if (data && Math.abs(box.clientWidth - drawn) > 2) { drawn = box.clientWidth; draw(); } }).observe(box);
load();
