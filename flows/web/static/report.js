// The charts of a report: drawn from the data in the page, again when its width, its colours or the paper change.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = [];
  // A page of A4 is about 700 CSS pixels wide within its margins.
  const PAPER = 650;
  let onPaper = false;
  const { axis, boxes, color, hatch, limit, tint, upTo } = drawing;
  const two = (number) => String(number).padStart(2, "0");

  function time(seconds, length) {
    const at = new Date(seconds * 1000);
    const clock = `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
    if (length < 1200) return `${clock}:${two(at.getUTCSeconds())}`;
    return length < 2 * 86400 ? clock : `${two(at.getUTCMonth() + 1)}-${two(at.getUTCDate())} ${clock}`;
  }

  // A hole in the windows breaks the line: silence is not zero.
  function broken(one) {
    const out = { x: [], p50: [], p95: [], loss: [], mos: [] };
    one.x.forEach((x, i) => {
      if (i && x - one.x[i - 1] > one.step * 1.6) {
        out.x.push(one.x[i - 1] + one.step / 2);
        for (const name of ["p50", "p95", "loss", "mos"]) out[name].push(null);
      }
      out.x.push(x);
      for (const name of ["p50", "p95", "loss", "mos"]) out[name].push(one[name][i]);
    });
    return out;
  }

  function add(element, width, height, from, to, columns, series, y, below, above) {
    const lines = axis(11);
    charts.push(new uPlot({
      width, height, legend: { show: false }, cursor: { show: false },
      tzDate: (at) => uPlot.tzDate(new Date(at * 1e3), "Etc/UTC"),
      scales: { x: { time: true, range: () => [from, to] }, y: { range: y.range } },
      axes: [{ ...lines, size: 28, space: 74, values: (_, at) => at.map((t) => time(t, to - from)) }, { ...lines, size: 46, space: 26, splits: y.splits && (() => y.splits) }],
      series: [{}, ...series],
      hooks: { drawClear: [below], draw: above ? [above] : [] },
    }, columns, element));
  }

  const line = (stroke, more) => ({ stroke: color(stroke), width: 2, points: { show: false }, spanGaps: false, ...more });

  function conversation(element, width) {
    const one = data.worst[Number(element.dataset.of)];
    const c = broken(one);
    const pad = Math.max((one.to - one.from) * 0.01, 1);
    const few = { points: { show: c.x.length < 60, size: 4 } };
    const below = (chart) => { boxes(chart, one.gaps, hatch); boxes(chart, one.spans, tint); };
    const kinds = {
      latency: [130, [c.p95, c.p50], [line("--p95", few), line("--p50", { dash: [6, 4] })], upTo(one.max_latency_ms), limit(one.max_latency_ms)],
      loss: [100, [c.loss], [line("--lossc", { paths: uPlot.paths.bars({ size: [0.7, 20] }), fill: color("--lossc"), width: 1 })], upTo(one.max_loss), limit(one.max_loss)],
      mos: [90, [c.mos], [line("--mosc", few)], { range: () => [1, 5], splits: [1, 3, 5] }, null],
    };
    const [height, columns, series, y, above] = kinds[element.dataset.chart];
    add(element, width, Math.round(height * (onPaper ? 0.76 : 1)), one.from - pad, one.to + pad, [c.x, ...columns], series, y, below, above);
  }

  function overTime(element, width) {
    const x = data.bars.map(([start, end]) => (start + end) / 2);
    const share = data.bars.map(([, , windows, breaching]) => (windows ? (100 * breaching) / windows : null));
    const bars = line("--p95", { paths: uPlot.paths.bars({ size: [0.8, 40] }), fill: color("--p95"), width: 1 });
    const from = data.bars.length ? data.bars[0][0] : data.from;
    const to = data.bars.length ? data.bars[data.bars.length - 1][1] : data.to;
    add(element, width, 170, from, to, [x, share], [bars], upTo(1), (chart) => boxes(chart, data.silent, hatch));
  }

  let drawn = 0;
  function draw(width) {
    onPaper = width !== undefined;
    for (const chart of charts.splice(0)) chart.destroy();
    drawn = document.body.clientWidth;
    for (const element of document.querySelectorAll(".chart")) {
      const wide = width ?? element.clientWidth;
      if (element.id === "bars") overTime(element, wide);
      else conversation(element, wide);
    }
  }

  draw();
  new ResizeObserver(() => { if (!onPaper && Math.abs(document.body.clientWidth - drawn) > 2) draw(); }).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(onPaper ? PAPER : undefined));
  addEventListener("beforeprint", () => draw(PAPER));
  addEventListener("afterprint", () => draw());
})();
