// The answers of a receiver in the last 24 hours: a stacked bar for each hour, with a pattern for each class.
import { keepDrawn, moment, zoneName } from "./app.js";

const { axis, color } = drawing;
const drawn = new Map();
const colors = { "2xx": "--good", "3xx": "--mosc", "4xx": "--l2", "5xx": "--l4", none: "--hatch-b" };
// Lines of a pattern, as pairs of points in a square of 8; the first class is plain.
const patterns = { "3xx": [[0, 4, 8, 4]], "4xx": [[0, 8, 8, 0]], "5xx": [[0, 8, 8, 0], [0, 0, 8, 8]], none: [[4, 0, 4, 8]] };

function fill(name) {
  const paper = document.createElement("canvas");
  paper.width = paper.height = 8 * devicePixelRatio;
  const context = paper.getContext("2d");
  context.scale(devicePixelRatio, devicePixelRatio);
  context.fillStyle = color(colors[name]);
  context.fillRect(0, 0, 8, 8);
  context.strokeStyle = color("--card");
  for (const [x, y, toX, toY] of patterns[name] ?? []) {
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(toX, toY);
    context.stroke();
  }
  return context.createPattern(paper, "repeat");
}

function draw(element) {
  drawn.get(element)?.destroy();
  if (!element.clientWidth) return;
  const hours = JSON.parse(element.dataset.hours);
  const names = JSON.parse(element.dataset.classes);
  const x = hours.map((hour) => hour.start + 1800);
  // Each class is drawn from zero to the sum of itself and those before it, the highest first.
  const sums = names.map((_, i) => hours.map((hour) => names.slice(0, i + 1).reduce((total, name) => total + hour[name], 0) || null));
  const lines = axis(11);
  drawn.set(element, new uPlot({
    width: element.clientWidth, height: 120, legend: { show: false }, cursor: { show: false }, select: { show: false },
    scales: { x: { time: true, range: () => [hours[0].start, hours[hours.length - 1].start + 3600] }, y: { range: (_, low, high) => [0, Math.max(high ?? 0, 1) * 1.05] } },
    tzDate: (at) => (zoneName() === "UTC" ? uPlot.tzDate(new Date(at * 1e3), "Etc/UTC") : new Date(at * 1e3)),
    axes: [
      { ...lines, size: 28, space: 52, values: (_, at) => at.map((t) => moment(t, "minute")) },
      { ...lines, size: 44, space: 26, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000] },
    ],
    series: [{}, ...[...names].reverse().map((name) => ({ stroke: color(colors[name]), width: 0, fill: fill(name), paths: uPlot.paths.bars({ size: [0.8, 40] }), points: { show: false } }))],
  }, [x, ...sums.reverse()], element));
}

keepDrawn(".stacked", drawn, draw);
