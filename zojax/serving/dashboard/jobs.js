// The jobs: how far each is, its curves, what can be done with it, and how a new one begins.

import { follow, getJson, post } from "./api.js";
import { chart, thinned } from "./chart.js";

const SECONDS = 2;
const JOBS = "v1/fine_tuning/jobs";
const DRAW_MS = 300;

const byId = (id) => document.getElementById(id);

function make(name, className, text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

class Row {
  constructor(job, onChange) {
    this.onChange = onChange;
    this.place = make("li");
    this.title = make("h3", "", job.user_provided_suffix || job.id);
    this.told = make("span", "muted");
    const head = make("div", "job-head");
    head.append(this.title, this.told);
    this.bar = make("progress");
    this.error = make("p", "error");
    this.problem = make("p", "error");
    this.buttons = make("div", "buttons");
    this.curves = make("details");
    this.curves.name = "curves"; // one at a time: each is a connection that stays
    this.curves.append(make("summary", "", "Curves"));
    const charts = make("div", "charts");
    this.loss = chart("Training loss");
    this.dev = chart("On held-back rows");
    charts.append(this.loss.place, this.dev.place);
    this.curves.append(charts);
    this.curves.addEventListener("toggle", () => this.toggle());
    this.place.append(head, this.bar, this.error, this.curves, this.buttons, this.problem);
    this.show(job);
  }

  show(job) {
    this.job = job;
    const steps = job.hyperparameters.steps;
    this.bar.max = steps;
    this.bar.value = job.current_step ?? 0;
    this.bar.setAttribute("aria-label", `steps of ${this.title.textContent}`);
    const left = job.estimated_finish ? `, ${wait(job.estimated_finish)} left` : "";
    this.told.textContent = `${job.status}, step ${job.current_step ?? 0} of ${steps}${left}`;
    this.error.textContent = job.error?.message ?? "";
    const can = { queued: ["pause", "cancel"], running: ["pause", "cancel"], paused: ["resume", "cancel"] };
    const wanted = (can[job.status] ?? []).join();
    if (this.buttons.dataset.verbs === wanted) return;
    const hadFocus = this.buttons.contains(document.activeElement);
    this.buttons.dataset.verbs = wanted;
    this.buttons.replaceChildren(
      ...(can[job.status] ?? []).map((verb) => {
        const button = make("button", "plain", verb[0].toUpperCase() + verb.slice(1));
        button.type = "button";
        button.setAttribute("aria-label", `${button.textContent} ${this.title.textContent}`);
        button.addEventListener("click", () => this.act(verb, button));
        return button;
      }),
    );
    if (hadFocus) this.buttons.querySelector("button")?.focus();
  }

  async act(verb, button) {
    button.disabled = true;
    this.problem.textContent = "";
    try {
      this.show(await (await post(`${JOBS}/${this.job.id}/${verb}`)).json());
    } catch (error) {
      this.problem.textContent = error.message;
    }
    button.disabled = false;
    this.onChange();
  }

  async toggle() {
    this.stop?.abort();
    if (!this.curves.open) return;
    this.stop = new AbortController();
    const losses = [], figures = [];
    let metric = "", drawn = 0;
    const draw = () => {
      this.loss.draw(thinned(losses));
      this.dev.draw(figures, true);
      drawn = performance.now();
    };
    try {
      const events = await follow(`${JOBS}/${this.job.id}/events?stream=true`, this.stop.signal);
      for await (const { data } of events) {
        if (!data) continue;
        if (typeof data.loss === "number") losses.push([data.step, data.loss]);
        metric ||= Object.keys(data).find((key) => /^dev_(?!loss|nonfinite)/.test(key)) ?? "";
        if (metric && typeof data[metric] === "number") figures.push([data.step, data[metric]]);
        if (performance.now() - drawn > DRAW_MS) draw();
      }
      draw();
    } catch (error) {
      if (error.name !== "AbortError") this.problem.textContent = error.message;
    }
  }
}

function wait(finish) {
  const seconds = Math.max(0, finish - Date.now() / 1000);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

export function startJobs(onModels) {
  const rows = new Map();
  let known = "", timer = 0;

  async function refresh() {
    clearTimeout(timer);
    try {
      const { data } = await getJson(`${JOBS}?limit=100`);
      byId("jobs-none").hidden = data.length > 0;
      const there = new Set(data.map((job) => job.id));
      for (const [id, row] of rows) {
        if (there.has(id)) continue;
        row.stop?.abort();
        row.place.remove();
        rows.delete(id);
      }
      for (const job of data) {
        if (rows.has(job.id)) rows.get(job.id).show(job);
        else {
          rows.set(job.id, new Row(job, refresh));
          byId("jobs").prepend(rows.get(job.id).place);
        }
      }
      // The newest is the first, as the server lists them.
      data.forEach((job, i) => {
        const place = rows.get(job.id).place;
        if (byId("jobs").children[i] !== place) byId("jobs").insertBefore(place, byId("jobs").children[i] ?? null);
      });
      // Models come with a job's first step, with its checkpoints and with its end.
      const now = data.map((job) => `${job.id}${job.status}${job.current_step}`).join();
      if (now !== known) await onModels();
      known = now;
    } catch {
      // The page's head says that the server is not reachable; the next time comes soon.
    }
    timer = setTimeout(refresh, SECONDS * 1000);
  }

  byId("job-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = event.target.querySelector("button");
    button.disabled = true;
    byId("job-error").textContent = "";
    try {
      await create();
      event.target.reset();
      byId("new-job").open = false;
      byId("new-job").querySelector("summary").focus();
      await refresh();
    } catch (error) {
      byId("job-error").textContent = error.message;
    }
    button.disabled = false;
  });
  refresh();
}

async function create() {
  const form = new FormData();
  form.append("purpose", "fine-tune");
  form.append("file", byId("job-file").files[0]);
  const file = await (await post("v1/files", form)).json();
  const hyperparameters = { estimator: byId("job-estimator").value };
  if (byId("job-steps").value) hyperparameters.steps = Number(byId("job-steps").value);
  if (byId("job-multiplier").value)
    hyperparameters.learning_rate_multiplier = Number(byId("job-multiplier").value);
  const body = {
    model: byId("model").textContent,
    training_file: file.id,
    suffix: byId("job-suffix").value,
    method: { type: "supervised", supervised: { hyperparameters } },
  };
  if (byId("job-prompt").value) body.data = { prompt: byId("job-prompt").value };
  await post(JOBS, body);
}
