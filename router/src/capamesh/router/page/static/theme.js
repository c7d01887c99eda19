// Light or dark: as the system has it, until somebody chooses.

import { say } from "./dom.js";

function kept() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

/** Have a button change between light and dark; return what it does. */
export function themed(button) {
  function set(wanted) {
    document.documentElement.dataset.theme = wanted;
    say(button, wanted === "dark" ? "Light" : "Dark");
    button.setAttribute("aria-label", `Show the page ${wanted === "dark" ? "light" : "dark"}`);
  }
  function flip() {
    const wanted = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("theme", wanted); } catch { /* it holds until the page is closed */ }
    set(wanted);
  }
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  set(kept() ?? (prefersDark.matches ? "dark" : "light"));
  prefersDark.addEventListener("change", () => { if (!kept()) set(prefersDark.matches ? "dark" : "light"); });
  button.addEventListener("click", flip);
  return flip;
}
