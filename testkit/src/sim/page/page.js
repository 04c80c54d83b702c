// Keeps the page up to date without loading it anew, and sends what the buttons ask for. Only the element <main> is replaced:
// the form and the message about a problem stay.
"use strict";

const PAUSE = 1000; // milliseconds between two looks at the server
let version = null;

// What identifies a link or a button after <main> was replaced.
const target = element => element?.dataset?.post ?? element?.getAttribute?.("href");

async function refresh() {
  // The reader is about to copy something.
  if (!getSelection().isCollapsed) return;
  const headers = version ? { "If-None-Match": version } : {};
  const answer = await fetch(location.href, { headers, cache: "no-store" });
  if (answer.status === 304) return;
  version = answer.headers.get("ETag");
  const main = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("main");
  if (!main) return;
  const old = document.querySelector("main");
  // Sections stay as the reader left them.
  const folded = new Map(Array.from(old.querySelectorAll("details"), section => [section.dataset.section, section.open]));
  for (const section of main.querySelectorAll("details")) {
    section.open = folded.get(section.dataset.section) ?? section.open;
  }
  const active = old.contains(document.activeElement) ? document.activeElement : null;
  const focused = target(active) ?? active?.parentElement.dataset.section;
  const scrolled = old.querySelector(".wide")?.scrollLeft;
  const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 40;
  old.replaceWith(main);
  if (scrolled) main.querySelector(".wide").scrollLeft = scrolled;
  if (focused) {
    const same = element => (target(element) ?? element.parentElement.dataset.section) === focused;
    Array.from(main.querySelectorAll("a, button, summary")).find(same)?.focus({ preventScroll: true });
  }
  if (atEnd && main.querySelector("pre")) scrollTo(0, document.documentElement.scrollHeight);
}

async function send(path, body) {
  const answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const told = await answer.json().catch(() => ({}));
  document.getElementById("problem").textContent = answer.ok ? "" : told.error || `status ${answer.status}`;
  await refresh();
}

document.addEventListener("click", event => {
  const path = event.target.dataset?.post;
  if (path) send(path, {});
});

document.addEventListener("submit", event => {
  event.preventDefault();
  const { path } = event.target.dataset;
  const { name, script } = Object.fromEntries(new FormData(event.target));
  send(path, { name, script: script.split("\n").filter(line => line.trim()) });
});

async function follow() {
  // The server may be restarted meanwhile.
  await refresh().catch(() => {});
  setTimeout(follow, PAUSE);
}
follow();
