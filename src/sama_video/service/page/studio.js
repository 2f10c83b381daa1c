// The studio: a form that queues edits, and the list of what was queued. All that matters is kept by the service.

import * as api from "./api.js";
import { wipe } from "./wipe.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = ["Make the colors warmer", "Make it black and white", "Turn it into pixel art", "Change the scene to nighttime", "Remove the car", "Make it a little brighter"];
let clip = null;
let models = [];

// 1. The source: picked or dropped, trimmed, a region drawn on it

function choose(file) {
  clip = file;
  $("drop-text").textContent = file ? file.name : "Drop a video or picture here, or choose one";
  $("stage").hidden = $("trim").hidden = !file;
  $("no-preview").hidden = true;
  for (const id of ["source-video", "source-image"]) {
    URL.revokeObjectURL($(id).src);
    $(id).removeAttribute("src");
    $(id).hidden = true;
  }
  setRegion("");
  if (!file) return;
  const image = file.type.startsWith("image/") && !/gif|webp|apng/.test(file.type);
  const shown = $(file.type.startsWith("image/") ? "source-image" : "source-video");
  shown.onerror = () => {
    $("stage").hidden = $("trim").hidden = true;
    $("no-preview").hidden = false;
  };
  shown.hidden = false;
  $("trim").hidden = image || shown.id === "source-image";
  shown.src = URL.createObjectURL(file);
}

const video = $("source-video");
video.onloadedmetadata = () => {
  for (const id of ["start", "end"]) $(id).max = video.duration;
  $("start").value = 0;
  $("end").value = video.duration;
  showTrim();
};

function clock(seconds) {
  return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
}

function showTrim() {
  $("trim-text").textContent = `${clock(+$("start").value)} to ${clock(+$("end").value)}`;
}

for (const id of ["start", "end"]) {
  $(id).oninput = () => {
    const [start, end] = [+$("start").value, +$("end").value];
    if (end - start < 0.05) $(id).value = id === "start" ? end - 0.05 : start + 0.05;
    video.currentTime = +$(id).value;
    showTrim();
  };
}

function setRegion(text) {
  $("region").value = text;
  showRegion();
}

// The picture inside of its element, which may have bars beside it.
function pictureBounds() {
  const shown = video.hidden ? $("source-image") : video;
  const [width, height] = [shown.videoWidth || shown.naturalWidth, shown.videoHeight || shown.naturalHeight];
  const scale = Math.min(shown.clientWidth / width, shown.clientHeight / height);
  return {
    left: (shown.clientWidth - width * scale) / 2,
    top: (shown.clientHeight - height * scale) / 2,
    width: width * scale,
    height: height * scale,
  };
}

function showRegion() {
  const parts = $("region").value.split(",").map(parseFloat);
  $("box").hidden = parts.length !== 4 || parts.some(Number.isNaN);
  if ($("box").hidden) return;
  const bounds = pictureBounds();
  const [x, y, width, height] = parts.map((part) => part / 100);
  Object.assign($("box").style, {
    left: `${bounds.left + x * bounds.width}px`,
    top: `${bounds.top + y * bounds.height}px`,
    width: `${width * bounds.width}px`,
    height: `${height * bounds.height}px`,
  });
}
$("region").oninput = showRegion;
addEventListener("resize", showRegion);

let drawnFrom = null;
function pointed(event) {
  const outer = $("stage").getBoundingClientRect();
  const bounds = pictureBounds();
  const part = (value, from, length) => Math.min(100, Math.max(0, (100 * (value - from)) / length));
  return [part(event.clientX - outer.left, bounds.left, bounds.width), part(event.clientY - outer.top, bounds.top, bounds.height)];
}
$("stage").onpointerdown = (event) => {
  const controls = !video.hidden && event.clientY > video.getBoundingClientRect().bottom - 60;
  drawnFrom = controls ? null : pointed(event);
};
$("stage").onpointermove = (event) => {
  if (!drawnFrom || !event.buttons) return;
  const to = pointed(event);
  const [x, y] = [0, 1].map((axis) => Math.min(drawnFrom[axis], to[axis]));
  const [width, height] = [0, 1].map((axis) => Math.abs(drawnFrom[axis] - to[axis]));
  if (width > 1 && height > 1) setRegion([x, y, width, height].map((part) => `${part.toFixed(1)}%`).join(","));
};
addEventListener("pointerup", () => (drawnFrom = null));

$("clip").onchange = () => choose($("clip").files[0] || null);
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
}

// 2. The form

let strengthIsSet = false;
$("strength").oninput = () => {
  strengthIsSet = true;
  $("strength-text").textContent = (+$("strength").value).toFixed(2);
};

function setStrength(value) {
  strengthIsSet = value !== undefined;
  $("strength").value = value ?? 1;
  $("strength-text").textContent = strengthIsSet ? value.toFixed(2) : "by the words";
}

function settings() {
  const asked = { seed: +$("seed").value || 0 };
  if ($("steps").value) asked.num_inference_steps = +$("steps").value;
  if (strengthIsSet) asked.strength = +$("strength").value;
  if ($("region").value.trim()) asked.box = $("region").value.trim();
  if (!$("trim").hidden && Number.isFinite(video.duration)) {
    if (+$("start").value > 0) asked.start = +$("start").value;
    if (+$("end").value < video.duration - 0.02) asked.end = +$("end").value;
  }
  return asked;
}

function complain(message) {
  $("problem").hidden = !message;
  $("problem").textContent = message || "";
}

$("edit").onsubmit = async (event) => {
  event.preventDefault();
  complain("");
  if (!clip) {
    complain("Choose a video or picture first.");
    $("clip").focus();
    return;
  }
  const form = new FormData();
  form.append("video", clip, clip.name);
  form.append("prompt", $("prompt").value);
  form.append("settings", JSON.stringify(settings()));
  form.append("seeds", $("seeds").value || "1");
  form.append("suffix", $("suffix").value);
  form.append("model", $("model").value);
  if ($("mask").files[0]) form.append("mask", $("mask").files[0]);
  $("submit").disabled = true;
  try {
    const job = await api.add(form, (part) => ($("submit").textContent = `Sending ${Math.round(100 * part)} %`));
    show(job);
    shownJobs.get(job.id).item.scrollIntoView({ block: "nearest" });
  } catch (error) {
    complain(error.message);
  } finally {
    $("submit").disabled = false;
    $("submit").textContent = "Edit";
  }
};

// 3. Jobs

const shownJobs = new Map(); // id -> { item, job }
const followed = new Map();

// Only what runs is followed, where somebody looks: a browser opens few connections to a server, and this keeps one open.
// How the others are, the list says.
function follow(job) {
  if (followed.has(job.id) || job.state !== "running" || document.hidden) return;
  followed.set(job.id, api.follow(job.id, (changed) => {
    show(changed);
    if (api.hasEnded(changed)) followed.delete(job.id);
  }));
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return refresh();
  for (const events of followed.values()) events.close();
  followed.clear();
});

function timeLeft(job) {
  if (!job.started || job.phase !== "editing" || !job.done || job.done >= job.total) return "";
  const seconds = ((Date.now() / 1000 - job.started) * (job.total - job.done)) / job.done;
  return seconds < 90 ? `, about ${Math.ceil(seconds)} s left` : `, about ${Math.ceil(seconds / 60)} min left`;
}

function stateOf(job) {
  if (job.state === "queued") return "Waiting";
  if (job.state === "failed") return `Failed: ${job.error}`;
  if (job.state === "cancelled") return "Cancelled";
  if (job.state === "done") return `Done in ${Math.max(1, Math.round(job.ended - job.started))} s, ${job.frames} frame${job.frames === 1 ? "" : "s"}`;
  return `${job.phase || "Starting"}${timeLeft(job)}`.replace(/^./, (letter) => letter.toUpperCase());
}

function show(job) {
  let known = shownJobs.get(job.id);
  if (!known) {
    const item = $("job-template").content.firstElementChild.cloneNode(true);
    item.dataset.number = job.number;
    const after = [...$("jobs").children].find((other) => +other.dataset.number < job.number);
    $("jobs").insertBefore(item, after || null);
    known = { item, job: {} };
    shownJobs.set(job.id, known);
  }
  const { item } = known;
  const part = (name) => item.querySelector(name);
  item.className = `job ${job.state}`;
  item.dataset.state = job.state;
  part("h3").textContent = job.request.prompt;
  part(".about").textContent = about(job);
  if (part(".state").textContent !== stateOf(job)) part(".state").textContent = stateOf(job);
  const bar = part("progress");
  bar.hidden = job.state !== "running";
  if (job.total) Object.assign(bar, { max: job.total, value: job.done });
  bar.setAttribute("aria-label", `Progress of ${job.request.prompt}`);
  const preview = part(".preview");
  preview.hidden = !job.preview;
  if (job.preview && known.job.previews !== job.previews) preview.src = `${api.fileOf(job, job.preview)}?n=${job.previews}`;
  if (known.job.state !== job.state) {
    part(".outcome").replaceChildren(...outcome(job));
    part(".notes").replaceChildren(...(job.notes || []).map((note) => text("li", note)));
    part(".actions").replaceChildren(...actions(job));
  }
  known.job = job;
  $("empty").hidden = shownJobs.size > 0;
}

function about(job) {
  const asked = Object.entries(job.request.settings).filter(([name]) => name !== "max_source_pixels");
  const seeds = job.request.seeds > 1 ? [`${job.request.seeds} results`] : [];
  const model = models.length > 1 ? [job.request.model] : [];
  return [`#${job.number}`, job.request.name, ...model, ...asked.map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`), ...seeds].join(" · ");
}

function outcome(job) {
  if (job.state !== "done") return [];
  return job.after.map((name) => wipe(api.fileOf(job, job.before), api.fileOf(job, name), job.request.prompt));
}

function actions(job) {
  const made = [];
  if (job.state === "done") {
    job.results.forEach((name, index) => {
      const label = job.results.length > 1 ? `Download ${index + 1}` : "Download";
      made.push(link(label, `${api.fileOf(job, name)}?download=true`));
    });
    if (job.sheet) made.push(link("All on one sheet", `${api.fileOf(job, job.sheet)}?download=true`));
  }
  if (!api.hasEnded(job)) made.push(button("Cancel", () => api.cancel(job.id).then(show)));
  else {
    made.push(button("Use these settings", () => reuse(job)));
    made.push(button("Again", () => api.retry(job.id).then(show)));
    made.push(button("Remove", () => api.remove(job.id).then(() => forget(job.id))));
  }
  return made;
}

function forget(id) {
  shownJobs.get(id)?.item.remove();
  shownJobs.delete(id);
  $("empty").hidden = shownJobs.size > 0;
  $("history").focus();
}

function reuse(job) {
  const asked = job.request.settings;
  $("prompt").value = job.request.prompt;
  $("seed").value = asked.seed ?? 0;
  $("steps").value = asked.num_inference_steps ?? "";
  $("seeds").value = job.request.seeds;
  $("suffix").value = job.request.suffix;
  if (models.some((model) => model.model === job.request.model)) chooseModel(job.request.model);
  setStrength(asked.strength);
  setRegion(asked.box ?? "");
  $("prompt").focus();
}

function text(kind, content) {
  const made = document.createElement(kind);
  made.textContent = content;
  return made;
}

function link(label, address) {
  const made = text("a", label);
  made.href = address;
  made.className = "button";
  made.download = "";
  return made;
}

function button(label, act) {
  const made = text("button", label);
  made.type = "button";
  made.onclick = () => Promise.resolve(act()).catch((error) => complain(error.message));
  return made;
}

// 4. The service

async function refresh() {
  try {
    const service = await api.service();
    const names = service.models.map((model) => model.model);
    $("service").textContent = names.length ? `Model: ${names.join(", ")}` : "Loading the model …";
    if (names.length && names.join() !== models.map((model) => model.model).join()) offer(service);
    const jobs = await api.jobs();
    for (const job of jobs) {
      if (!followed.has(job.id)) show(job);
      follow(job);
    }
    const known = new Set(jobs.map((job) => job.id));
    const oldest = Math.min(...jobs.map((job) => job.number), Infinity);
    for (const [id, { job }] of shownJobs) if (!known.has(id) && job.number > oldest) forget(id);
  } catch (error) {
    $("service").textContent = error.message;
  }
}

function offer(service) {
  models = service.models;
  $("model").replaceChildren(...models.map((model) => text("option", model.model)));
  $("model-label").hidden = models.length < 2;
  $("suffix").replaceChildren($("suffix").firstElementChild, ...service.suffixes.map((suffix) => text("option", suffix)));
  introduce(models[0]);
}

$("model").onchange = () => introduce(models[$("model").selectedIndex]);

function chooseModel(name) {
  $("model").value = name;
  $("model").onchange();
}

function introduce(model) {
  $("steps").placeholder = `${model.steps}, the model's own`;
  const taught = Object.entries(model.trained_for).filter(([sort]) => sort !== "families");
  $("scope").hidden = !taught.length;
  $("scope-list").replaceChildren(...taught.flatMap(([sort, names]) => [text("dt", sort), text("dd", names.join(", "))]));
  $("examples").replaceChildren(...(taught.length ? EXAMPLES : []).map((example) => button(example, () => {
    $("prompt").value = example;
    $("prompt").focus();
  })));
}

refresh();
setInterval(refresh, 2000);
