// The script of the console: it puts what the server has rendered into the page, and draws the charts.
"use strict";

const find = (id) => document.getElementById(id);
const connection = find("connection");

/** Read server-sent events; the browser connects again by itself, and the page says while it cannot. */
function listen(path, use) {
  const source = new EventSource(path);
  source.onmessage = (event) => {
    connection.textContent = "";
    use(JSON.parse(event.data));
  };
  source.onerror = () => {
    connection.textContent = "The service does not answer: these numbers are old";
  };
  return source;
}

/** Replace the parts of the page that have changed, but none that somebody is in with the keyboard. */
function replace(fragments) {
  for (const [id, html] of Object.entries(fragments)) {
    const part = find(id);
    if (part && part.dataset.html !== html && !part.contains(document.activeElement)) {
      const scrolled = [...part.querySelectorAll(".wide")].map((one) => one.scrollLeft);
      part.innerHTML = html; // made and escaped by the server
      part.querySelectorAll(".wide").forEach((one, n) => { one.scrollLeft = scrolled[n] || 0; });
      part.dataset.html = html;
    }
  }
}

// Charts

const COLOURS = ["#3b82f6", "#0d9488", "#a855f7", "#d97706", "#db2777", "#65a30d", "#0891b2", "#dc2626"];
const LENGTHS = { "5m": 300, "1h": 3600, "24h": 86400 };
const STEPS = { "5m": 2, "1h": 20, "24h": 300 };
const FIELDS = ["received", "published", "p50", "p99", "lag", "batch"];
const CHARTS = {
  rate: [["received", 1, []]],
  latency: [["p50", 1000, [2, 4]], ["p99", 1000, []]],
  lag: [["lag", 1, []]],
};

/** The charts of all handlers, or of one: all of them show the same span of time. */
class Charts {
  constructor(handler) {
    this.handler = handler;
    this.plots = [];
    this.span = "5m";
    this.data = { at: [], handlers: {}, marks: [] };
    this.changed = 0;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
    addEventListener("resize", () => this.build());
  }

  async load(span) {
    this.span = span;
    this.changed = Date.now();
    const answer = await fetch(`history?span=${span}`);
    if (!answer.ok || span !== this.span) return;
    this.data = await answer.json();
    this.data.handlers = this.chosen(this.data.handlers);
    this.build();
  }

  /** What belongs to the handler that is shown; all of it, if none is chosen. */
  chosen(values) {
    const kept = Object.entries(values).filter(([name]) => !this.handler || name === this.handler);
    return Object.fromEntries(kept);
  }

  /** Add the newest point; the longer spans are read again when their step is over. */
  add(point, marks) {
    if (this.span !== "5m") {
      if (Date.now() - this.changed > STEPS[this.span] * 1000) this.load(this.span);
      return;
    }
    this.data.marks = marks;
    const { at, handlers } = this.data;
    if (!point || point.at <= (at[at.length - 1] || 0)) return;
    const values = this.chosen(point.values);
    const names = new Set([...Object.keys(handlers), ...Object.keys(values)]);
    const known = names.size === Object.keys(handlers).length;
    at.push(point.at);
    for (const name of names) {
      handlers[name] = handlers[name] || Object.fromEntries(FIELDS.map((f) => [f, Array(at.length - 1).fill(null)]));
      FIELDS.forEach((field, n) => handlers[name][field].push((values[name] || [])[n] ?? null));
    }
    while (at.length && at[0] < point.at - LENGTHS["5m"]) {
      at.shift();
      for (const one of Object.values(handlers)) FIELDS.forEach((field) => one[field].shift());
    }
    if (known && this.plots.length) this.plots.forEach(([plot, name]) => plot.setData(this.columns(name)));
    else this.build();
  }

  columns(chart) {
    const columns = [this.data.at];
    for (const one of Object.values(this.data.handlers)) {
      for (const [field, factor] of CHARTS[chart]) {
        columns.push(one[field].map((value) => (value === null ? null : value * factor)));
      }
    }
    return columns;
  }

  build() {
    this.plots.forEach(([plot]) => plot.destroy());
    const style = getComputedStyle(document.documentElement);
    const [dim, line, bad] = ["--dim", "--line", "--bad"].map((name) => style.getPropertyValue(name).trim());
    const names = Object.keys(this.data.handlers);
    const axis = { stroke: dim, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    this.legend(names);
    this.plots = Object.keys(CHARTS).map((chart) => {
      const box = find(`chart-${chart}`);
      const series = names.flatMap((name, n) => CHARTS[chart].map(([field, , dash]) => ({
        label: `${name} ${field}`, stroke: COLOURS[n % COLOURS.length], width: 1.6, dash, points: { show: false },
      })));
      const now = () => this.data.at[this.data.at.length - 1] || Date.now() / 1000;
      const options = {
        width: Math.max(box.clientWidth, 200),
        height: 170,
        series: [{}, ...series],
        axes: [axis, { ...axis, size: 62 }],
        scales: {
          x: { range: () => [now() - LENGTHS[this.span], now()] },
          y: { range: (plot, low, high) => [0, (high || 1) * 1.1] },
        },
        legend: { show: false },
        cursor: { drag: { x: false, y: false } },
        hooks: { draw: [(plot) => this.drawMarks(plot, bad)] },
      };
      return [new uPlot(options, this.columns(chart), box), chart];
    });
  }

  /** A line in every chart for each restart, new model and outage. */
  drawMarks(plot, colour) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = colour;
    ctx.setLineDash([4, 4]);
    for (const mark of this.data.marks || []) {
      const x = plot.valToPos(mark.at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  legend(names) {
    const items = names.map((name, n) => {
      const item = document.createElement("span");
      const box = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      const colour = document.createElementNS("http://www.w3.org/2000/svg", "rect");
      box.setAttribute("width", 11);
      box.setAttribute("height", 11);
      colour.setAttribute("width", 11);
      colour.setAttribute("height", 11);
      colour.setAttribute("fill", COLOURS[n % COLOURS.length]);
      box.append(colour);
      item.append(box, name);
      return item;
    });
    find("legend").replaceChildren(...items);
  }
}

const live = find("content").dataset.live;
if (live) {
  const box = document.querySelector("[data-charts]");
  const charts = box && new Charts(box.dataset.charts);
  if (charts) find("span").addEventListener("change", (event) => charts.load(event.target.value));
  let source = null;
  /** A tab that nobody sees keeps no connection: a browser opens only six to a host. */
  const follow = () => {
    if (source) source.close();
    source = null;
    if (document.hidden) return;
    if (charts) charts.load(charts.span);
    source = listen(live, ({ fragments, point, marks }) => {
      replace(fragments);
      if (charts) charts.add(point, marks);
    });
  };
  document.addEventListener("visibilitychange", follow);
  follow();
}

// Live tail

const MOST = 500; // records on the page

function tail(section) {
  const form = section.querySelector("form");
  const [state, records, pause] = [find("tail-state"), find("records"), find("pause")];
  let source = null;
  let [shown, skipped] = [0, 0];

  function stop() {
    if (source) source.close();
    source = null;
  }

  function start() {
    stop();
    const query = new URLSearchParams(new FormData(form));
    state.textContent = "Waiting for new records";
    source = listen(`tail-records?${query}`, (message) => {
      for (const html of message.records) {
        const record = document.createElement("div");
        record.innerHTML = html; // made and escaped by the server
        records.prepend(record);
      }
      while (records.childElementCount > MOST) records.lastElementChild.remove();
      shown += message.records.length;
      skipped += message.skipped;
      if (shown) state.textContent = `${shown} records` + (skipped ? `; ${skipped} more were too fast to show` : "");
      if (message.error) {
        state.textContent = message.error;
        stop();
      }
    });
  }

  function setPaused(paused) {
    pause.setAttribute("aria-pressed", paused);
    pause.textContent = paused ? "Go on" : "Pause";
    if (paused) {
      stop();
      state.textContent = `Paused after ${shown} records`;
    } else start();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    records.replaceChildren();
    [shown, skipped] = [0, 0];
    setPaused(false);
  });
  pause.addEventListener("click", () => setPaused(source !== null));
  if (new URLSearchParams(location.search).has("topic")) setPaused(false);
}

document.querySelectorAll("[data-tail]").forEach(tail);
