"use strict";

// Sections that open: all at once, when they are linked to, and on paper.
const sections = [...document.querySelectorAll("main > section > details")];
const all = document.getElementById("all");
if (all) {
  all.hidden = !sections.length;
  all.addEventListener("click", () => sections.forEach((section) => { section.open = true; }));
  addEventListener("beforeprint", () => sections.forEach((section) => { section.open = true; }));
  const show = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    const section = target && (target.querySelector(":scope > details") || target.closest("details"));
    if (section) section.open = true;
  };
  addEventListener("hashchange", show);
  show();
}

// A table that is wider than its place folds its words, and if it still is, each row becomes a card.
function fit(place) {
  const isWide = () => place.scrollWidth > place.clientWidth;
  place.classList.remove("folded", "cards");
  if (isWide()) place.classList.add("folded");
  if (isWide()) place.classList.replace("folded", "cards");
}

// A chart's labels may be wider here than where it was drawn, by the fonts that there are: it grows to hold them.
function grow(svg) {
  const view = svg.viewBox.baseVal, box = svg.getBBox(), room = 4;
  const left = Math.min(view.x, box.x - room), top = Math.min(view.y, box.y - room);
  const right = Math.max(view.x + view.width, box.x + box.width + room);
  const bottom = Math.max(view.y + view.height, box.y + box.height + room);
  svg.setAttribute("viewBox", `${left} ${top} ${right - left} ${bottom - top}`);
  svg.setAttribute("width", right - left);
  svg.setAttribute("height", bottom - top);
}

// What has to be scrolled sideways can be by the keyboard too.
function reach(place) {
  const isWide = place.scrollWidth > place.clientWidth;
  const title = place.closest(".table, .chooser, .chart").querySelector("h3")?.textContent || "Table";
  for (const [name, value] of Object.entries({tabindex: "0", role: "region", "aria-label": title})) {
    isWide ? place.setAttribute(name, value) : place.removeAttribute(name);
  }
}

const widths = new Map();
const watched = new ResizeObserver((entries) => requestAnimationFrame(() => {
  for (const {target} of entries) {
    if (target.clientWidth && widths.get(target) !== target.clientWidth) {
      target.closest(".chart") ? target.querySelectorAll("svg").forEach(grow) : fit(target);
      reach(target);
      widths.set(target, target.clientWidth);
    }
  }
}));
for (const place of document.querySelectorAll(":is(.table, .chooser, .chart) .scroll")) watched.observe(place);

// Tables: a heading sorts, the form above filters.
for (const box of document.querySelectorAll(".table")) {
  const body = box.querySelector("tbody"), form = box.querySelector("form");
  const rows = [...body.rows], heads = [...box.querySelectorAll("th")];
  const search = form.querySelector("input[type=search]"), choices = [...form.querySelectorAll("select")];
  const absent = form.querySelector("label.absent"), told = form.querySelector("output");

  heads.forEach((head, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => sort(place));
  });

  function sort(place) {
    const before = heads[place].getAttribute("aria-sort");
    const sign = before === "ascending" ? -1 : 1;
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[place].setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const isNumeric = rows.some((row) => "number" in row.cells[place].dataset);
    const key = (row) => {
      const cell = row.cells[place];
      if (!isNumeric) return cell.textContent;
      return "number" in cell.dataset ? Number(cell.dataset.number.replace("inf", "Infinity")) : null;
    };
    body.append(...[...rows].sort((a, b) => compare(key(a), key(b), sign)));
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = choices.filter((choice) => choice.value).map((choice) => [
      heads.findIndex((head) => head.dataset.column === choice.dataset.column), choice.value]);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word)) &&
        wanted.every(([place, value]) => row.cells[place].textContent === value) &&
        (!row.classList.contains("absent") || absent.firstElementChild.checked));
      shown += !row.hidden;
    }
    told.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  }

  const missing = rows.filter((row) => row.classList.contains("absent")).length;
  absent.hidden = missing === 0;
  absent.lastElementChild.textContent = `show ${missing} that cannot run here`;
  absent.firstElementChild.checked = missing === rows.length;
  form.hidden = rows.length < 4 || !choices.length;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  filter();
}

// Rows without a number come last in either direction.
function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, {numeric: true}));
}

// Picking: every case is judged by the bounds that the sliders set, with its whole interval.
for (const box of document.querySelectorAll(".chooser")) {
  const form = box.querySelector("form"), body = box.querySelector("tbody"), told = box.querySelector(".caption");
  const rows = [...body.rows], sliders = [...form.querySelectorAll("input[type=range]")];
  const verdicts = ["meets", "may", "unknown", "fails"];

  // At one end there is no bound; between the ends the scale is logarithmic, for accuracy linear.
  function bound(slider) {
    const least = "least" in slider.dataset, at = Number(slider.value) / 100;
    const low = Number(slider.dataset.low), high = Number(slider.dataset.high);
    if (at === (least ? 0 : 1)) return null;
    return least || low <= 0 ? low + at * (high - low) : low * (high / low) ** at;
  }

  function verdict(cell, most, least) {
    if (!cell.dataset.ends) return "unknown";
    const [low, , high] = cell.dataset.ends.split(",");
    if (low === "" || high === "") return "may";
    const inside = least ? Number(low) >= most : Number(high) <= most;
    const outside = least ? Number(high) < most : Number(low) > most;
    return inside ? "meets" : outside ? "fails" : "may";
  }

  function judge() {
    const bounds = sliders.map((slider) => [slider.name, bound(slider), "least" in slider.dataset]);
    bounds.forEach(([, value], place) => {
      form.querySelectorAll("output")[place].textContent = value === null ? "any" : Number(value.toPrecision(3));
    });
    const counts = {meets: 0, may: 0, unknown: 0, fails: 0};
    for (const row of rows) {
      row.hidden = form.elements.batch && form.elements.batch.value !== row.dataset.batch;
      const found = bounds.filter(([, value]) => value !== null).map(([name, value, least]) =>
        verdict(row.querySelector(`[data-metric=${name}]`), value, least));
      row.className = verdicts[Math.max(0, ...found.map((each) => verdicts.indexOf(each)))];
      row.cells[0].textContent = row.className;
      counts[row.className] += !row.hidden;
    }
    const p50 = (row) => Number((row.querySelector("[data-metric=p50]")?.dataset.ends || ",0").split(",")[1]);
    body.append(...[...rows].sort((a, b) =>
      verdicts.indexOf(a.className) - verdicts.indexOf(b.className) || p50(a) - p50(b)));
    told.textContent = `${verdicts.map((each) => `${counts[each]} ${each}`).join(", ")}. Within a verdict by p50.`;
  }

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", judge);
  judge();
}

// Charts: what a mark stands for, when it is pointed at.
const tip = document.getElementById("tip");
for (const chart of document.querySelectorAll(".chart")) {
  chart.addEventListener("pointermove", (event) => {
    const mark = event.target.closest("path[aria-label], text[aria-label]");
    tip.hidden = !mark || !chart.contains(mark);
    if (tip.hidden) return;
    tip.textContent = mark.getAttribute("aria-label");
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8)}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
}

// Raw samples: one case at a time, in the order of time; a stripe is a block, a vertical line starts a launch.
for (const box of document.querySelectorAll(".samples")) {
  const cases = JSON.parse(box.querySelector("script").textContent);
  const form = box.querySelector("form"), choice = form.querySelector("select");
  const fromZero = form.elements.zero, whole = form.elements.whole, svg = box.querySelector("svg"), told = box.querySelector(".caption");
  const left = 64, right = 850, top = 10, bottom = 270;

  function add(name, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    svg.append(element);
  }

  function draw() {
    const chosen = cases[choice.value];
    if (!chosen) return;
    const blocks = chosen.launches.flatMap((launch) => launch.blocks), all = blocks.flatMap((block) => block.ms);
    const ordered = [...all].sort((a, b) => a - b), slowest = ordered[ordered.length - 1];
    const lowest = fromZero.checked ? 0 : ordered[0] * 0.98;
    const usual = lowest + 1.5 * (ordered[Math.floor(0.97 * (ordered.length - 1))] - lowest);
    const highest = whole.checked || slowest < 1.5 * usual ? slowest * 1.02 : usual;
    const x = (place) => left + (place + 0.5) / all.length * (right - left);
    const y = (ms) => bottom - (Math.min(ms, highest) - lowest) / (highest - lowest) * (bottom - top);
    const [median, low, high] = chosen.ms;
    svg.replaceChildren();
    let place = 0;
    blocks.forEach((block, number) => {
      if (number % 2) add("rect", {class: "block", x: x(place - 0.5), width: x(place + block.ms.length) - x(place),
        y: top, height: bottom - top});
      place += block.ms.length;
    });
    for (const tick of ticks(lowest, highest)) {
      add("line", {class: "grid", x1: left, x2: right, y1: y(tick), y2: y(tick)});
      add("text", {x: left - 8, y: y(tick) + 4, "text-anchor": "end"}, Number(tick.toPrecision(6)));
    }
    if (low !== null) add("rect", {class: "interval", x: left, width: right - left, y: y(high),
      height: Math.max(y(low) - y(high), 1)});
    add("line", {class: "median", x1: left, x2: right, y1: y(median), y2: y(median)});
    place = 0;
    for (const launch of chosen.launches) {
      if (place) add("line", {class: "launch", x1: x(place - 0.5), x2: x(place - 0.5), y1: top, y2: bottom});
      for (const block of launch.blocks) {
        for (const ms of block.ms) {
          const kind = ["dot", block.out && "out", ms > highest && "beyond"].filter(Boolean).join(" ");
          add("circle", {class: kind, cx: x(place++), cy: y(ms), r: 2});
        }
      }
    }
    add("text", {x: left - 8, y: top, "text-anchor": "end"}, "ms");
    add("text", {x: (left + right) / 2, y: 292, "text-anchor": "middle"}, "samples in the order of time");
    told.textContent = describe(chosen, blocks, all.length, ordered.filter((ms) => ms > highest));
  }

  function describe(chosen, blocks, drawn, beyond) {
    const out = blocks.filter((block) => block.out), reasons = [...new Set(out.map((block) => block.why))];
    const calls = chosen.launches[0].calls;
    const words = [`${chosen.status}; ${chosen.count} samples in ${blocks.length} blocks (stripes) of ` +
      `${many(chosen.launches.length, "launch", "launches")}, ${calls > 1 ? `${calls} calls each` : "single calls"}.`];
    if (drawn < chosen.count) words.push(`Every ${chosen.every}th sample of a block is drawn.`);
    if (beyond.length) {
      words.push(`Hollow, at the upper edge: ${many(beyond.length, "slower sample", "slower samples")}, ` +
        `up to ${Number(beyond[beyond.length - 1].toPrecision(3))} ms.`);
    }
    words.push("Line and band: the median and its 95 % interval.");
    if (out.length) words.push(`Red: ${many(out.length, "block", "blocks")} left out: ${reasons.join("; ")}.`);
    return words.join(" ");
  }

  function many(count, one, more) {
    return `${count} ${count === 1 ? one : more}`;
  }

  // About five round values within the range.
  function ticks(lowest, highest) {
    const rough = (highest - lowest) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
    const found = [];
    for (let tick = Math.ceil(lowest / step) * step; tick <= highest; tick += step) found.push(tick);
    return found;
  }

  form.hidden = false;
  form.addEventListener("input", draw);
  draw();
}
