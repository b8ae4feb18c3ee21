// Lines in SVG: a small one without axes, and one with its least and largest values.

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, text = "") {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

export function spark() {
  const svg = element("svg", { viewBox: "0 0 100 20", preserveAspectRatio: "none", "aria-hidden": "true" });
  const line = element("polyline", { class: "line" });
  svg.append(line);
  function draw(values) {
    const most = Math.max(...values, 1e-9);
    const points = values.map((y, i) => `${(100 * i) / Math.max(values.length - 1, 1)},${19 - (18 * y) / most}`);
    line.setAttribute("points", points.join(" "));
  }
  return { svg, draw };
}

const WIDTH = 300, HEIGHT = 110, LEFT = 36, BOTTOM = 14, TOP = 8;
const figure = (value) => (Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3));

// A figure of points [step, value], which is drawn anew when there are more.
export function chart(title) {
  const place = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  place.append(caption, svg);
  place.hidden = true;

  function draw(points, dots) {
    place.hidden = points.length === 0;
    if (!points.length) return;
    const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
    const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const x = (v) => LEFT + ((WIDTH - LEFT - 4) * (v - x0)) / Math.max(x1 - x0, 1);
    const share = (v) => (y1 > y0 ? (v - y0) / (y1 - y0) : 0.5);
    const y = (v) => HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * share(v);
    const last = points[points.length - 1];
    caption.textContent = `${title}: ${figure(last[1])} at step ${last[0]}`;
    svg.setAttribute("aria-label", caption.textContent);
    svg.replaceChildren(
      element("line", { class: "axis", x1: LEFT, x2: WIDTH - 4, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }),
      element("text", { class: "label", x: 0, y: TOP + 4 }, figure(y1)),
      element("text", { class: "label", x: 0, y: HEIGHT - BOTTOM }, y1 > y0 ? figure(y0) : ""),
      element("text", { class: "label", x: LEFT, y: HEIGHT - 2 }, String(x0)),
      element("text", { class: "label", x: WIDTH - 4, y: HEIGHT - 2, "text-anchor": "end" }, String(x1)),
      element("polyline", { class: "line", points: points.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }),
      ...(dots ? points.map((p) => element("circle", { class: "dots", r: 2, cx: x(p[0]), cy: y(p[1]) })) : []),
    );
  }
  return { place, draw };
}

// The means of neighbours, so that a noisy line has no more points than can be seen.
export function thinned(points, most = 150) {
  const size = Math.ceil(points.length / most) || 1;
  const found = [];
  for (let i = 0; i < points.length; i += size) {
    const group = points.slice(i, i + size);
    found.push([group[group.length - 1][0], group.reduce((sum, p) => sum + p[1], 0) / group.length]);
  }
  return found;
}
