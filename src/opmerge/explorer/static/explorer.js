// The page follows its controls: a first answer at once, then that of the whole search. Every view
// is an address; without this script the form shows the same by its button.
"use strict";

const form = document.getElementById("controls");
const status = document.getElementById("status");
const problem = document.getElementById("problem");
const PAUSE = 250; // ms without a change after which the whole search begins

function say(state, words = "") {
  document.body.dataset.state = state;
  status.textContent = words;
}

let wanted = null; // what is to be shown next, while a first answer is on its way
let isFirstUnderWay = false;
let search = null; // the whole search, which the next change breaks off

function query(edit) {
  const told = new URLSearchParams();
  for (const field of form.elements) {
    const isEdit = "edit" in field.dataset;
    if (!field.name || field.type === "submit" || (isEdit && !edit)) continue;
    if (field.type === "radio" && !field.checked) continue;
    if (field.value !== "") told.set(field.name, field.value);
  }
  if (edit) told.set("edit", edit);
  return told;
}

async function ask(told, signal) {
  const began = performance.now();
  const answer = await fetch("view?" + told, { signal });
  const text = await answer.text();
  if (!answer.ok) {
    problem.textContent = text;
    say("refused");
    return null;
  }
  replace(text);
  document.body.dataset.milliseconds = Math.round(performance.now() - began);
  return answer.headers;
}

function replace(text) {
  const made = new DOMParser().parseFromString(text, "text/html");
  const focused = document.activeElement;
  const opened = [...document.querySelectorAll("#shown details")].map((each) => each.open);
  const scrolled = [...document.querySelectorAll(".scroll")].map((each) => each.scrollTop);
  const chosen = document.getElementById("merge")?.value;
  for (const id of ["headline", "shown"]) {
    document.getElementById(id).replaceWith(made.getElementById(id));
  }
  problem.textContent = "";
  document.querySelectorAll("#shown details").forEach((each, place) => {
    if (opened[place] !== undefined) each.open = opened[place];
  });
  document.querySelectorAll(".scroll").forEach((each, place) => (each.scrollTop = scrolled[place] ?? 0));
  const steps = document.querySelector(".figures").dataset.studentSteps;
  if (form.student_steps !== focused) form.student_steps.value = steps;
  choose(chosen);
  fit();
  if (!focused.isConnected) {
    const place = focused.id ? "#" + focused.id : `[name="${focused.name}"][value="${focused.value}"]`;
    (document.querySelector("#shown " + place) ?? document.getElementById("editor-heading"))?.focus();
  }
}

// One first answer at a time, and the latest wish after it; the search when wishes pause.
async function show(told, push) {
  search?.abort();
  wanted = { told, push };
  if (isFirstUnderWay) return;
  isFirstUnderWay = true;
  let headers = null;
  try {
    while (wanted) {
      const now = wanted;
      wanted = null;
      say("asking", "…");
      headers = await ask(new URLSearchParams([...now.told, ["first", "1"]]));
      if (headers && !wanted) keep(headers.get("X-Address"), now.push);
    }
  } catch (error) {
    problem.textContent = "The explorer does not answer: is it still running?";
    say("refused");
  } finally {
    isFirstUnderWay = false;
  }
  if (headers?.get("X-Follows")) refine(headers.get("X-Address"));
  else if (headers) say("whole");
}

async function refine(address) {
  search?.abort();
  const own = (search = new AbortController());
  say("first", "A first look; the search goes on.");
  await new Promise((after) => setTimeout(after, PAUSE));
  if (own.signal.aborted) return;
  try {
    if (await ask(address, own.signal)) say("whole", "The whole search.");
  } catch (error) {
    if (error.name !== "AbortError") say("refused", "The search ended early.");
  }
}

function keep(address, push) {
  const place = address ? "?" + address : location.pathname;
  if (place === (location.search || location.pathname)) return;
  history[push ? "pushState" : "replaceState"](null, "", place);
}

// A slider beside a number: what it says in the words of the field.
function fromSlider(slider) {
  const { low, high, scale, whole } = slider.dataset;
  const share = slider.value / 1000;
  const value = scale === "log" ? low * (high / low) ** share : +low + (high - low) * share;
  if (whole !== undefined) return String(Math.round(value));
  const digits = Number(value.toPrecision(2));
  return digits >= 1e4 ? digits.toExponential().replace("e+", "e") : String(digits);
}

function toSlider(slider) {
  const { low, high, scale } = slider.dataset;
  const value = Number(form[slider.dataset.for].value.replace("eigenvalues:", ""));
  const share = scale === "log" ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low);
  if (Number.isFinite(share)) slider.value = 1000 * share;
  slider.setAttribute("aria-valuetext", form[slider.dataset.for].value);
}

function fit(moved) {
  for (const slider of form.querySelectorAll("input[type=range]")) {
    if (slider !== moved) toSlider(slider);
  }
  const isOne = /^eigenvalues:[^,]+$/.test(form.source.value);
  form.querySelector("[data-lambda]").hidden = !isOne;
  for (const chip of form.querySelectorAll("[data-source]")) {
    const [kind] = chip.dataset.source.split(":");
    chip.setAttribute("aria-pressed", String(form.source.value.split(":")[0] === kind));
  }
  for (const part of form.querySelectorAll("[data-theory]")) {
    part.hidden = part.dataset.theory !== form.elements.theory.value;
  }
}

function choose(value) {
  const select = document.getElementById("merge");
  if (!select) return;
  if (value && [...select.options].some((each) => each.value === value)) select.value = value;
  const { middle, count } = select.selectedOptions[0].dataset;
  if (document.activeElement?.id !== "at") form.elements.at.value = middle;
  if (form.elements.count) form.elements.count.value = count;
  for (const bar of document.querySelectorAll("[data-merge]")) {
    bar.classList.toggle("chosen", bar.dataset.merge === select.value);
  }
}

document.addEventListener("input", (event) => {
  const field = event.target;
  if (field.id === "merge") return choose();
  if (field.form !== form || "edit" in field.dataset) return;
  if (field.dataset.choice) {
    const name = form.elements[field.dataset.choice];
    name.hidden = field.value !== "";
    if (field.value === "") return name.focus();
    name.value = field.value;
  } else if (field.dataset.for) {
    const name = form.elements[field.dataset.for];
    name.value = (name.id === "source" ? "eigenvalues:" : "") + fromSlider(field);
  } else if (["source", "schedule", "law"].includes(field.id)) {
    return; // paths are looked up when they are whole
  }
  reshape(field);
});

document.addEventListener("change", (event) => {
  const field = event.target;
  if (field.form === form && ["source", "schedule", "law"].includes(field.id)) reshape(field, true);
});

// A plan by hand belongs to its steps: other steps, another plan.
function reshape(field, push) {
  const name = field.dataset.for ?? field.name;
  if (["steps", "student_steps", "source", "schedule"].includes(name)) forget();
  if (name === "theory" || name === "budget") form.elements.iterations.value = "";
  fit(field);
  show(query(), push ?? isWhole(field));
}

function isWhole(field) {
  return field.type === "radio" || field.tagName === "SELECT";
}

function forget() {
  form.elements.plan.value = form.elements.iterations.value = "";
  form.elements.free_step.value = "0";
}

document.addEventListener("click", (event) => {
  const { source } = event.target.dataset;
  if (source) {
    form.source.value = source;
    reshape(form.source, true);
  }
  const merge = event.target.dataset.merge;
  if (merge) {
    choose(merge);
    document.getElementById("merge").focus();
  }
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const edit = event.submitter?.name === "edit" ? event.submitter.value : "";
  if (edit === "undo") forget();
  show(query(edit === "undo" ? "" : edit), true);
});

addEventListener("popstate", () => location.reload());

document.documentElement.classList.add("live");
for (const slider of form.querySelectorAll("input[type=range]")) slider.hidden = false;
for (const select of form.querySelectorAll("[data-choice]")) {
  select.hidden = false;
  form.elements[select.dataset.choice].hidden = true;
}
fit();
choose();
if (status.textContent) refine(location.search.slice(1));
else say(problem.textContent ? "refused" : "whole");
