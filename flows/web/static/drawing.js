// What the charts of the live page and of a report draw alike. A classic script, since a report holds its scripts inline.
const drawing = (() => {
  "use strict";
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The part of a time that a chart shows: its left edge and its width in pixels, or null.
  function clipped(chart, start, end) {
    const { left, width } = chart.bbox;
    const a = Math.max(chart.valToPos(start, "x", true), left);
    const b = Math.min(chart.valToPos(end, "x", true), left + width);
    return b > a ? [a, Math.max(b - a, 2)] : null;
  }

  function boxes(chart, spans, paint) {
    const { top, height } = chart.bbox;
    for (const [start, end] of spans) {
      const place = clipped(chart, start, end);
      if (place) paint(chart.ctx, place[0], top, place[1], height);
    }
  }

  function hatch(context, left, top, width, height) {
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    context.fillStyle = color("--hatch-a");
    context.fillRect(left, top, width, height);
    context.strokeStyle = color("--hatch-b");
    context.lineWidth = 2 * devicePixelRatio;
    for (let x = left - height; x < left + width; x += 8 * devicePixelRatio) {
      context.beginPath();
      context.moveTo(x, top + height);
      context.lineTo(x + height, top);
      context.stroke();
    }
    context.restore();
  }

  function tint(context, left, top, width, height) {
    context.fillStyle = color("--span");
    context.fillRect(left, top, width, height);
  }

  // A hook that draws a limit; nothing without one.
  function limit(value) {
    return (chart) => {
      if (value == null) return;
      const { left, top, width, height } = chart.bbox;
      const y = chart.valToPos(value, "y", true);
      if (y < top || y > top + height) return;
      const context = chart.ctx;
      context.save();
      context.strokeStyle = color("--limit");
      context.lineWidth = 2 * devicePixelRatio;
      context.setLineDash([2 * devicePixelRatio, 4 * devicePixelRatio]);
      context.beginPath();
      context.moveTo(left, y);
      context.lineTo(left + width, y);
      context.stroke();
      context.restore();
    };
  }

  function axis(fontPixels) {
    const faint = { stroke: color("--grid"), width: 1 };
    return { stroke: color("--weak"), grid: faint, ticks: faint, font: `${fontPixels}px system-ui, sans-serif` };
  }

  // A scale from zero to a little above the highest value, and above `least`.
  const upTo = (least) => ({ range: (_, low, high) => [0, Math.max(high ?? 0, least ?? 0) * 1.12 || 1] });

  return { axis, boxes, clipped, color, hatch, limit, tint, upTo };
})();
