// What every view needs: times in the viewer's zone, updates, the keyboard in heat maps, and forms that submit themselves.
import { drawSparks } from "./spark.js";

document.documentElement.classList.add("js");

const formats = {
  time: { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
  minute: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
  full: { year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
};
const zones = { local: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC", utc: "UTC" };

export function zone() {
  return localStorage.getItem("zone") === "utc" ? "utc" : "local";
}

export function moment(seconds, style) {
  return new Intl.DateTimeFormat("sv-SE", { ...formats[style], timeZone: zones[zone()] }).format(new Date(seconds * 1000));
}

export function zoneName() {
  return zones[zone()];
}

// Draws the charts of a kind, and draws them again when the data, the zone, the colours or the width change.
export function keepDrawn(selector, drawn, draw) {
  function drawAll() {
    for (const [element, chart] of drawn) if (!element.isConnected) { chart.destroy(); drawn.delete(element); }
    for (const element of document.querySelectorAll(selector)) draw(element);
  }
  drawAll();
  document.addEventListener("refreshed", drawAll);
  document.addEventListener("zone", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let wide = 0;
  new ResizeObserver(() => { if (Math.abs(document.body.clientWidth - wide) > 2) { wide = document.body.clientWidth; drawAll(); } }).observe(document.body);
}

function showTimes(root) {
  for (const element of root.querySelectorAll("time[data-t]")) {
    element.textContent = moment(Number(element.dataset.t), element.dataset.f);
  }
  for (const element of root.querySelectorAll(".zone-name")) element.textContent = zoneName();
}

function showZone() {
  const button = document.getElementById("zone");
  if (button) button.textContent = zoneName();
}

document.getElementById("zone")?.addEventListener("click", () => {
  localStorage.setItem("zone", zone() === "utc" ? "local" : "utc");
  showZone();
  showTimes(document);
  document.dispatchEvent(new Event("zone"));
});

function submitsItself(form) {
  form.addEventListener("change", () => {
    for (const field of form.elements) if (field.value === "") field.disabled = true;
    form.requestSubmit();
  });
  // A page that the browser kept whole and shows again must not keep them disabled.
  window.addEventListener("pageshow", () => { for (const field of form.elements) field.disabled = false; });
}

// One cell of a heat map is in the tab order; the arrow keys move it.
function movesByKeys(table) {
  table.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const step = steps[event.key];
    const from = event.target.closest?.("td.cell");
    if (!step || !from) return;
    event.preventDefault();
    const rows = [...table.tBodies[0].rows];
    let y = rows.indexOf(from.parentElement) + step[0];
    let x = from.cellIndex + step[1];
    for (; rows[y]?.cells[x]?.classList.contains("cell"); y += step[0], x += step[1]) {
      const link = rows[y].cells[x].querySelector("a");
      if (!link) continue;
      event.target.tabIndex = -1;
      link.tabIndex = 0;
      link.focus();
      return;
    }
  });
}

function prepare(root) {
  showTimes(root);
  for (const table of root.querySelectorAll("[data-grid]")) movesByKeys(table);
  drawSparks(root);
  for (const box of root.querySelectorAll("[data-end]")) box.scrollLeft = box.scrollWidth;
  if (!root.querySelector("[data-grid] a[tabindex='0']")) root.querySelector("[data-grid] td.cell a")?.setAttribute("tabindex", "0");
}

// Replaces the sections that differ; what is focused stays focused, what is scrolled stays scrolled.
async function refresh() {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) throw new Error(`${answer.status}`);
  const next = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const section of document.querySelectorAll("[data-live]")) {
    const fresh = next.getElementById(section.id);
    if (!fresh) { section.hidden = true; continue; }
    section.hidden = false;
    if (section.dataset.was === fresh.innerHTML) continue;
    section.dataset.was = fresh.innerHTML;
    const opened = [...section.querySelectorAll("details[open][id]")].map((one) => one.id);
    const focused = section.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    const boxes = [...section.querySelectorAll(".scroll")].map((box) => [box.scrollLeft, box.scrollWidth - box.clientWidth - box.scrollLeft < 2]);
    section.innerHTML = fresh.innerHTML;
    for (const id of opened) document.getElementById(id)?.setAttribute("open", "");
    prepare(section);
    section.querySelectorAll(".scroll").forEach((box, i) => { if (boxes[i] && !boxes[i][1]) box.scrollLeft = boxes[i][0]; });
    if (focused) [...section.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
  }
  document.dispatchEvent(new Event("refreshed"));
}

function tell(state, text) {
  const pill = document.getElementById("live");
  if (!pill || pill.dataset.state === state) return;
  pill.dataset.state = state;
  document.getElementById("live-text").textContent = text;
}

function follow() {
  const source = new EventSource("/events");
  let first = true, busy = false, again = false;
  const update = async () => {
    if (busy || document.hidden) { again = true; return; }
    busy = true;
    again = false;
    try {
      await refresh();
      tell("live", "live");
    } catch {
      tell("lost", "connection lost");
    }
    setTimeout(() => { busy = false; if (again) update(); }, 1500);
  };
  source.onmessage = () => { tell("live", "live"); if (first) first = false; else update(); };
  source.onerror = () => tell("lost", "connection lost");
  document.addEventListener("visibilitychange", () => { if (!document.hidden && again) update(); });
  setInterval(() => { if (document.querySelector("[data-busy]")) update(); }, 1000);
  window.addEventListener("pagehide", () => source.close());
}

for (const form of document.querySelectorAll("form[data-auto]")) submitsItself(form);
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText(button.dataset.copy);
  button.textContent = "Copied";
});
// In a narrow window the views scroll sideways: the current one is brought into sight.
const views = document.querySelector(".top nav ul");
const current = views?.querySelector("[aria-current]");
if (current) views.scrollLeft = current.offsetLeft - views.offsetLeft - (views.clientWidth - current.offsetWidth) / 2;
showZone();
prepare(document);
if (document.getElementById("live")) follow();
