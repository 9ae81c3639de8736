"use strict";
(async () => {
  const SVG = document.querySelector("svg").namespaceURI;
  const PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const table = byId("records");
  if (!table) return;
  const say = (text) => { byId("shown").textContent = text; };

  const unpack = async (id) => {
    const bytes = Uint8Array.from(atob(byId(id).textContent.trim()), (one) => one.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  let data, tracks;
  try {
    [data, tracks] = [await unpack("packed-records"), await unpack("packed-tracks")];
  } catch {
    say("This browser cannot unpack the records: they are in predictions.tsv.");
    return;
  }

  const { rows, counts, kinds, samples, lengths, edges } = data;
  const summed = (steps) => { let sum = 0; return steps.map((step) => (sum += step)); };
  rows.probability = summed(rows.probability);
  rows.fdr = summed(rows.fdr);
  rows.name = rows.count ? rows.name.split("\n") : [];
  const lower = rows.name.map((name) => name.toLowerCase());
  const trackOf = new Map(tracks.rows.map((row, at) => [row, tracks.points[at]]));
  const regionsOf = new Map(tracks.regions);
  const CALLS = { 1: "viral", 0: "host", "-1": "no call" };
  const LEVELS = { 2: "high", 1: "medium", 0: "low", "-1": "" };
  const several = samples.length > 1;
  const lengthClass = (bases) => { let at = 0; while (at < edges.length && bases >= edges[at]) at++; return at; };
  const whole = (number) => number.toLocaleString("en-US");
  const share = (value) => (value < 0 ? "" : (value / 10000).toFixed(4));

  const make = (tag, content = "", kind = "") => {
    const made = document.createElement(tag);
    if (kind) made.className = kind;
    made.append(...[content].flat());
    return made;
  };
  const draw = (tag, attributes, ...inside) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...inside);
    return made;
  };

  // The windows of a record as bars: viral where that is likelier than not.
  const track = (row, width, height) => {
    const points = trackOf.get(row), all = rows.length[row];
    const bars = { viral: "", host: "" };
    points.forEach((value, at) => {
      if (value < 0) return;
      const left = (width * at) / points.length, tall = Math.max(1, (height * value) / 100);
      bars[value >= 50 ? "viral" : "host"] +=
        `M${left.toFixed(2)} ${height}v${(-tall).toFixed(2)}h${(width / points.length).toFixed(2)}v${tall.toFixed(2)}z`;
    });
    const above = height * 0.12;
    const made = draw("svg", { viewBox: `0 ${-above} ${width} ${height + above}`, preserveAspectRatio: "none", class: "track" });
    made.append(draw("rect", { class: "empty", width, height }));
    for (const [start, end] of regionsOf.get(row) || []) {
      made.append(draw("rect", { class: "region", x: (width * start) / all, width: Math.max(1.5, (width * (end - start)) / all), height }));
    }
    for (const kind of ["host", "viral"]) made.append(draw("path", { class: kind, d: bars[kind] }));
    for (const shaded of made.querySelectorAll(".region")) {
      // Bars may hide the shade: a strip above them says where regions are all the same.
      const strip = shaded.cloneNode();
      for (const [name, value] of Object.entries({ class: "strip", y: -above, height: height * 0.1 })) strip.setAttribute(name, value);
      made.append(strip);
    }
    return made;
  };

  const dialog = byId("large");
  const enlarge = (row) => {
    const all = rows.length[row], spans = regionsOf.get(row) || [], wide = 1000, tall = 220;
    const plot = draw("svg", { viewBox: "-44 -34 1060 288", class: "chart" });
    const inner = track(row, wide, tall);
    for (const [name, value] of Object.entries({ width: wide, height: tall * 1.12, y: -tall * 0.12 })) inner.setAttribute(name, value);
    plot.append(inner);
    for (const level of [0, 0.5, 1]) {
      const y = tall * (1 - level);
      plot.append(draw("line", { class: "grid", x1: 0, x2: wide, y1: y, y2: y }), draw("text", { x: -8, y: y + 4, "text-anchor": "end" }, String(level)));
    }
    for (let part = 0; part <= 4; part++) {
      plot.append(draw("text", { x: (wide * part) / 4, y: tall + 20, "text-anchor": ["start", "middle", "middle", "middle", "end"][part] }, whole(Math.round((all * part) / 4))));
    }
    byId("large-name").textContent = rows.name[row];
    byId("large-about").textContent = `${whole(all)} bases, ${CALLS[rows.call[row]]}, probability ${share(rows.probability[row])}. ` +
      `Bars: probability of viral, window by window${trackOf.get(row).length < tracks.most ? "" : ", means of neighbours where there are many"}.`;
    byId("large-plot").replaceChildren(plot);
    byId("large-regions").replaceChildren(...spans.map(([start, end]) => make("li", `${whole(start)} to ${whole(end)} (${whole(end - start)} bases)`)));
    byId("large-shaded").hidden = !spans.length;
    dialog.showModal();
  };

  const call = (row) => {
    const text = CALLS[rows.call[row]];
    const why = rows.reason.length && rows.reason[row] >= 0 ? rows.reasons[rows.reason[row]] : "";
    return [make("span", text, `call ${text.replace(" ", "-")}`), ...(why ? [make("small", ` ${why}`)] : [])];
  };
  const meter = (row) => {
    if (rows.probability[row] < 0) return "";
    const bar = make("i");
    bar.style.width = `${rows.probability[row] / 100}%`;
    return [make("span", bar, "meter"), share(rows.probability[row])];
  };
  const windows = (row) => {
    if (!trackOf.has(row)) return regionsOf.has(row) ? make("small", `${regionsOf.get(row).length} regions`) : "";
    const button = make("button", track(row, 160, 26), "open");
    button.type = "button";
    button.setAttribute("aria-label", `Enlarge the windows of ${rows.name[row]}`);
    button.addEventListener("click", () => enlarge(row));
    return button;
  };
  const number = (values, text) => ({ value: (row) => values[row], cell: (row) => (values[row] < 0 ? "" : text(values[row])) });
  const word = (value) => ({ text: true, value, cell: value });
  const columns = [
    { name: "name", text: true, kind: "name", value: (row) => rows.name[row], cell: (row) => rows.name[row] },
    ...(several ? [{ name: "sample", ...word((row) => samples[rows.sample[row]]) }] : []),
    { name: "call", text: true, value: (row) => rows.call[row], cell: call },
    { name: "probability", value: (row) => rows.probability[row], cell: meter },
    ...(tracks.rows.length || tracks.regions.length ? [{ name: "windows", fixed: true, cell: windows, text: true }] : []),
    ...(kinds.length ? [{ name: "kind", ...word((row) => (kinds[rows.kind[row]] || "").replaceAll("_", " ")) }] : []),
    { name: "length", ...number(rows.length, whole) },
    { name: "FDR", ...number(rows.fdr, share) },
    { name: "agreement", ...number(rows.agreement, (value) => `${value}%`) },
    { name: "novelty", ...number(rows.novelty, String) },
    { name: "reliability", text: true, value: (row) => rows.reliability[row], cell: (row) => LEVELS[rows.reliability[row]] },
  ];

  const total = counts[5].reduce((sum, count) => sum + count, 0);
  // What can be chosen: code of a listed record, place among the columns of the counts, and names of the codes.
  const filters = {
    call: { of: (row) => rows.call[row], column: 0, names: CALLS },
    kind: { of: (row) => rows.kind[row], column: 1, names: Object.fromEntries(kinds.map((name, at) => [at, name.replaceAll("_", " ")])) },
    reliability: { of: (row) => rows.reliability[row], column: 2, names: { 2: "high", 1: "medium", 0: "low", "-1": "none" } },
    length: { of: (row) => lengthClass(rows.length[row]), column: 3, names: Object.fromEntries(lengths.map((name, at) => [at, name])) },
    sample: { of: (row) => rows.sample[row], column: 4, names: several ? Object.fromEntries(samples.map((name, at) => [at, name])) : {} },
  };
  const selects = {};
  for (const [name, filter] of Object.entries(filters)) {
    const select = byId(`filter-${name}`), there = new Map();
    counts[filter.column].forEach((code, at) => there.set(code, (there.get(code) || 0) + counts[5][at]));
    const codes = Object.keys(filter.names).map(Number).filter((code) => there.has(code));
    if (name === "call" || name === "reliability") codes.sort((one, other) => other - one);
    if (codes.length < 2) {
      select.parentElement.remove();
      continue;
    }
    select.append(new Option("any", ""), ...codes.map((code) => new Option(`${filter.names[code]} (${whole(there.get(code))})`, code)));
    selects[name] = select;
    select.addEventListener("change", () => refresh());
  }

  let found = [], first = 0, sorted = null, falling = true;
  const search = byId("search");
  const refresh = () => {
    const chosen = Object.entries(selects).filter(([, select]) => select.value !== "").map(([name, select]) => [filters[name], Number(select.value)]);
    const wanted = search.value.trim().toLowerCase();
    found = [];
    for (let row = 0; row < rows.count; row++) {
      if (chosen.every(([filter, code]) => filter.of(row) === code) && (!wanted || lower[row].includes(wanted))) found.push(row);
    }
    if (sorted) {
      const sign = falling ? -1 : 1, value = sorted.value;
      found.sort((one, other) => {
        const a = value(one), b = value(other);
        return (sign * (typeof a === "number" ? a - b : a < b ? -1 : a > b ? 1 : 0)) || one - other;
      });
    }
    let all = 0;
    for (let at = 0; at < counts[5].length; at++) {
      if (chosen.every(([filter, code]) => counts[filter.column][at] === code)) all += counts[5][at];
    }
    const said = [];
    said.push(chosen.length ? `${whole(all)} of ${whole(total)} records match the filters.` : `${whole(total)} records.`);
    if (wanted) said.push(`${whole(found.length)} of them, among those listed, are so named.`);
    else if (found.length < all) said.push(`${whole(found.length)} of them are listed.`);
    if (wanted && rows.count < total) said.push("Names that are not listed are in predictions.tsv only.");
    say(said.join(" "));
    first = 0;
    show();
  };
  const show = () => {
    table.tBodies[0].replaceChildren(...found.slice(first, first + PAGE).map((row) =>
      make("tr", columns.map((column) => make("td", column.cell(row), column.kind || (column.text ? "text" : ""))))));
    const last = Math.min(found.length, first + PAGE);
    byId("place").textContent = found.length ? `${whole(first + 1)} to ${whole(last)} of ${whole(found.length)}` : "none";
    byId("before").disabled = first === 0;
    byId("behind").disabled = last >= found.length;
  };
  const turn = (by) => { first += by; show(); byId("listing").scrollTop = 0; };

  const heads = columns.map((column) => {
    const head = make("th", "", column.text ? "text" : "");
    head.scope = "col";
    if (column.fixed) {
      head.textContent = column.name;
      return head;
    }
    const button = make("button", column.name);
    button.type = "button";
    button.title = `Sort by ${column.name}`;
    button.addEventListener("click", () => {
      falling = sorted === column ? !falling : !(column.text && column.name !== "call" && column.name !== "reliability");
      sorted = column;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      refresh();
    });
    head.append(button);
    return head;
  });
  table.tHead.replaceChildren(make("tr", heads));
  search.addEventListener("input", refresh);
  byId("before").addEventListener("click", () => turn(-PAGE));
  byId("behind").addEventListener("click", () => turn(PAGE));
  byId("clear").addEventListener("click", () => {
    search.value = "";
    for (const select of Object.values(selects)) select.value = "";
    refresh();
  });
  byId("large-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  for (const hidden of document.querySelectorAll("[data-with-script]")) hidden.hidden = false;
  refresh();
})();
