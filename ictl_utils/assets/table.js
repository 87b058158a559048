// The table of all models: tabs, large figures in a dialog, numbers under the pointer, download.
// Without this script every tab stands open, one below the other. __SPEC__ holds names and axes; the curves
// are the SVG paths of the cells.
(() => {
  const root = document.getElementById("__ID__");
  const spec = __SPEC__;
  const { wide, high } = spec;
  const make = (tag, attributes = {}, parent = null) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") element.textContent = value;
      else element.setAttribute(name, value);
    }
    if (parent) parent.append(element);
    return element;
  };
  const plain = (text) => text.replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const minus = (text) => text.replace("-", "−");
  const number = (v) => minus(Math.abs(v) >= 1e4 ? `${(v / 1e3).toFixed(1)}k` : v.toFixed(Math.abs(v) >= 100 ? 0 : 2));
  const tokens = (v) => (v >= 1e6 ? `${(v / 1e6).toFixed(2)}M` : `${Math.round(v / 1e3)}k`);
  root.classList.add("ictl-drawn");

  // ---- tabs ----
  const families = [...root.querySelectorAll(".ictl-family")];
  const list = make("div", { role: "tablist", class: "ictl-tabs", "aria-label": "Families of models" });
  families[0].before(list);
  const tabs = families.map((family, i) => {
    family.id = `__ID__-panel-${i}`;
    family.setAttribute("role", "tabpanel");
    family.setAttribute("aria-labelledby", `__ID__-tab-${i}`);
    const tab = { type: "button", role: "tab", id: `__ID__-tab-${i}`, "aria-controls": family.id, text: family.dataset.name };
    return make("button", tab, list);
  });
  const choose = (at) => {
    tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === at));
      tab.tabIndex = i === at ? 0 : -1;
      families[i].classList.toggle("ictl-off", i !== at);
    });
  };
  tabs.forEach((tab, i) => {
    tab.addEventListener("click", () => choose(i));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = (to + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
    });
  });
  choose(0);

  // ---- what a cell holds ----
  const points = (path) => {
    const found = [];
    let [x, y] = [0, 0];
    for (const [, step, rest] of path.matchAll(/([Mlhv])([^Mlhv]*)/g)) {
      const given = (rest.match(/-?\d+/g) || []).map(Number);
      for (let i = 0; i < given.length; i += step === "h" || step === "v" ? 1 : 2) {
        if (step === "M") [x, y] = [given[i], given[i + 1]];
        else if (step === "h") x += given[i];
        else if (step === "v") y += given[i];
        else [x, y] = [x + given[i], y + given[i + 1]];
        found.push([x, y]);
      }
    }
    return found;
  };
  const linesOf = (svg) =>
    [...svg.querySelectorAll("g:not(.w) path")].map((path) => ({
      name: path.dataset.n, group: path.parentNode.dataset.g, at: points(path.getAttribute("d")),
    }));
  const valueX = (row, x) => row.x[0] + (x / wide) * (row.x[1] - row.x[0]);
  const valueY = (row, y) => row.y[1] - (y / high) * (row.y[1] - row.y[0]);

  const cells = [];
  families.forEach((family, f) => {
    family.querySelectorAll("td[data-row]").forEach((td) => {
      const svg = td.querySelector("svg");
      const row = spec.families[f].rows.find((r) => r.key === td.dataset.row);
      const button = make("button", { type: "button", class: "ictl-cell", "aria-haspopup": "dialog" }, td);
      button.append(svg);
      const [name, words] = [td.dataset.model, svg.getAttribute("aria-label")];
      const label = spec.families[f].labels[spec.families[f].columns.indexOf(name)];
      cells.push({ button, svg, row, family: f, name, label, words: words.slice(words.indexOf(". ") + 2) });
    });
  });

  // ---- numbers at a cell ----
  const tip = make("div", { class: "ictl-tip", "aria-hidden": "true" }, root);
  if ("popover" in tip) tip.popover = "manual"; // above everything, whatever box the page puts around the table
  const hide = () => (tip.hidePopover ? tip.matches(":popover-open") && tip.hidePopover() : tip.classList.remove("ictl-open"));
  const tell = (cell) => {
    tip.textContent = `${cell.row.title}, ${cell.name}. ${cell.words}`;
    if (tip.showPopover) { if (!tip.matches(":popover-open")) tip.showPopover(); } else tip.classList.add("ictl-open");
    const box = cell.button.getBoundingClientRect();
    const below = box.bottom + tip.offsetHeight + 8 < innerHeight;
    tip.style.top = `${below ? box.bottom + 4 : box.top - tip.offsetHeight - 4}px`;
    tip.style.left = `${Math.max(4, Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 4))}px`;
  };
  addEventListener("scroll", hide, { passive: true, capture: true });
  root.addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // ---- the large figure ----
  const dialog = make("dialog", { class: "ictl-large", "aria-labelledby": "__ID__-name" }, root);
  const bar = make("div", { class: "ictl-bar" }, dialog);
  make("p", { class: "ictl-title", id: "__ID__-name" }, bar);
  const [before, after, close] = ["Previous model", "Next model", "Close"].map((text) => make("button", { type: "button", text }, bar));
  const stage = make("div", { class: "ictl-stage", tabindex: "0", role: "group" }, dialog);
  const said = make("output", {}, dialog);
  const key = make("ul", { class: "ictl-key" }, dialog);
  const words = make("p", { class: "ictl-words" }, dialog);
  let now = null; // the cell shown, with its lines or its map, and where the reading is

  const neighbours = () => cells.filter((c) => c.family === now.cell.family && c.row === now.cell.row);
  const go = (by) => {
    const all = neighbours();
    show(all[(all.indexOf(now.cell) + by + all.length) % all.length]);
  };
  const legend = (cell) => {
    key.replaceChildren();
    const entry = (colour, text, style = "") => {
      const item = make("li", {}, key);
      make("i", { style: `background:${colour};${style}` }, item);
      item.append(text);
    };
    const seen = new Map([...cell.svg.querySelectorAll("g")].map((g) => [g.dataset.g, g]));
    for (const [name, g] of seen) entry(g.getAttribute("stroke"), name, { t: "height:1px", w: "opacity:.3;height:8px" }[g.getAttribute("class")]);
    if (cell.svg.querySelector(".r")) entry("#1f2328", "phase change, registered rule", "opacity:.12;height:12px");
    if (cell.svg.querySelector(".q")) entry("#1f2328", "phase change, narrow reading", "opacity:.3;height:12px");
    if (cell.row.kind === "map") {
      const colours = spec.colours[cell.row.key].match(/.{6}/g).map((c) => `#${c}`);
      entry(`linear-gradient(to right, ${colours.filter((_, i) => i % 8 === 0).join()})`,
        `${number(cell.row.colour[0])} to ${number(cell.row.colour[1])}: ${cell.row.unit}`, "width:9em;height:12px");
    }
  };
  const draw = () => {
    const { row, svg } = now.cell;
    const width = Math.max(280, stage.clientWidth);
    const height = Math.max(240, Math.min(460, 0.56 * width));
    const box = { x: 62, y: 10, w: width - 76, h: height - 58 };
    const text = (x, y, words, more) => `<text x="${x}" y="${y}" ${more}>${plain(words)}</text>`;
    const acrossTexts = row.xt.map(([x, t]) => text(box.x + (x / wide) * box.w, box.y + box.h + 18, t, 'text-anchor="middle"'));
    const upTexts = row.yt.map(([y, t]) => text(box.x - 7, box.y + (y / high) * box.h + 4, t, 'text-anchor="end"'));
    const middle = box.y + box.h / 2;
    stage.innerHTML =
      `<svg width="${width}" height="${height}" role="img" aria-label="${plain(now.cell.words)}">` +
      `<svg x="${box.x}" y="${box.y}" width="${box.w}" height="${box.h}" viewBox="0 0 ${wide} ${high}" ` +
      `preserveAspectRatio="none" class="ictl-inner">${svg.innerHTML}</svg>` +
      `<rect x="${box.x}" y="${box.y}" width="${box.w}" height="${box.h}" class="ictl-frame"/>${acrossTexts.join("")}${upTexts.join("")}` +
      text(box.x + box.w / 2, height - 8, row.across, 'text-anchor="middle"') +
      text(0, 0, row.up, `text-anchor="middle" transform="translate(13 ${middle}) rotate(-90)"`) +
      '<circle r="5" class="ictl-dot" visibility="hidden"/></svg>';
    now.box = box;
  };
  const read = () => { // tell the point now.at = [line, snapshot], or [column, row] of a map
    const { row } = now.cell;
    const [a, b] = now.at;
    let x, y, sentence;
    if (now.map) {
      [x, y] = [now.map.left + (a + 0.5) * now.map.dx, now.map.top + (b + 0.5) * now.map.dy];
      const value = number(now.map.value(a, b));
      sentence = `${value} at position ${Math.exp(valueY(row, y)).toFixed(0)} after ${tokens(valueX(row, x))} tokens (${row.unit})`;
    } else {
      const line = now.lines[a];
      [x, y] = line.at[b];
      const at = [valueX(row, x), valueY(row, y)];
      const group = line.group.includes("seed") ? "" : `, ${line.group}`;
      sentence = `${line.name}${group}: ` + (row.kind === "path" ? `components ${number(at[0])} and ${number(at[1])} nats`
        : `${number(at[1])} after ${tokens(at[0])} tokens`);
    }
    const dot = stage.querySelector(".ictl-dot");
    dot.setAttribute("cx", now.box.x + (x / wide) * now.box.w);
    dot.setAttribute("cy", now.box.y + (Math.max(0, Math.min(high, y)) / high) * now.box.h);
    dot.setAttribute("visibility", "visible");
    said.textContent = sentence;
  };
  const clip = (v, n) => Math.max(0, Math.min(n - 1, v));
  const point = (event) => {
    const frame = stage.querySelector(".ictl-frame").getBoundingClientRect();
    const [x, y] = [((event.clientX - frame.left) / frame.width) * wide, ((event.clientY - frame.top) / frame.height) * high];
    if (now.map) now.at = [clip(Math.floor((x - now.map.left) / now.map.dx), now.map.columns), clip(Math.floor((y - now.map.top) / now.map.dy), now.map.rows)];
    else {
      const [sx, sy] = [frame.width / wide, frame.height / high];
      const path = now.cell.row.kind === "path";
      let best = Infinity;
      now.lines.forEach((line, i) => {
        const near = path ? line.at.map((_, k) => k) : [line.at.reduce((b, p, k) => (Math.abs(p[0] - x) < Math.abs(line.at[b][0] - x) ? k : b), 0)];
        for (const k of near) {
          const far = Math.hypot((line.at[k][0] - x) * sx * (path ? 1 : 0.01), (line.at[k][1] - y) * sy);
          if (far < best) [best, now.at] = [far, [i, k]];
        }
      });
    }
    read();
  };
  const step = (event) => {
    const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!move) return;
    event.preventDefault();
    const [down, right] = move;
    if (now.map) now.at = [clip(now.at[0] + right, now.map.columns), clip(now.at[1] + down, now.map.rows)];
    else {
      const line = clip(now.at[0] + down, now.lines.length);
      now.at = [line, clip(now.at[1] + right, now.lines[line].at.length)];
    }
    read();
  };
  const mapOf = async (cell) => { // values of a map, from its colours
    const image = cell.svg.querySelector("image");
    const loaded = new Image();
    loaded.src = image.getAttribute("href");
    await loaded.decode();
    const pen = Object.assign(document.createElement("canvas"), { width: loaded.width, height: loaded.height }).getContext("2d");
    pen.drawImage(loaded, 0, 0);
    const seen = pen.getImageData(0, 0, loaded.width, loaded.height).data;
    const colours = spec.colours[cell.row.key].match(/../g).map((c) => Number.parseInt(c, 16));
    const [low, top] = cell.row.colour;
    const value = (column, line) => {
      const p = 4 * (line * loaded.width + column);
      let [best, at] = [Infinity, 0];
      for (let i = 0; i < colours.length; i += 3) {
        const far = [0, 1, 2].reduce((sum, c) => sum + (colours[i + c] - seen[p + c]) ** 2, 0);
        if (far < best) [best, at] = [far, i / 3];
      }
      return low + ((at + 0.5) / (colours.length / 3)) * (top - low);
    };
    const [w, h] = [Number(image.getAttribute("width")), Number(image.getAttribute("height"))];
    return { columns: loaded.width, rows: loaded.height, left: 0, top: Number(image.getAttribute("y")), dx: w / loaded.width, dy: h / loaded.height, value };
  };
  const show = async (cell) => {
    hide();
    now = { cell, lines: linesOf(cell.svg), map: null };
    if (cell.row.kind === "map") now.map = await mapOf(cell);
    bar.querySelector("p").textContent = `${cell.row.title}: ${cell.label} (${cell.name})`;
    stage.setAttribute("aria-label", `${cell.row.title}, ${cell.name}: arrow keys read the numbers`);
    words.textContent = cell.words;
    said.textContent = "Point at the figure, or use the arrow keys, to read the numbers.";
    legend(cell);
    before.disabled = after.disabled = neighbours().length < 2;
    if (!dialog.open) {
      dialog.showModal();
      stage.focus({ preventScroll: true });
    }
    draw();
    now.at = now.map ? [now.map.columns - 1, 0] : [now.lines.length - 1, now.lines.at(-1).at.length - 1];
  };
  before.addEventListener("click", () => go(-1));
  after.addEventListener("click", () => go(1));
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => now.cell.button.focus());
  stage.addEventListener("pointermove", point);
  stage.addEventListener("pointerdown", point);
  stage.addEventListener("keydown", step);
  addEventListener("resize", () => dialog.open && draw());
  for (const cell of cells) {
    cell.button.addEventListener("click", () => show(cell));
    cell.button.addEventListener("pointerenter", () => tell(cell));
    cell.button.addEventListener("focus", () => cell.button.matches(":focus-visible") && tell(cell));
    cell.button.addEventListener("pointerleave", hide);
    cell.button.addEventListener("blur", hide);
  }

  // ---- download ----
  families.forEach((family, f) => {
    if (!cells.some((c) => c.family === f)) return;
    const button = make("button", { type: "button", class: "ictl-save", text: "Download these curves (CSV)" }, family);
    button.addEventListener("click", () => {
      const rows = cells.filter((c) => c.family === f).flatMap((c) => linesOf(c.svg).flatMap((line) => line.at.map(([x, y]) =>
        [c.name, c.row.key, line.name, Number(valueX(c.row, x).toPrecision(4)), Number(valueY(c.row, y).toPrecision(4))].join())));
      const text = ["model,row,line,x,y", ...rows, ""].join("\n");
      const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: `models-${spec.families[f].key}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  });
})();
