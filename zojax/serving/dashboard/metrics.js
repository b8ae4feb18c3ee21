// Reads what /metrics says to Prometheus, and shows it as tiles with the last minutes' course.

import { getText } from "./api.js";
import { spark } from "./chart.js";

const SECONDS = 2;
const KEPT = 60;

const OTHERS = /route="(?!\/v1\/(completions|chat\/completions|score)")/;

// The sums of all samples of each name, without buckets and without routes that answer no text.
export function parse(text) {
  const found = {};
  for (const line of text.split("\n")) {
    const sample = /^(\w+)(\{[^}]*\})? (\S+)$/.exec(line);
    if (sample && !sample[1].endsWith("_bucket") && !OTHERS.test(sample[2] ?? ""))
      found[sample[1]] = (found[sample[1]] ?? 0) + Number(sample[3]);
  }
  return found;
}

const rate = (name) => (now, before, seconds) =>
  Math.max(0, (now[name] ?? 0) - (before[name] ?? 0)) / seconds;
const gauge = (name) => (now) => now[name] ?? 0;

function mean(name) {
  return (now, before) => {
    const count = (now[`${name}_count`] ?? 0) - (before[`${name}_count`] ?? 0);
    const sum = (now[`${name}_sum`] ?? 0) - (before[`${name}_sum`] ?? 0);
    return count > 0 ? sum / count : null;
  };
}

const TILES = [
  ["New tokens/s", rate("zojax_new_tokens_total")],
  ["Prompt tokens/s", rate("zojax_prompt_tokens_total")],
  ["Scored tokens/s", rate("zojax_scored_tokens_total")],
  ["Requests/s", rate("zojax_requests_total")],
  ["First token, s", mean("zojax_time_to_first_token_seconds")],
  ["Between tokens, s", mean("zojax_time_per_output_token_seconds")],
  ["Waiting", gauge("zojax_requests_waiting")],
  ["Running", gauge("zojax_requests_running")],
  ["Adapters in slots", gauge("zojax_adapters_live")],
  ["Training, share of time", rate("zojax_training_seconds_total")],
];

const shown = (value) =>
  value === null ? "–" : value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : String(Number(value.toFixed(2)));

export function startMetrics(place, onState) {
  const tiles = TILES.map(([title, value]) => {
    const tile = document.createElement("div");
    const head = document.createElement("h3");
    const number = document.createElement("p");
    tile.className = "tile";
    head.textContent = title;
    number.textContent = "–";
    const line = spark();
    tile.append(head, number, line.svg);
    place.append(tile);
    return { value, number, line, course: [] };
  });
  let before = null;

  async function tick() {
    try {
      const now = { at: performance.now(), found: parse(await getText("metrics")) };
      if (before) {
        const seconds = (now.at - before.at) / 1000;
        for (const tile of tiles) {
          const value = tile.value(now.found, before.found, seconds);
          tile.number.textContent = shown(value);
          tile.course = [...tile.course, value ?? 0].slice(-KEPT);
          tile.line.draw(tile.course);
        }
      }
      before = now;
      onState("ready");
    } catch (error) {
      onState(error.status === 503 ? "stopping" : "gone");
    }
    setTimeout(tick, SECONDS * 1000);
  }
  tick();
}
