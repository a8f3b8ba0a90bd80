// The reference without this is whole; with it, it can be searched, copied from, and shows where one is.
"use strict";

const find = document.getElementById("find");
const none = document.getElementById("none");
const side = document.getElementById("side");
const menu = document.getElementById("menu");
const links = [...side.querySelectorAll("a[data-words]")];
const byName = new Map(links.map((link) => [link.hash.slice(1), link]));

for (const place of document.querySelectorAll(".origin")) place.textContent = location.origin;

function search() {
  const wanted = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const link of links) {
    const hit = wanted.every((word) => link.dataset.words.includes(word));
    link.parentElement.hidden = !hit;
    shown += hit;
  }
  for (const group of side.querySelectorAll("section"))
    group.hidden = !group.querySelector("li:not([hidden])");
  none.hidden = shown > 0;
}

function seen() {
  return links.filter((link) => !link.parentElement.hidden);
}

function show(open) {
  side.classList.toggle("open", open);
  menu.setAttribute("aria-expanded", String(open));
  if (open) find.focus();
}

find.addEventListener("input", search);
menu.addEventListener("click", () => show(!side.classList.contains("open")));
side.addEventListener("click", (event) => event.target.closest("a") && show(false));

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.matches("input, textarea") && !event.metaKey && !event.ctrlKey) {
    event.preventDefault();
    if (getComputedStyle(menu).display !== "none") show(true);
    find.focus();
    find.select();
  } else if (event.key === "Escape") {
    if (document.activeElement === find && find.value) {
      find.value = "";
      search();
    } else if (side.classList.contains("open")) {
      show(false);
      menu.focus();
    }
  } else if (event.key === "Enter" && event.target === find && seen().length) {
    location.hash = seen()[0].hash;
    show(false);
  } else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && side.contains(document.activeElement)) {
    const all = [find, ...seen()];
    const at = all.indexOf(document.activeElement);
    const next = all[at + (event.key === "ArrowDown" ? 1 : -1)];
    if (at >= 0 && next) {
      event.preventDefault();
      next.focus();
    }
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.nextElementSibling.innerText);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.nextElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => (button.textContent = "Copy"), 1500);
});

const onScreen = new Set();
const watch = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) onScreen[entry.isIntersecting ? "add" : "delete"](entry.target);
    const first = [...onScreen].sort((a, b) => a.offsetTop - b.offsetTop)[0];
    for (const link of links) link.removeAttribute("aria-current");
    const link = first && byName.get(first.id);
    if (link) {
      link.setAttribute("aria-current", "true");
      if (!find.value && getComputedStyle(menu).display === "none") {
        const box = link.getBoundingClientRect();
        if (box.top < 80 || box.bottom > innerHeight - 20) side.scrollTop += box.top - innerHeight / 2;
      }
    }
  },
  { rootMargin: "-70px 0px -60% 0px" },
);
for (const article of document.querySelectorAll("article")) watch.observe(article);
