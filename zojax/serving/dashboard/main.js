// Begins when the server knows who asks.

import { getJson, useKey } from "./api.js";
import { listModels, startCompare } from "./compare.js";
import { startJobs } from "./jobs.js";
import { startMetrics } from "./metrics.js";

const byId = (id) => document.getElementById(id);
const STATES = { ready: "ready", stopping: "stopping", gone: "not reachable" };

function showState(state) {
  byId("state").className = `state ${state === "ready" ? "ready" : "gone"}`;
  if (byId("state").textContent !== STATES[state]) byId("state").textContent = STATES[state];
}

function askForKey() {
  byId("state").textContent = "locked";
  if (!byId("key-form").hidden) byId("key-error").textContent = "The server does not know this key.";
  byId("key-form").hidden = false;
  byId("key").focus();
}

async function begin() {
  let about;
  try {
    about = await getJson("dashboard/about");
    if (!about.is_known) return askForKey();
    await listModels();
  } catch {
    showState("gone");
    setTimeout(begin, 2000);
    return;
  }
  byId("model").textContent = about.model;
  byId("key-form").hidden = true;
  byId("main").hidden = false;
  startMetrics(byId("tiles"), showState);
  if (about.trains) startJobs(listModels);
  else byId("jobs-section").hidden = true;
  startCompare();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value);
  begin();
});
begin();
