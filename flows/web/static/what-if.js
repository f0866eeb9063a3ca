// The what-if view: sliders beside the fields, and the incidents of each hour as two step lines.
import { keepDrawn, moment, zoneName } from "./app.js";

const { axis, color, upTo } = drawing;
const drawn = new Map();

for (const slider of document.querySelectorAll("input[type=range][data-for]")) {
  const field = document.getElementById(slider.dataset.for);
  slider.addEventListener("input", () => { field.value = slider.value; });
  field.addEventListener("input", () => { if (field.value !== "") slider.value = field.value; });
}

function draw(element) {
  drawn.get(element)?.destroy();
  if (!element.clientWidth) return;
  const hours = JSON.parse(element.dataset.hours);
  const last = hours[hours.length - 1];
  const lines = axis(12);
  const x = [...hours.map((one) => one.start), last.start + 3600];
  const columns = ["proposed", "now"].map((name) => [...hours, last].map((one) => one[name]));
  const stepped = { width: 2, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } };
  const isLong = x[x.length - 1] - x[0] > 86400;
  drawn.set(element, new uPlot({
    width: element.clientWidth, height: 170, legend: { show: false }, cursor: { show: false }, select: { show: false },
    scales: { x: { time: true, range: () => [x[0], x[x.length - 1]] }, y: upTo(1) },
    tzDate: (at) => (zoneName() === "UTC" ? uPlot.tzDate(new Date(at * 1e3), "Etc/UTC") : new Date(at * 1e3)),
    axes: [
      { ...lines, space: isLong ? 110 : 60, values: (_, at) => at.map((t) => (isLong ? moment(t, "full").slice(5, 16) : moment(t, "minute"))) },
      { ...lines, size: 44, space: 28, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000] },
    ],
    // The dashed line comes last: where both are the same, both are seen.
    series: [{}, { ...stepped, stroke: color("--accent"), width: 3 }, { ...stepped, stroke: color("--meanc"), dash: [6, 4] }],
  }, [x, ...columns], element));
}

keepDrawn(".steps", drawn, draw);
