// Small charts without axes: the course of a figure or of an incident, from the data attributes of an element.
const { color } = drawing;
const drawn = new Map();

function marks(element) {
  const { limit, raised, resolved } = element.dataset;
  return (chart) => {
    const { ctx } = chart;
    const { left, top, width, height } = chart.bbox;
    if (raised) {
      const begin = Math.max(chart.valToPos(Number(raised), "x", true), left);
      const end = resolved ? Math.min(chart.valToPos(Number(resolved), "x", true), left + width) : left + width;
      ctx.fillStyle = color("--span");
      ctx.fillRect(begin, top, Math.max(end - begin, 2), height);
    }
    if (limit) {
      const y = chart.valToPos(Number(limit), "y", true);
      ctx.strokeStyle = color("--limit");
      ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(left, y);
      ctx.lineTo(left + width, y);
      ctx.stroke();
      ctx.setLineDash([]);
    }
  };
}

function draw(element) {
  drawn.get(element)?.destroy();
  const points = JSON.parse(element.dataset.points);
  if (!points.length || !element.clientWidth) return;
  const [x, y] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const limit = element.dataset.limit === undefined ? [] : [Number(element.dataset.limit)];
  const known = y.filter((value) => value !== null).concat(limit);
  const top = Math.max(...known, 0) * 1.1 || 1;
  drawn.set(element, new uPlot({
    width: element.clientWidth, height: element.clientHeight, padding: [2, 1, 2, 1],
    legend: { show: false }, cursor: { show: false }, select: { show: false },
    scales: { x: { time: false }, y: { range: () => [0, top] } },
    axes: [{ show: false }, { show: false }],
    series: [{}, { stroke: color("--p95"), width: 1.5, spanGaps: false, points: { show: x.length < 3, size: 4 } }],
    hooks: { drawClear: [marks(element)] },
  }, [x, y], element));
}

export function drawSparks(root) {
  for (const element of drawn.keys()) if (!element.isConnected) drawn.delete(element);
  for (const element of root.querySelectorAll(".spark")) draw(element);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawSparks(document));
