"use strict";

// The arithmetic, which a test compares with the layers.

const CHANNELS = 8, MOMENTUM = 0.1;
const NORMS = {
  BN: { name: "batch_norm", over: "N, H × W", group: (i, c, p, s) => c },
  LN: { name: "layer_norm", over: "C, H × W", group: (i, c, p, s) => i },
  IN: { name: "instance_norm", over: "H × W", group: (i, c, p, s) => i * s.channels + c },
  GN: { name: "group_norm", over: "C/G, H × W", group: (i, c, p, s) => i * s.channels + Math.floor(c / s.perGroup) },
  RMS: { name: "rms_norm", over: "C", group: (i, c, p, s) => i * s.positions + p, eps: 2 ** -23, uncentered: true },
};
const TRUE_MEAN = c => 1.5 * Math.sin(2.4 * c), TRUE_STD = c => 0.4 + 0.09 * c;

function normals(seed) {
  const uniform = () => {  // mulberry32
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

function activations(seed, { samples, channels, positions }) {
  const next = normals(seed), x = new Float64Array(samples * channels * positions);
  for (let j = 0; j < x.length; j++) {
    const c = Math.floor(j / positions) % channels;
    x[j] = TRUE_MEAN(c) + TRUE_STD(c) * next();
  }
  return x;
}

function normalize(kind, x, shape, { gamma = 1, beta = 0, running = null } = {}) {
  const { group, eps = 1e-5, uncentered } = NORMS[kind], { channels, positions } = shape;
  const ids = Array.from(x, (_, j) => group(Math.floor(j / positions / channels), Math.floor(j / positions) % channels, j % positions, shape));
  const size = Math.max(...ids.slice(-channels * positions), ids[0]) + 1;
  const count = new Float64Array(size), mean = new Float64Array(size), variance = new Float64Array(size);
  x.forEach((value, j) => { count[ids[j]]++; mean[ids[j]] += value; });
  mean.forEach((sum, id) => { mean[id] = uncentered ? 0 : sum / count[id]; });
  x.forEach((value, j) => { variance[ids[j]] += (value - mean[ids[j]]) ** 2; });
  variance.forEach((sum, id) => { variance[id] = sum / count[id]; });
  const used = running || { mean, variance };
  const xHat = x.map((value, j) => (value - used.mean[ids[j]]) / Math.sqrt(used.variance[ids[j]] + eps));
  return { ids, count: count[ids[0]], mean: used.mean, variance: used.variance, batch: { mean, variance }, xHat,
    y: xHat.map(value => gamma * value + beta), refused: !running && count[ids[0]] < 2 };
}

function updated(running, { batch: { mean, variance }, count }) {
  const blend = (old, found) => old.map((value, c) => (1 - MOMENTUM) * value + MOMENTUM * found[c]);
  return { mean: blend(running.mean, mean), variance: blend(running.variance, variance.map(v => v * count / (count - 1))) };
}

const plain = text => text.toLowerCase().replace(/[^a-z0-9]/g, "");

if (typeof module !== "undefined") module.exports = { CHANNELS, NORMS, activations, normalize, updated };

// The page.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
function make(tag, attributes = {}, ...children) {
  const node = ["svg", "g", "path", "line", "circle", "text"].includes(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function saving() {
  for (const button of all(".save")) {
    const card = button.closest(".card"), svg = button.closest("figure").querySelector("svg");
    button.setAttribute("aria-label", `Save the picture of ${card.id} as SVG`);
    button.onclick = () => {
      const copy = svg.cloneNode(true), [, , width, height] = svg.getAttribute("viewBox").split(" ");
      for (const [name, value] of Object.entries({ width, height, color: "#222" })) copy.setAttribute(name, value);
      const file = new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
      const link = make("a", { href: URL.createObjectURL(file), download: `${card.id}.svg` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };
  }
}

function filtering() {
  const form = document.getElementById("filters"), grid = document.getElementById("cards"), cards = all(".card");
  const facts = new Map(cards.map(card => [card, JSON.parse(card.dataset.facts)]));
  const names = new Map(cards.map(card => [card, card.dataset.names.split(" ").map(plain)]));
  for (const title of ["averages over", "kind", "batch-dependent", "train and eval differ", "state", "one fused kernel", "includes activation"]) {
    const values = title === "state" ? ["none", "some"] : [...new Set([...facts.values()].map(fact => fact[title]))].sort();
    const select = make("select", { name: title }, make("option", { value: "" }, "any"), ...values.map(value => make("option", { value }, value)));
    document.getElementById("facts").append(make("label", {}, title, select));
  }
  const holds = (fact, wanted, title) => !wanted || (wanted === "some" ? fact[title] !== "none" : fact[title] === wanted);
  const apply = () => {
    const { value } = form.elements.search, words = plain(value), bare = plain(value.replace(/^(torch\.)?(nn\.)?/i, ""));
    for (const card of cards) {
      const found = names.get(card).some(name => name.includes(words) || name === bare);
      card.hidden = !found || !all("#facts select").every(({ name, value }) => holds(facts.get(card), value, name));
    }
    const exact = card => words && names.get(card).includes(words) ? 0 : 1;
    const year = card => form.elements.order.value === "year" ? Number(card.dataset.year) || 9999 : 0;
    grid.append(...[...cards].sort((a, b) => exact(a) - exact(b) || year(a) - year(b) || (a.id < b.id ? -1 : 1)));
    document.getElementById("count").value = `${cards.filter(card => !card.hidden).length} of ${cards.length}`;
  };
  form.oninput = apply;
  form.onsubmit = event => event.preventDefault();
  form.onreset = () => setTimeout(apply);
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target?.hidden) { form.reset(); setTimeout(() => target.scrollIntoView()); }
  });
  apply();
}

function comparing() {
  const dialog = document.getElementById("compare"), table = dialog.querySelector("table");
  let picked = [];
  const cells = card => {
    const facts = Object.entries(JSON.parse(card.dataset.facts)).map(([title, value]) => [title, [value]]);
    return new Map([...all("[data-row]", card).map(node => [node.dataset.row, [node.cloneNode(true)]]), ...facts]);
  };
  const text = parts => parts?.map(part => part.textContent === undefined ? part : part.outerHTML.replace(/<title>.*?<\/title>|<button.*?<\/button>/g, "")).join("");
  for (const box of all(".pick input")) {
    box.onchange = () => {
      picked = box.checked ? [...picked, box] : picked.filter(other => other !== box);
      while (picked.length > 2) picked.shift().checked = false;
      if (!box.checked || picked.length < 2) return;
      const [a, b] = picked.map(each => each.closest(".card")), [left, right] = [cells(a), cells(b)];
      table.replaceChildren(make("thead", {}, make("tr", {}, make("th"), ...[a, b].map(card => make("th", { scope: "col" }, card.id)))));
      table.append(make("tbody", {}, ...[...new Set([...left.keys(), ...right.keys()])].map(title => make("tr",
        text(left.get(title)) === text(right.get(title)) ? {} : { class: "differs" }, make("th", { scope: "row" }, title),
        ...[left, right].map(side => make("td", {}, ...(side.get(title) || ["–"])))))));
      all(".save", table).forEach(button => button.remove());
      dialog.showModal();
    };
  }
  dialog.onclose = () => { picked.forEach(box => { box.checked = false; }); picked = []; };
}

function experimenting() {
  const scores = JSON.parse(document.getElementById("scores").textContent);
  const form = document.getElementById("controls"), batches = [2, 4, 8, 16, 32, 64], sizes = [1, 2, 4], groups = [1, 2, 4, 8];
  const palette = ["#0072B2", "#2f9bd6", "#009E73", "#7cb518", "#c9a400", "#E69F00", "#D55E00", "#b0518a"];
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  let shape, settings, x, found, running, history, chosen = 0, seed = 1, from = null, started = 0;

  const panels = Object.fromEntries(["x", ...Object.keys(NORMS)].map(kind => {
    const canvas = make("canvas", { tabindex: 0, role: "img" }), note = make("span");
    const title = kind === "x" ? "before: x" : `${kind} · ${NORMS[kind].name}`;
    document.getElementById("clouds").append(make("figure", {}, make("figcaption", {}, make("strong", {}, title), note), canvas));
    canvas.onclick = event => choose(nearest(kind, canvas, event));
    canvas.onkeydown = event => {
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: shape.positions, ArrowUp: -shape.positions }[event.key];
      if (step) { event.preventDefault(); choose((chosen + step + x.length) % x.length); }
    };
    return [kind, { canvas, note }];
  }));

  const score = kind => scores.rows.find(row => row.norm === NORMS[kind].name && row.batch === shape.samples);
  const percent = row => row.error === null ? row.status : `${row.error.toFixed(1)}${row.std === null ? "" : ` ± ${row.std.toFixed(1)}`} %`;
  const measured = kind => {
    if (!scores.rows.some(row => row.norm === NORMS[kind].name)) return "not in the sweep";
    const row = score(kind);
    return !row ? "–" : row.fewest ? `${percent(row)} (n = ${row.fewest} on its smallest map)` : percent(row);
  };
  const values = kind => kind === "x" ? x : found[kind].y;
  const row = j => Math.floor(j / shape.positions) % CHANNELS;
  const jitter = j => ((j * 0.618034) % 1 - 0.5) * Math.min(0.7, x.length / 200);
  const across = (value, width) => Math.max(4, Math.min(width - 4, width / 2 + value * width / 8.4));
  const down = (j, height) => (row(j) + 0.5 + jitter(j)) * (height - 30) / CHANNELS + 8;

  function nearest(kind, canvas, event) {
    const { width, height, left, top } = canvas.getBoundingClientRect();
    const distance = j => Math.hypot(across(values(kind)[j], width) - event.clientX + left, down(j, height) - event.clientY + top);
    return [...x.keys()].reduce((best, j) => distance(j) < distance(best) ? j : best, 0);
  }

  function paint(kind, share) {
    const { canvas } = panels[kind], { clientWidth: width, clientHeight: height } = canvas, ratio = devicePixelRatio || 1;
    const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), refused = kind !== "x" && found[kind].refused;
    canvas.width = width * ratio; canvas.height = height * ratio;
    pen.scale(ratio, ratio);
    pen.font = "11px system-ui, sans-serif"; pen.textAlign = "center"; pen.fillStyle = style.color; pen.strokeStyle = style.color;
    for (let tick = -4; tick <= 4; tick++) {
      pen.globalAlpha = tick ? 0.08 : 0.3;
      pen.fillRect(across(tick, width), 0, 1, height - 16);
      pen.globalAlpha = 0.65;
      if (tick % 2 === 0) pen.fillText(String(tick).replace("-", "−"), across(tick, width), height - 3);
    }
    pen.globalAlpha = 1;
    if (refused) { pen.font = "14px system-ui, sans-serif"; pen.fillText("refused: one value per statistic", width / 2, height / 2 - 8); return; }
    const target = values(kind), radius = Math.max(1.3, 5 - Math.log2(x.length) / 2.6), ids = kind === "x" ? null : found[kind].ids;
    const at = j => across(x[j] + (target[j] - x[j]) * share, width);
    for (let j = 0; j < x.length; j++) {
      pen.globalAlpha = !ids || ids[j] === ids[chosen] ? 0.95 : 0.28;
      pen.fillStyle = palette[row(j)];
      pen.beginPath(); pen.arc(at(j), down(j, height), radius, 0, 7); pen.fill();
    }
    pen.globalAlpha = 1; pen.lineWidth = 2;
    pen.beginPath(); pen.arc(at(chosen), down(chosen, height), radius + 4, 0, 7); pen.stroke();
  }

  function frame() {
    const part = still.matches ? 1 : Math.min(1, (performance.now() - started) / 700), share = 1 - (1 - part) ** 3;
    Object.keys(panels).forEach(kind => paint(kind, share));
    if (part < 1) requestAnimationFrame(frame);
  }

  function tell() {
    const number = value => value.toFixed(4).replace("-", "−"), body = document.querySelector("#numbers tbody");
    const place = [Math.floor(chosen / shape.positions / CHANNELS), row(chosen), chosen % shape.positions];
    document.querySelector("#numbers caption").textContent = `The chosen value: sample ${place[0]}, channel ${place[1]}, position ${place[2]}.`;
    body.replaceChildren(...Object.keys(NORMS).map(kind => {
      const { ids, count, mean, variance, xHat, y, refused } = found[kind], id = ids[chosen];
      const shown = refused ? ["refused", "", number(x[chosen]), "", "", "", ""] : [NORMS[kind].uncentered ? "not taken" : number(mean[id]), number(variance[id]),
        number(x[chosen]), number(xHat[chosen]), settings.gamma, kind === "RMS" ? "none" : settings.beta, number(y[chosen])];
      return make("tr", { "data-norm": kind }, make("th", { scope: "row" }, kind), ...[NORMS[kind].over, count, ...shown, measured(kind)].map(text => make("td", {}, String(text))));
    }));
    for (const [kind, { canvas, note }] of Object.entries(panels)) {
      note.textContent = kind === "x" ? `${x.length} values` : `n = ${found[kind].count}`;
      canvas.setAttribute("aria-label", `${kind}: cloud of ${x.length} values; arrow keys choose one`);
    }
    const bn = found.BN, spread = Math.max(...bn.xHat.map(Math.abs)), evaluated = settings.running !== null;
    const trained = normalize("BN", x, shape).xHat, gap = trained.reduce((sum, value, j) => sum + Math.abs(value - bn.xHat[j]), 0) / x.length;
    document.getElementById("said").textContent = (evaluated
      ? `In evaluation BN takes the running mean and variance after ${history.length} batches, not those of this one: x̂ differs from that in training by ${gap.toFixed(2)} on average.`
      : bn.count === 2 ? `BN averages 2 values here, so that each x̂ is ±1 whatever the values were (largest here ${spread.toFixed(3)}): all that is left is which one was larger.`
        : `BN averages ${bn.count} values of a channel.`)
      + (score("BN")?.error ? ` Measured at batch ${shape.samples}: an error of ${percent(score("BN"))} with BN${score("GN")?.error ? ` and ${percent(score("GN"))} with GN` : ""}.` : "");
    drawErrors();
    drawDrift();
  }

  function chart(id, description, xs, ys, ticksX, ticksY) {
    const svg = document.getElementById(id), left = 44, right = 470, top = 12, bottom = 210;
    const px = value => left + (value - xs[0]) / (xs[1] - xs[0]) * (right - left), py = value => bottom - (value - ys[0]) / (ys[1] - ys[0]) * (bottom - top);
    svg.setAttribute("viewBox", "0 0 580 240"); svg.setAttribute("aria-label", description);
    svg.replaceChildren(
      ...ticksY.flatMap(([value, text]) => [make("line", { class: "grid", x1: left, x2: right, y1: py(value), y2: py(value) }), make("text", { class: "tick", x: left - 8, y: py(value) + 4, "text-anchor": "end" }, text)]),
      ...ticksX.map(([value, text]) => make("text", { class: "tick", x: px(value), y: bottom + 18, "text-anchor": "middle" }, text)));
    const line = (points, attributes) => svg.append(make("path", { fill: "none", "stroke-width": 2, d: points.map(([a, b], k) => `${k ? "L" : "M"}${px(a).toFixed(1)} ${py(b).toFixed(1)}`).join(""), ...attributes }));
    return { svg, px, py, line, right };
  }

  function drawErrors() {
    const measuredRows = scores.rows.filter(each => each.error !== null), top = Math.max(10, ...measuredRows.map(each => each.error + (each.std || 0)));
    const { svg, px, py, line, right } = chart("errors", "validation error by samples per statistic", [1, 6], [0, top],
      batches.map(b => [Math.log2(b), b]), [0, 20, 40, 60, 80, 100].filter(tick => tick <= top).map(tick => [tick, `${tick} %`]));
    line([[Math.log2(shape.samples), 0], [Math.log2(shape.samples), top]], { stroke: "currentColor", "stroke-dasharray": "4 4", "stroke-width": 1 });
    const norms = [...new Set(measuredRows.map(each => each.norm))], last = name => measuredRows.filter(each => each.norm === name).at(-1).error;
    const labels = [...norms].sort((a, b) => last(b) - last(a));
    norms.forEach((name, k) => {
      const rows = measuredRows.filter(each => each.norm === name).sort((a, b) => a.batch - b.batch), stroke = palette[(k * 3) % 8];
      line(rows.map(each => [Math.log2(each.batch), each.error]), { stroke, "stroke-dasharray": ["", "7 3", "2 3", "9 3 2 3", "12 4"][k % 5] });
      for (const each of rows) {
        const at = Math.log2(each.batch), label = `${name} at ${each.batch}: ${percent(each)}, ${each.seeds} seeds`;
        if (each.std) line([[at, each.error - each.std], [at, each.error + each.std]], { stroke, "stroke-width": 1 });
        svg.append(make("circle", { cx: px(at), cy: py(each.error), r: each.batch === shape.samples ? 5 : 3, fill: stroke }, make("title", {}, label)));
      }
      const y = 186 - (labels.length - 1 - labels.indexOf(name)) * 15;
      svg.append(make("text", { x: right + 10, y, style: `fill: color-mix(in oklab, ${stroke}, currentColor 35%)`, "font-weight": 600 }, name.replace("_batch_norm", "_bn")));
    });
  }

  function drawDrift() {
    const c = row(chosen), steps = history.slice(-120), at = steps.flatMap(step => [step.batch[c], step.running[c]]).concat([-2.2, 2.2].map(by => TRUE_MEAN(c) + by * TRUE_STD(c)));
    const low = Math.min(...at), high = Math.max(...at), from = history.length - steps.length + 1, to = Math.max(from + 1, history.length);
    const ticks = [...Array(17).keys()].map(k => k / 2 - 4).filter(tick => tick >= low && tick <= high);
    const { svg, px, py, line } = chart("drift", `running mean of channel ${c}`, [from, to], [low, high], [[from, `batch ${from}`], [to, to]], ticks.map(tick => [tick, tick]));
    line([[from, TRUE_MEAN(c)], [to, TRUE_MEAN(c)]], { stroke: "currentColor", "stroke-dasharray": "5 4", "stroke-width": 1 });
    svg.append(...steps.map((step, k) => make("circle", { cx: px(from + k), cy: py(step.batch[c]), r: 2.6, fill: palette[5], opacity: 0.75 })));
    line(steps.map((step, k) => [from + k, step.running[c]]), { stroke: palette[1], "stroke-width": 2.5 });
  }

  function choose(j) { chosen = j; started = 0; frame(); tell(); }

  function compute(animated = true) {
    const evaluated = form.elements.mode.value === "eval";
    settings = { gamma: Number(form.elements.gamma.value), beta: Number(form.elements.beta.value), running: evaluated ? running : null };
    found = Object.fromEntries(Object.keys(NORMS).map(kind => [kind, normalize(kind, x, shape,
      { gamma: settings.gamma, beta: kind === "RMS" ? 0 : settings.beta, running: kind === "BN" ? settings.running : null })]));
    [`${shape.samples}`, `${Math.sqrt(shape.positions)} × ${Math.sqrt(shape.positions)}`, `${shape.perGroup}`, settings.gamma.toFixed(1), settings.beta.toFixed(1)]
      .forEach((text, k) => { all("#controls > label output")[k].value = text; });
    started = animated ? performance.now() : 0;
    frame();
    tell();
  }

  function step() {
    x = activations(seed++, shape);
    const trained = normalize("BN", x, shape);
    running = updated(running, trained);
    history.push({ batch: trained.batch.mean, running: running.mean });
  }

  function begin() {
    const pick = (name, list) => list[form.elements[name].value];
    shape = { samples: pick("batch", batches), channels: CHANNELS, positions: pick("size", sizes) ** 2, perGroup: pick("group", groups) };
    running = { mean: new Float64Array(CHANNELS), variance: new Float64Array(CHANNELS).fill(1) };
    history = []; seed = 1; chosen = Math.min(chosen, shape.samples * CHANNELS * shape.positions - 1);
    for (let k = 0; k < 30; k++) step();
    compute();
  }

  form.oninput = ({ target }) => ["batch", "size", "group"].includes(target.name) ? begin() : compute(target.name === "mode");
  form.onreset = () => setTimeout(begin);
  form.onsubmit = event => event.preventDefault();
  document.getElementById("next").onclick = () => { step(); compute(); };
  document.getElementById("many").onclick = () => { for (let k = 0; k < 50; k++) step(); compute(); };
  addEventListener("resize", () => { started = 0; frame(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", frame);
  begin();
}

if (typeof document !== "undefined") {
  saving();
  if (document.getElementById("cards")) { filtering(); comparing(); experimenting(); }
}
