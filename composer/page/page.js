"use strict";
const tip = document.getElementById("tip");

function place(x, y) {
  const room = tip.getBoundingClientRect();
  tip.style.left = Math.max(8, Math.min(x + 14, innerWidth - room.width - 8)) + "px";
  tip.style.top = (y + 18 + room.height < innerHeight ? y + 18 : y - room.height - 12) + "px";
}
for (const mark of document.querySelectorAll("[data-tip]")) {
  const tell = (x, y) => { tip.textContent = mark.dataset.tip; tip.hidden = false; place(x, y); };
  mark.addEventListener("pointermove", event => {
    if (event.pointerType === "mouse") tell(event.clientX, event.clientY);
  });
  mark.addEventListener("focus", () => {
    if (!mark.matches(":focus-visible")) return;
    const at = mark.getBoundingClientRect();
    tell(at.right, at.bottom);
  });
  for (const end of ["pointerleave", "blur", "click"]) mark.addEventListener(end, () => { tip.hidden = true; });
}

for (const select of document.querySelectorAll(".choice select")) {
  const section = select.closest("section");
  const others = [...(select.closest(".choices") ?? section).querySelectorAll(".alternative")];
  const choose = () => {
    for (const other of others) other.hidden = other.dataset.name !== select.value;
  };
  select.addEventListener("change", choose);
  // of two runs side by side both show the same
  select.addEventListener("input", () => {
    for (const twin of section.querySelectorAll(".choices select")) {
      const same = [...twin.options].some(option => option.value === select.value);
      if (twin === select || !same || twin.dataset.number !== select.dataset.number) continue;
      twin.value = select.value;
      twin.dispatchEvent(new Event("change"));
    }
  });
  choose();
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
