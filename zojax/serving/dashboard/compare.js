// A prompt against two models, whose texts come side by side.

import { events, getJson, post } from "./api.js";

const byId = (id) => document.getElementById(id);
const SIDES = ["left", "right"];

// Lists the models to choose from, the base model first; what is chosen stays.
export async function listModels() {
  const { data } = await getJson("v1/models");
  const adapters = data.splice(1);
  adapters.sort((a, b) => a.id.localeCompare(b.id, "en", { numeric: true }));
  data.push(...adapters);
  SIDES.forEach((side, i) => {
    const select = byId(side);
    const before = select.value || data[Math.min(i, data.length - 1)].id;
    select.replaceChildren(
      ...data.map((model) => {
        const option = document.createElement("option");
        option.value = option.textContent = model.id;
        return option;
      }),
    );
    select.value = data.some((model) => model.id === before) ? before : data[0].id;
  });
}

async function write(side) {
  const place = byId(`${side}-text`);
  place.textContent = "";
  const answer = await post("v1/completions", {
    model: byId(side).value,
    prompt: byId("prompt").value,
    max_tokens: Number(byId("max-tokens").value),
    temperature: Number(byId("temperature").value),
    seed: 0,
    stream: true,
  });
  for await (const event of events(answer)) {
    if (event.error) throw new Error(event.error.message);
    place.append(event.choices[0]?.text ?? "");
  }
}

export function startCompare() {
  byId("compare-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.target.querySelector("button");
    button.disabled = true;
    byId("compare-error").textContent = "";
    const written = await Promise.allSettled(SIDES.map(write));
    const failed = written.find((one) => one.status === "rejected");
    if (failed) byId("compare-error").textContent = failed.reason.message;
    button.disabled = false;
  });
}
