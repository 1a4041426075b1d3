// What the pages do in a browser beyond htmx: pausing, ages, ticks, keys and the chart. No page needs it to be read.
"use strict";

const language = document.documentElement.lang;
const page = { etag: null, isPaused: false, prefix: "" };
const byId = (id) => document.getElementById(id);

// -- Asking whether the page has changed ------------------------------------------------------------------------------

const isLive = (event) => event.target && event.target.id === "live";

document.addEventListener("htmx:config:request", (event) => {
  if (!isLive(event)) return;
  event.detail.ctx.request.headers["X-Poll"] = "1";
  if (page.etag) event.detail.ctx.request.headers["If-None-Match"] = page.etag;
});

document.addEventListener("htmx:before:request", (event) => {
  if (isLive(event) && (page.isPaused || document.hidden)) event.preventDefault();
});

document.addEventListener("htmx:before:response", (event) => {
  if (!isLive(event)) return;
  const { raw, status, headers } = event.detail.ctx.response;
  if (raw.redirected || status === 401 || status === 403) {
    event.preventDefault();
    location.reload();
  } else if (status === 200 || status === 304) {
    page.etag = headers.get("ETag");
    tellAsOf(new Date(Number(headers.get("X-As-Of")) || Date.now()), true);
  } else {
    event.preventDefault();
    tellAsOf(null, false);
  }
});

document.addEventListener("htmx:error", (event) => {
  if (isLive(event)) tellAsOf(null, false);
});

document.addEventListener("htmx:after:swap", () => dress());

// When central does not answer, what is on the page stays and says how old it is.
function tellAsOf(when, isFresh) {
  const shown = byId("as-of");
  if (!shown) return;
  shown.classList.toggle("stale", !isFresh);
  byId("as-of-text").textContent = isFresh ? shown.dataset.fresh : shown.dataset.stale;
  if (when) byId("as-of-time").textContent = when.toLocaleTimeString(language);
}

function pause() {
  const button = byId("pause");
  if (!button) return;
  page.isPaused = !page.isPaused;
  button.dataset.stop ||= button.textContent;
  button.textContent = page.isPaused ? button.dataset.goOn : button.dataset.stop;
  button.setAttribute("aria-pressed", String(page.isPaused));
}

// -- Ages and the number of problems in the title ---------------------------------------------------------------------

const AGES = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
const ages = new Intl.RelativeTimeFormat(language, { style: "short", numeric: "always" });

function age(atMs) {
  const seconds = Math.round((atMs - Date.now()) / 1000);
  const [size, unit] = AGES.find(([length]) => Math.abs(seconds) >= length) || AGES[3];
  return ages.format(Math.trunc(seconds / size), unit);
}

function dress() {
  for (const one of document.querySelectorAll("time[data-at]")) {
    const text = age(Number(one.dataset.at));
    if (!one.title) one.title = one.textContent;
    if (one.textContent !== text) one.textContent = text;
  }
  const problems = Number(byId("live")?.dataset.problems || 0);
  document.title = (problems ? `(${problems}) ` : "") + document.title.replace(/^\(\d+\) /, "");
  countTicks();
  for (const one of document.querySelectorAll("[data-chart]:not(.drawn)")) draw(one);
}

// -- Rows that are ticked ---------------------------------------------------------------------------------------------

function countTicks() {
  const ticks = [...document.querySelectorAll("input.tick")];
  const ticked = ticks.filter((one) => one.checked).length;
  if (byId("ticked")) byId("ticked").textContent = String(ticked);
  const all = byId("tick-all");
  if (all) all.checked = ticked > 0 && ticked === ticks.length;
}

document.addEventListener("change", (event) => {
  if (event.target.id === "tick-all") {
    for (const one of document.querySelectorAll("input.tick")) one.checked = event.target.checked;
  }
  if (event.target.matches("#tick-all, input.tick")) countTicks();
});

document.addEventListener("click", (event) => {
  if (event.target.closest("#pause")) pause();
});

// -- Keys -------------------------------------------------------------------------------------------------------------

const PLACES = { o: "/", t: "/tills", d: "/days", s: "/stores", r: "/receipts" };
let isGoing = false;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const goes = isGoing && PLACES[event.key];
  isGoing = event.key === "g";
  if (goes) location.href = goes;
  else if (event.key === "/" && byId("find")) byId("find").focus();
  else if (event.key === "?") byId("keys").showModal();
  else if (event.key === "p") pause();
  else return;
  event.preventDefault();
});

// -- The chart --------------------------------------------------------------------------------------------------------

// `data-chart`: {"x": [epoch seconds], "y": [[numbers], …]}, `data-names`: texts with | between; colours are the theme's.
function draw(place) {
  if (!window.uPlot) return;
  place.classList.add("drawn");
  const { x, y } = JSON.parse(place.dataset.chart);
  if (!x.length) return;
  const names = place.dataset.names.split("|");
  const style = getComputedStyle(place);
  const ink = style.color;
  const strokes = [style.getPropertyValue("--fine"), style.getPropertyValue("--wait")];
  const axis = { stroke: ink, grid: { stroke: style.getPropertyValue("--line") } };
  const series = names.map((label, n) => ({ label, stroke: strokes[n % 2].trim(), width: 2, points: { show: false } }));
  const size = { width: Math.max(280, place.clientWidth), height: 180 };
  new window.uPlot({ ...size, axes: [axis, axis], series: [{}, ...series] }, [x, ...y], place);
}

document.addEventListener("DOMContentLoaded", () => {
  dress();
  tellAsOf(new Date(), true);
});
setInterval(dress, 1000);
