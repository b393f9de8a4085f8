// Learning curves: one SVG in each <figure class="curves">, from the JSON inside that figure:
//   {metric, unit, target, series: [{name, colour, x, mean, low, high}]}; low and high are null where a single run has no band.
// A pointer, or the arrow keys, moves a cursor that reads the curves; the legend takes entries out and puts them back.
"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";

  function draw(parent, name, attributes, text) {
    const element = document.createElementNS(SVG, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  function add(parent, name, className, text) {
    const element = document.createElement(name);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  // --- numbers ---

  const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
  const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });

  function ticks(low, high, about) {
    const rough = (high - low) / about;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough * 0.999);
    const found = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(n * step);
    return { step, found };
  }

  function decimals(step) {
    return Math.min(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)), 12);
  }

  // The value of a line at x, straight between its points; null outside them.
  function at(xs, ys, x) {
    if (!ys || x < xs[0] || x > xs[xs.length - 1]) return null;
    const right = xs.findIndex((each) => each >= x);
    if (xs[right] === x) return ys[right];
    const share = (x - xs[right - 1]) / (xs[right] - xs[right - 1]);
    return ys[right - 1] + share * (ys[right] - ys[right - 1]);
  }

  // What to show of the score: all means and the target, and of the bands no more than half as much again on each
  // side, because a band over two or three runs can be many times as tall as the curves.
  function scoreRange(series, target) {
    const means = series.flatMap((one) => one.mean);
    if (target !== null) means.push(target);
    const [bottom, top] = [Math.min(...means), Math.max(...means)];
    const room = (top - bottom) * 0.5;
    const edges = series.flatMap((one) => (one.low ? [...one.low, ...one.high] : []));
    let low = Math.max(Math.min(bottom, ...edges), bottom - room);
    let high = Math.min(Math.max(top, ...edges), top + room);
    if (high - low < 1e-12) {
      const half = Math.abs(high) * 0.1 || 1;
      low -= half;
      high += half;
    }
    const space = (high - low) * 0.04;
    return [low - space, high + space];
  }

  // Move labels apart, each as near to its own line as the others allow.
  function spread(places, gap, top, bottom) {
    places.sort((a, b) => a.y - b.y);
    for (const place of places) place.at = place.y;
    for (let round = 0; round < 60; round++) {
      for (let i = 1; i < places.length; i++) {
        const overlap = gap - (places[i].at - places[i - 1].at);
        if (overlap > 0) {
          places[i].at += overlap / 2;
          places[i - 1].at -= overlap / 2;
        }
      }
      for (const place of places) place.at = Math.min(Math.max(place.at, top), bottom);
    }
  }

  // --- one figure ---

  function Curves(figure) {
    const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
    for (const one of data.series) {
      one.style = `c${one.colour % 8}${one.colour % 16 > 7 ? " dashed" : ""}`;
      one.shown = true;
    }
    const summary = `${data.metric} against ${data.unit}: ${data.series.map((one) => one.name).join(", ")}`;
    const svg = draw(figure, "svg", { class: "plot", role: "img", tabindex: 0, "aria-label": `Learning curves, ${summary}. Arrow keys read the values.` });
    figure.prepend(svg);
    const tip = add(figure, "div", "tip");
    tip.hidden = true;
    tip.setAttribute("role", "status");
    svg.after(tip);
    const legend = add(figure, "div", "legend");
    legend.setAttribute("role", "group");
    legend.setAttribute("aria-label", "Entries shown");
    tip.after(legend);
    let frame = null; // where things are in the present drawing
    let cursor = null; // index into frame.grid

    for (const one of data.series) {
      const button = add(legend, "button", one.style);
      button.type = "button";
      button.title = `show or hide ${one.name}`;
      button.setAttribute("aria-pressed", "true");
      add(button, "span", "swatch");
      button.append(one.name);
      button.addEventListener("click", () => {
        one.shown = !one.shown;
        button.setAttribute("aria-pressed", String(one.shown));
        plot();
      });
      for (const [event, name] of [["pointerenter", one.name], ["focus", one.name], ["pointerleave", null], ["blur", null]]) {
        button.addEventListener(event, () => emphasise(name));
      }
    }

    function emphasise(name) {
      const known = data.series.some((one) => one.shown && one.name === name);
      for (const group of svg.querySelectorAll("g.entry")) {
        group.classList.toggle("faded", known && group.dataset.name !== name);
      }
    }

    function plot() {
      const width = Math.max(figure.clientWidth, 240);
      const height = Math.round(Math.min(Math.max(width * 0.54, 280), 440));
      const shown = data.series.filter((one) => one.shown);
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      hide();
      if (!shown.length) {
        frame = null;
        draw(svg, "text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "No entry is shown; choose one below.");
        return;
      }
      const [low, high] = scoreRange(shown, data.target);
      const grid = [...new Set(shown.flatMap((one) => one.x))].sort((a, b) => a - b);
      let [first, last] = [grid[0], grid[grid.length - 1]];
      if (first > 0 && first < last * 0.2) first = 0;
      if (first === last) [first, last] = [first - 0.5, last + 0.5];

      const scores = ticks(low, high, Math.max(3, height / 52));
      const digits = decimals(scores.step);
      const measure = (text) => {
        const probe = draw(svg, "text", { class: "label" }, text);
        const long = probe.getComputedTextLength();
        probe.remove();
        return long;
      };
      const named = width >= 620 && shown.length <= 12;
      const right = named ? Math.min(Math.max(...shown.map((one) => measure(one.name))) + 30, width * 0.3) : 14;
      const left = Math.max(...scores.found.map((tick) => measure(tick.toFixed(digits)))) + 12;
      const [top, bottom] = [28, height - 44];
      const x = (value) => left + ((value - first) / (last - first)) * (width - left - right);
      const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - top);
      frame = { grid, shown, x, y, left, top, bottom, width, height, edge: width - right, digits: digits + 2 };

      for (const tick of scores.found) {
        draw(svg, "line", { class: "grid", x1: left, x2: frame.edge, y1: y(tick), y2: y(tick) });
        draw(svg, "text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(digits));
      }
      draw(svg, "line", { class: "axis", x1: left, x2: frame.edge, y1: bottom, y2: bottom });
      const spents = ticks(first, last, Math.max(3, (frame.edge - left) / 90));
      for (const tick of spents.found) {
        draw(svg, "line", { class: "axis", x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 5 });
        draw(svg, "text", { x: x(tick), y: bottom + 19, "text-anchor": "middle" }, last >= 10000 ? compact.format(tick) : String(+tick.toFixed(6)));
      }
      draw(svg, "text", { x: left, y: 13 }, data.metric);
      draw(svg, "text", { x: (left + frame.edge) / 2, y: height - 5, "text-anchor": "middle" }, data.unit);

      const clip = `clip-${Math.random().toString(36).slice(2)}`;
      draw(draw(svg, "clipPath", { id: clip }), "rect", { x: left, y: top - 6, width: frame.edge - left + 6, height: bottom - top + 6 });
      const points = (xs, ys) => xs.map((value, i) => `${x(value).toFixed(1)},${y(ys[i]).toFixed(1)}`);
      const layer = draw(svg, "g", { "clip-path": `url(#${clip})` });
      const group = (parent, one) => draw(parent, "g", { class: `entry ${one.style}`, "data-name": one.name });
      for (const one of shown.filter((each) => each.low)) {
        const outline = [...points(one.x, one.low), ...points(one.x, one.high).reverse()];
        draw(group(layer, one), "polygon", { class: "band", points: outline.join(" ") });
      }
      if (data.target !== null) {
        draw(svg, "line", { class: "target", x1: left, x2: frame.edge, y1: y(data.target), y2: y(data.target) });
        draw(svg, "text", { class: "target-label", x: left + 6, y: y(data.target) - 6 }, `target ${data.target}`);
      }
      for (const one of shown) {
        const lines = group(layer, one);
        if (one.x.length > 1) draw(lines, "polyline", { class: "line", points: points(one.x, one.mean).join(" ") });
        else draw(lines, "circle", { class: "dot", r: 4, cx: x(one.x[0]), cy: y(one.mean[0]) });
      }
      if (named) nameLines(shown, right, group);
      frame.cursor = draw(svg, "g", {});
    }

    function nameLines(shown, right, group) {
      const places = shown.map((one) => ({ one, y: frame.y(one.mean[one.mean.length - 1]) }));
      spread(places, 16, frame.top, frame.bottom - 4);
      for (const { one, y, at } of places) {
        const parent = group(svg, one);
        const end = frame.x(one.x[one.x.length - 1]);
        draw(parent, "path", { class: "leader", d: `M${end + 3},${y} L${frame.edge + 16},${at} h5` });
        const label = draw(parent, "text", { class: "label", x: frame.edge + 25, y: at + 4 }, one.name);
        for (let cut = one.name.length - 1; label.getComputedTextLength() > right - 26 && cut > 3; cut--) {
          label.textContent = `${one.name.slice(0, cut)}…`;
        }
      }
    }

    // --- reading values ---

    function hide() {
      cursor = null;
      tip.hidden = true;
      if (frame) frame.cursor.replaceChildren();
    }

    function read(index) {
      cursor = Math.min(Math.max(index, 0), frame.grid.length - 1);
      const spent = frame.grid[cursor];
      const place = frame.x(spent);
      frame.cursor.replaceChildren();
      draw(frame.cursor, "line", { class: "cursor", x1: place, x2: place, y1: frame.top, y2: frame.bottom });
      const values = frame.shown
        .map((one) => ({ one, score: at(one.x, one.mean, spent), low: at(one.x, one.low, spent), high: at(one.x, one.high, spent) }))
        .filter((value) => value.score !== null)
        .sort((a, b) => b.score - a.score);
      tip.replaceChildren();
      add(tip, "p", "", `${whole.format(spent)} ${data.unit}`);
      const table = add(tip, "table");
      for (const { one, score, low, high } of values) {
        draw(frame.cursor, "circle", { class: `dot ${one.style.split(" ")[0]}`, r: 4.5, cx: place, cy: frame.y(score) });
        const row = add(table, "tr", one.style.split(" ")[0]);
        const name = add(row, "td");
        add(name, "span", "swatch");
        name.append(one.name);
        add(row, "td", "number", score.toFixed(frame.digits));
        add(row, "td", "number", low === null ? "" : `${low.toFixed(frame.digits)} to ${high.toFixed(frame.digits)}`);
      }
      tip.hidden = false;
      const scale = svg.clientWidth / frame.width;
      const beside = place * scale + 14;
      const fits = beside + tip.offsetWidth <= svg.clientWidth;
      tip.style.left = `${Math.max(0, fits ? beside : Math.min(place * scale - tip.offsetWidth - 14, svg.clientWidth - tip.offsetWidth))}px`;
      tip.style.top = `${frame.top * scale + 4}px`;
    }

    function nearest(event) {
      const box = svg.getBoundingClientRect();
      const place = ((event.clientX - box.left) * frame.width) / box.width;
      let best = 0;
      frame.grid.forEach((value, i) => {
        if (Math.abs(frame.x(value) - place) < Math.abs(frame.x(frame.grid[best]) - place)) best = i;
      });
      return best;
    }

    for (const event of ["pointermove", "pointerdown"]) {
      svg.addEventListener(event, (moved) => frame && read(nearest(moved)));
    }
    svg.addEventListener("pointerleave", (left) => left.pointerType === "mouse" && hide());
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (pressed) => {
      if (!frame) return;
      const last = frame.grid.length - 1;
      const next = { ArrowRight: (cursor ?? -1) + 1, ArrowLeft: (cursor ?? last + 1) - 1, Home: 0, End: last }[pressed.key];
      if (pressed.key === "Escape") hide();
      else if (next !== undefined) {
        pressed.preventDefault();
        read(next);
      }
    });

    let drawn = 0;
    new ResizeObserver(() => {
      if (figure.clientWidth !== drawn) {
        drawn = figure.clientWidth;
        plot();
      }
    }).observe(figure);
  }

  addEventListener("DOMContentLoaded", () => document.querySelectorAll("figure.curves").forEach(Curves));
})();
