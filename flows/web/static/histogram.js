// Histograms that help to choose a limit: bars, the limit now, and the proposed one, which follows the field of the form.
const { axis, color } = drawing;
const drawn = new Map();

function line(chart, value, name, dash) {
  if (!Number.isFinite(value)) return;
  const { left, top, width, height } = chart.bbox;
  const x = chart.valToPos(value, "x", true);
  if (x < left || x > left + width) return;
  const context = chart.ctx;
  context.save();
  context.strokeStyle = color(name);
  context.lineWidth = 2 * devicePixelRatio;
  context.setLineDash(dash.map((one) => one * devicePixelRatio));
  context.beginPath();
  context.moveTo(x, top);
  context.lineTo(x, top + height);
  context.stroke();
  context.restore();
}

function proposed(element) {
  const text = document.getElementById(`f-${element.dataset.field}`)?.value ?? "";
  return text === "" ? NaN : Number(text);
}

// The share of the bins beyond a limit; the bin that it cuts counts for its part.
function share(element, limit) {
  const counts = JSON.parse(element.dataset.counts);
  const [low, width] = [Number(element.dataset.low), Number(element.dataset.width)];
  const beyond = counts.map((count, i) => {
    const part = Math.min(Math.max((low + (i + 1) * width - limit) / width, 0), 1);
    return count * (element.dataset.below === "true" ? 1 - part : part);
  });
  const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);
  return sum(beyond) / sum(counts);
}

function say(element) {
  const limit = proposed(element);
  const place = element.closest("figure").querySelector("output");
  const text = Number.isFinite(limit) ? `; proposed: ${(100 * share(element, limit)).toFixed(1)} % of the ${element.dataset.of}` : "";
  if (place.textContent !== text) place.textContent = text;
}

function draw(element) {
  drawn.get(element)?.destroy();
  if (!element.clientWidth) return;
  const counts = JSON.parse(element.dataset.counts);
  const [low, width, scale] = [element.dataset.low, element.dataset.width, element.dataset.scale].map(Number);
  const lines = axis(11);
  const last = low + (counts.length - 1) * width;
  const shown = (value) => Number((value * scale).toPrecision(4));
  drawn.set(element, new uPlot({
    width: element.clientWidth, height: 120, legend: { show: false }, cursor: { show: false }, select: { show: false },
    // Square roots, so that few minutes are still to be seen beside very many.
    scales: { x: { time: false, range: () => [low, low + counts.length * width] }, y: { range: (_, __, high) => [0, high * 1.05 || 1] } },
    axes: [
      {
        ...lines, size: 28,
        // The last bar holds everything above: its label says so, and the labels just before it make room.
        splits: (_, __, least, most, step) => {
          const found = [];
          for (let at = Math.ceil(least / step) * step; at < most - Math.max(step, (most - least) * 0.09); at += step) found.push(at);
          return [...found, last + width / 2];
        },
        values: (_, at) => at.map((value, i) => (i === at.length - 1 ? `${shown(last)}+` : shown(value))),
      },
      { ...lines, size: 52, space: 30, values: (_, at) => at.map((value) => Math.round(value * value)) },
    ],
    series: [{}, { stroke: color("--meanc"), fill: color("--meanc"), width: 0, paths: uPlot.paths.bars({ size: [0.86, 60] }), points: { show: false } }],
    hooks: { draw: [(chart) => {
      line(chart, element.dataset.limit === "" ? NaN : Number(element.dataset.limit), "--limit", [2, 4]);
      line(chart, proposed(element), "--accent", [8, 4]);
    }] },
  }, [counts.map((_, i) => low + (i + 0.5) * width), counts.map(Math.sqrt)], element));
  say(element);
}

function drawAll() {
  for (const element of drawn.keys()) if (!element.isConnected) drawn.delete(element);
  for (const element of document.querySelectorAll(".histogram")) if (!drawn.has(element)) draw(element);
}

function again() {
  drawn.forEach((chart) => chart.destroy());
  drawn.clear();
  drawAll();
}

document.addEventListener("refreshed", drawAll);
document.addEventListener("input", () => { for (const [element, chart] of drawn) if (element.isConnected) { chart.redraw(false); say(element); } });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
let wide = 0;
new ResizeObserver(() => { if (Math.abs(document.body.clientWidth - wide) > 2) { wide = document.body.clientWidth; again(); } }).observe(document.body);
